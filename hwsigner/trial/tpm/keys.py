"""Questions on keys: making each kind, and signing with it."""

from __future__ import annotations

from functools import partial

from tpm2_pytss import ESYS_TR, TPM2_ALG, TPM2_RH, TPM2_ST, TPMT_TK_HASHCHECK, TSS2_Exception

from hwsigner.backends.tpm2.errors import OTHER_PARENT, code, is_lost
from hwsigner.backends.tpm2.public_area import read_public_area
from hwsigner.backends.tpm2.srk import ecc_primary
from hwsigner.backends.tpm2.tpm import TPM
from hwsigner.key import HashName
from hwsigner.trial.questions import NotAskedError, Origin, Question, Source
from hwsigner.trial.tpm.chip import TrialChip
from hwsigner.trial.tpm.making import (
    KINDS,
    MESSAGE,
    RESTRICTED,
    TrialKey,
    load,
    loaded,
    new_key,
    parent,
    refusal,
    refused,
    require,
    signs,
    template,
)

_SIGN = Source(Origin.DOCUMENT, "TPM 2.0 Library, part 3, 20.2 TPM2_Sign")
_CREATE = Source(Origin.DOCUMENT, "TPM 2.0 Library, part 3, 12.1 TPM2_Create")
_LOAD = Source(Origin.DOCUMENT, "TPM 2.0 Library, part 3, 12.2 TPM2_Load")
_PAGE = "docs/how-to/tpm.md#what-keys-sign-with"
_HASHES: dict[HashName, int] = {"sha256": TPM2_ALG.SHA256, "sha384": TPM2_ALG.SHA384, "sha512": TPM2_ALG.SHA512}
_RESTRICTED_KIND = "ecc256:ecdsa-sha256:null"


def _sign(chip: TrialChip, *, kind: str, hash: HashName = "sha256") -> str:
    def work(tpm: TPM) -> str:
        if _HASHES[hash] not in chip.capabilities.algorithms:
            raise NotAskedError(f"the TPM has no {hash}")
        with loaded(tpm, chip.key(tpm, kind)) as made:
            return signs(tpm, made, hash)

    return chip.use(work)


def _is_as_asked(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        made = chip.key(tpm, "ecc256").public
        asked = template("ecc256")
        asked.publicArea.unique = made.publicArea.unique
        return "yes" if asked.marshal() == made.marshal() else "no"

    return chip.use(work)


def _fixed_scheme(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        if _HASHES["sha384"] not in chip.capabilities.algorithms:
            raise NotAskedError("the TPM has no sha384")
        with new_key(tpm, template("ecc256:ecdsa-sha256")) as made:
            answer = signs(tpm, made, "sha384")
        return "refuses hash or scheme" if answer in ("TPM_RC_HASH", "TPM_RC_SCHEME") else answer

    return chip.use(work)


def _restricted(chip: TrialChip, *, message: bytes) -> str:
    def work(tpm: TPM) -> str:
        require(tpm, "ecc256")
        with new_key(tpm, template(_RESTRICTED_KIND, RESTRICTED)) as made:
            return signs(tpm, made, message=message)

    return chip.use(work)


def _without_ticket(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        with new_key(tpm, template(_RESTRICTED_KIND, RESTRICTED)) as made:
            scheme = read_public_area(made.key.public.publicArea, "of the trial").scheme("sha256")
            ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
            return refused(lambda: tpm.esys.sign(made.handle, bytes(32), scheme, ticket))

    return chip.use(work)


def _generated(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        _, ticket = tpm.esys.hash(b"\xffTCG and more", TPM2_ALG.SHA256, ESYS_TR.RH_OWNER)
        return "a ticket for it" if bytes(ticket.digest) else "no ticket"

    return chip.use(work)


def _other_parent(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        key = chip.key(tpm, "ecc256")
        other = ecc_primary()
        other.publicArea.unique.ecc.x = other.publicArea.unique.ecc.y = bytes(32)
        with tpm.temporary(lambda: tpm.esys.create_primary(None, other, ESYS_TR.RH_NULL)[0]) as above:
            return _as_others(tpm, above, key)

    return chip.use(work)


def _damaged(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        key = chip.key(tpm, "ecc256")
        private = bytearray(key.private.marshal())
        private[-1] ^= 1
        damaged = TrialKey(type(key.private).unmarshal(bytes(private))[0], key.public)
        with parent(tpm) as above:
            return _as_others(tpm, above, damaged)

    return chip.use(work)


def _as_others(tpm: TPM, above: ESYS_TR, key: TrialKey) -> str:
    """Load a key under a parent that should not take it."""
    try:
        with tpm.temporary(lambda: tpm.esys.load(above, key.private, key.public)):
            return "accepted"
    except TSS2_Exception as error:
        return "refused as another parent's" if code(error) in OTHER_PARENT else refusal(error)


def _same_parent(chip: TrialChip) -> str:
    def name(tpm: TPM) -> bytes:
        with parent(tpm) as above:
            return bytes(tpm.esys.tr_get_name(above))

    return "the same" if chip.use(name) == chip.use(name) else "another one"


def _saved_context(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        key = chip.key(tpm, "ecc256")
        with loaded(tpm, key) as made:
            saved = tpm.esys.context_save(made.handle)
        with tpm.temporary(lambda: tpm.esys.context_load(saved)) as handle:
            return signs(tpm, made._replace(handle=handle))

    return chip.use(work)


def _lost(chip: TrialChip) -> str:
    def work(tpm: TPM) -> str:
        handle = load(tpm, key := chip.key(tpm, "ecc256"))
        scheme = read_public_area(key.public.publicArea, "of the trial").scheme("sha256")
        tpm.flush_handle(int(tpm.esys.tr_get_tpm_handle(handle)))
        try:
            tpm.esys.sign(handle, bytes(32), scheme, None)
        except TSS2_Exception as error:
            return "that it is lost" if is_lost(error) else refusal(error)
        finally:
            tpm.esys.tr_close(handle)
        return "signs"

    return chip.use(work)


def _kind_question(id: str, kind: str) -> Question[TrialChip]:
    text = f"Does a key of {KINDS[kind]} sign SHA-256?"
    return Question(id, text, "signs", _SIGN, (_PAGE, "docs/how-to/keys.md#which-key"), partial(_sign, kind=kind))


QUESTIONS: tuple[Question[TrialChip], ...] = (
    _kind_question("keys.p-256", "ecc256"),
    _kind_question("keys.p-384", "ecc384"),
    _kind_question("keys.p-521", "ecc521"),
    _kind_question("keys.rsa-2048", "rsa2048"),
    _kind_question("keys.rsa-3072", "rsa3072"),
    _kind_question("keys.rsa-4096", "rsa4096"),
    Question(
        "keys.p-256-sha-384",
        "Does a P-256 key without a scheme sign SHA-384?",
        "signs",
        _SIGN,
        (_PAGE,),
        partial(_sign, kind="ecc256", hash="sha384"),
    ),
    Question(
        "keys.rsa-2048-sha-512",
        "Does an RSA-2048 key without a scheme sign SHA-512?",
        "signs",
        _SIGN,
        (_PAGE,),
        partial(_sign, kind="rsa2048", hash="sha512"),
    ),
    Question(
        "keys.as-asked",
        "Is the public area of a new key the one that was asked for, but for the key itself?",
        "yes",
        _CREATE,
        ("hwsigner/backends/tpm2/keygen.py: make",),
        _is_as_asked,
    ),
    Question(
        "keys.fixed-scheme",
        "What does a key with the scheme ECDSA and SHA-256 say to SHA-384?",
        "refuses hash or scheme",
        _SIGN,
        (_PAGE, "hwsigner/backends/tpm2/__init__.py: _sign"),
        _fixed_scheme,
    ),
    Question(
        "keys.restricted",
        "Does a restricted key sign what the TPM hashed?",
        "signs",
        _SIGN,
        (_PAGE, "hwsigner/backends/tpm2/public_area.py: _hash_in_tpm"),
        partial(_restricted, message=MESSAGE),
    ),
    Question(
        "keys.restricted-long",
        "Does a restricted key sign 3,000 bytes that the TPM hashed in a sequence?",
        "signs",
        Source(Origin.DOCUMENT, "TPM 2.0 Library, part 3, 17.5 TPM2_SequenceComplete"),
        (_PAGE, "hwsigner/backends/tpm2/public_area.py: _hash_in_tpm"),
        partial(_restricted, message=MESSAGE.ljust(3000, b".")),
    ),
    Question(
        "keys.restricted-without-ticket",
        "What does a restricted key say to a digest without a ticket?",
        "TPM_RC_TICKET",
        _SIGN,
        (_PAGE,),
        _without_ticket,
    ),
    Question(
        "keys.generated",
        "What does TPM2_Hash give for a message that begins with TPM_GENERATED_VALUE?",
        "no ticket",
        Source(Origin.DOCUMENT, "TPM 2.0 Library, part 3, 15.4 TPM2_Hash"),
        ("hwsigner/backends/tpm2/public_area.py: _hash_in_tpm",),
        _generated,
    ),
    Question(
        "keys.other-parent",
        "What does TPM2_Load say to a key of another parent?",
        "refused as another parent's",
        _LOAD,
        ("docs/how-to/tpm.md#parents", "hwsigner/backends/tpm2/errors.py: OTHER_PARENT"),
        _other_parent,
    ),
    Question(
        "keys.damaged",
        "What does TPM2_Load say to a private area with a changed bit?",
        "refused as another parent's",
        _LOAD,
        ("hwsigner/backends/tpm2/errors.py: OTHER_PARENT",),
        _damaged,
    ),
    Question(
        "keys.same-parent",
        "Is a primary key of the same template the same one again?",
        "the same",
        Source(Origin.DOCUMENT, "TPM 2.0 Library, part 1, 27.2 Primary Object Creation"),
        ("docs/how-to/tpm.md#parents", "hwsigner/backends/tpm2/objects.py: _load_in_hierarchy"),
        _same_parent,
    ),
    Question(
        "keys.saved-context",
        "Does a key sign that was saved, flushed and loaded from its context?",
        "signs",
        Source(Origin.DOCUMENT, "TPM 2.0 Library, part 3, 28.3 TPM2_ContextLoad"),
        ("hwsigner/backends/tpm2/tpm.py: loaded", "docs/how-to/tpm.md#sharing-a-tpm"),
        _saved_context,
    ),
    Question(
        "keys.lost",
        "What does the TPM say to a signature with a key that was flushed meanwhile?",
        "that it is lost",
        Source(Origin.DOCUMENT, "TPM 2.0 Library, part 2, 6.6.3 TPM_RC_REFERENCE_H0"),
        ("hwsigner/backends/tpm2/errors.py: is_lost", "docs/how-to/tpm.md#sharing-a-tpm"),
        _lost,
    ),
)
