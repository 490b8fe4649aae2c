"""All questions to a TPM, in the order in which they are asked.

They can be listed without tpm2-pytss: `ASKS` of the module of each area has what asks them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from hwsigner.trial.questions import NotAskedError, Question, Source, choice, document, observation

if TYPE_CHECKING:
    from hwsigner.trial.tpm.chip import TrialChip

TPMQuestion: TypeAlias = "Question[TrialChip]"
Ask: TypeAlias = "Callable[[TrialChip], str]"
_MODULES = {"owner": "sharing", "room": "sharing"}  # Of the areas that have no module of their name.


class _Row(NamedTuple):
    """The name and the text of a question."""

    id: str
    text: str

    def expects(self, answer: str, source: Source, *rests_on: str) -> TPMQuestion:
        """Return the question."""
        return Question(self.id, self.text, answer, source, rests_on, partial(_ask, self.id))


def _ask(id: str, chip: TrialChip) -> str:
    area = id.partition(".")[0]
    asks: Mapping[str, Ask] = import_module(f"hwsigner.trial.tpm.{_MODULES.get(area, area)}").ASKS
    return asks[id](chip)


def _library(section: str) -> Source:
    return document(f"TPM 2.0 Library, {section}")


def _only_in_a_trial(_: TrialChip) -> str:
    raise NotAskedError("nothing was kept to compare with")


_PROPERTIES = _library("part 2, 6.13 TPM_PT")
_PC_CLIENT = document("PC Client Platform TPM Profile, 4.6")
_SIGN = _library("part 3, 20.2 TPM2_Sign")
_CREATE = _library("part 3, 12.1 TPM2_Create")
_LOAD = _library("part 3, 12.2 TPM2_Load")
_SIGNING_PAGE = "docs/how-to/tpm.md#what-keys-sign-with"
_AUTHORIZATIONS = _library("part 1, 19 Authorizations")
_POLICIES = _library("part 3, 23 Enhanced Authorization (EA) Commands")
_POLICIES_PAGE = "docs/how-to/tpm.md#policies"
_ATTESTATION_PAGE = "docs/how-to/attestation.md#tpm"
_EK_PROFILE = document("TCG EK Credential Profile, 2.2 and B.3")
_ACTIVATE = _library("part 3, 12.5 TPM2_ActivateCredential")
_CERTIFY = _library("part 3, 18.2 TPM2_Certify")
_QUOTE = _library("part 3, 18.4 TPM2_Quote")
_MEMORY = _library("part 1, 30 Context Management")
_SHARING_PAGE = "docs/how-to/tpm.md#sharing-a-tpm"
_EVICT = _library("part 3, 28.5 TPM2_EvictControl")
_DEFINE = _library("part 3, 31.3 TPM2_NV_DefineSpace")
_WRITE = _library("part 3, 31.7 TPM2_NV_Write")
_HANDLES_PAGE = "docs/how-to/tpm.md#a-key-at-a-handle"
_INDICES_PAGE = "docs/how-to/tpm.md#certificates-in-the-tpm"
# Asked last, of what was before the first one.
END: TPMQuestion = Question(
    "end.changed",
    "What has changed in the TPM but its clock?",
    "nothing",
    choice("a TPM in use stays as it is: handles, indices, sessions, the count of wrong auth values"),
    ("docs/how-to/tpm.md",),
    _only_in_a_trial,
)
QUESTIONS: tuple[TPMQuestion, ...] = (
    _Row("basics.family", "Which family does the TPM say it is of?").expects("2.0", _PROPERTIES, "docs/how-to/tpm.md"),
    _Row("basics.vendor", "Is the vendor's ID printable?").expects(
        "yes", document("TCG TPM Vendor ID Registry, 2"), "hwsigner/backends/tpm2/listing.py: _manufacturer"
    ),
    _Row("basics.lockout", "What follows the count of wrong auth values among the properties?").expects(
        "limit and interval",
        _PROPERTIES,
        "hwsigner/backends/tpm2/tpm.py: lockout",
        "docs/how-to/tpm.md#wrong-auth-values",
    ),
    _Row("basics.buffer", "How many bytes does the TPM hash at once?").expects(
        "1,024 or more", _PC_CLIENT, "hwsigner/backends/tpm2/public_area.py: _hash_in_tpm"
    ),
    _Row("basics.objects", "How many objects can be loaded at least?").expects(
        "3 or more", _PC_CLIENT, "docs/how-to/tpm.md#sharing-a-tpm", "hwsigner/backends/tpm2/endorsement.py"
    ),
    _Row("basics.nv-size", "How many bytes has the largest NV index?").expects(
        "2,048 or more",
        _PC_CLIENT,
        "docs/how-to/keys.md#a-tpm-server",
        "hwsigner/backends/tpm2/installing.py: _MAX_BYTES",
    ),
    _Row("basics.nv-buffer", "How many bytes of an NV index are written at once?").expects(
        "512 or more",
        _PC_CLIENT,
        "hwsigner/backends/tpm2/installing.py: _fill",
        "docs/how-to/tpm.md#certificates-in-the-tpm",
    ),
    _Row("basics.test-parms", "What does TPM2_TestParms say to a curve that no TPM has?").expects(
        "refuses a parameter", _library("part 3, 30.3 TPM2_TestParms"), "hwsigner/backends/tpm2/keygen.py: _can_make"
    ),
    _Row("basics.pcrs", "How many PCRs has the bank of SHA-256?").expects(
        "24", _PC_CLIENT, "hwsigner/backends/tpm2/pcrs.py: PCRSelection"
    ),
    _Row("basics.pcrs-at-once", "How many values does TPM2_PCR_Read give of 24 that are asked for?").expects(
        "8", _library("part 2, 10.9.5 TPML_DIGEST"), "hwsigner/backends/tpm2/pcrs.py: values"
    ),
    _Row(
        "basics.pcrs-lacking", "How many values does TPM2_PCR_Read give of a bank without PCRs, whose hash the TPM has?"
    ).expects("0 values", _library("part 3, 22.4 TPM2_PCR_Read"), "hwsigner/backends/tpm2/pcrs.py: values"),
    _Row("basics.policy-lacking", "What does TPM2_PolicyPCR say to such a bank?").expects(
        "TPM_RC_VALUE",
        observation("libtpms: no PCR is selected then, so the digest is another one"),
        "hwsigner/backends/tpm2/policy_commands.py: run",
    ),
    _Row("basics.policy-no-hash", "What does TPM2_PolicyPCR say to PCRs of a hash that the TPM lacks?").expects(
        "TPM_RC_HASH", _library("part 2, 9.27 TPMI_ALG_HASH"), "hwsigner/backends/tpm2/policy_commands.py: run"
    ),
    _Row("basics.no-handle", "What does the TPM say of a persistent handle without an object?").expects(
        "TPM_RC_HANDLE",
        _library("part 3, 5.4 Handle Area Validation"),
        "hwsigner/backends/tpm2/handles.py: name_at",
        "hwsigner/backends/tpm2/objects.py: PersistentObject",
    ),
    _Row("basics.no-index", "What does the TPM say of an NV index that is not defined?").expects(
        "TPM_RC_HANDLE", _library("part 3, 5.4 Handle Area Validation"), "hwsigner/backends/tpm2/nv.py: open_index"
    ),
    *(
        _Row(f"keys.{kind.lower()}", f"Does a key of {kind} sign SHA-256?").expects(
            "signs", _SIGN, _SIGNING_PAGE, "docs/how-to/keys.md#which-key"
        )
        for kind in ("P-256", "P-384", "P-521", "RSA-2048", "RSA-3072", "RSA-4096")
    ),
    _Row("keys.p-256-sha-384", "Does a P-256 key without a scheme sign SHA-384?").expects(
        "signs", _SIGN, _SIGNING_PAGE
    ),
    _Row("keys.rsa-2048-sha-512", "Does an RSA-2048 key without a scheme sign SHA-512?").expects(
        "signs", _SIGN, _SIGNING_PAGE
    ),
    _Row(
        "keys.as-asked", "Is the public area of a new key the one that was asked for, but for the key itself?"
    ).expects("yes", _CREATE, "hwsigner/backends/tpm2/keygen.py: make"),
    _Row("keys.fixed-scheme", "What does a key with the scheme ECDSA and SHA-256 say to SHA-384?").expects(
        "refuses hash or scheme", _SIGN, _SIGNING_PAGE, "hwsigner/backends/tpm2/__init__.py: _sign"
    ),
    _Row("keys.restricted", "Does a restricted key sign what the TPM hashed?").expects(
        "signs", _SIGN, _SIGNING_PAGE, "hwsigner/backends/tpm2/public_area.py: _hash_in_tpm"
    ),
    _Row("keys.restricted-long", "Does a restricted key sign 3,000 bytes that the TPM hashed in a sequence?").expects(
        "signs",
        _library("part 3, 17.5 TPM2_SequenceComplete"),
        _SIGNING_PAGE,
        "hwsigner/backends/tpm2/public_area.py: _hash_in_tpm",
    ),
    _Row("keys.restricted-without-ticket", "What does a restricted key say to a digest without a ticket?").expects(
        "TPM_RC_TICKET", _SIGN, _SIGNING_PAGE
    ),
    _Row("keys.generated", "What does TPM2_Hash give for a message that begins with TPM_GENERATED_VALUE?").expects(
        "no ticket", _library("part 3, 15.4 TPM2_Hash"), "hwsigner/backends/tpm2/public_area.py: _hash_in_tpm"
    ),
    _Row("keys.other-parent", "What does TPM2_Load say to a key of another parent?").expects(
        "refused as another parent's",
        _LOAD,
        "docs/how-to/tpm.md#parents",
        "hwsigner/backends/tpm2/errors.py: OTHER_PARENT",
    ),
    _Row("keys.damaged", "What does TPM2_Load say to a private area with a changed bit?").expects(
        "refused as another parent's", _LOAD, "hwsigner/backends/tpm2/errors.py: OTHER_PARENT"
    ),
    _Row("keys.same-parent", "Is a primary key of the same template the same one again?").expects(
        "the same",
        _library("part 1, 27.2 Primary Object Creation"),
        "docs/how-to/tpm.md#parents",
        "hwsigner/backends/tpm2/objects.py: _load_in_hierarchy",
    ),
    _Row("keys.saved-context", "Does a key sign that was saved, flushed and loaded from its context?").expects(
        "signs",
        _library("part 3, 28.3 TPM2_ContextLoad"),
        "hwsigner/backends/tpm2/tpm.py: loaded",
        "docs/how-to/tpm.md#sharing-a-tpm",
    ),
    _Row("keys.lost", "What does the TPM say to a signature with a key that was flushed meanwhile?").expects(
        "that it is lost",
        _library("part 2, 6.6.3 TPM_RC_REFERENCE_H0"),
        "hwsigner/backends/tpm2/errors.py: is_lost",
        "docs/how-to/tpm.md#sharing-a-tpm",
    ),
    _Row("auth.password", "Does a key with an auth value sign if it is sent as a password?").expects(
        "signs", _AUTHORIZATIONS, "docs/how-to/tpm.md#on-the-bus", "hwsigner/backends/tpm2/tpm.py: authorize"
    ),
    _Row("auth.session", "Does it sign in a salted HMAC session that encrypts by AES-128 in CFB mode?").expects(
        "signs", _AUTHORIZATIONS, "docs/how-to/tpm.md#on-the-bus", "hwsigner/backends/tpm2/tpm.py: _start_session"
    ),
    _Row("auth.wrong", "What does a key with noDA say to a wrong auth value?").expects(
        "TPM_RC_BAD_AUTH, not counted",
        _library("part 1, 19.8 Dictionary Attack Protection"),
        "docs/how-to/tpm.md#wrong-auth-values",
        "hwsigner/backends/tpm2/auth.py",
        "docs/how-to/keys.md",
    ),
    _Row("auth.trailing-zero", "Is an auth value the same without the zero byte at its end?").expects(
        "signs", _library("part 1, 19.6.4.3 Authorization Values"), "hwsigner/backends/tpm2/keygen.py: _new_pin"
    ),
    _Row(
        "auth.longest", "What does TPM2_Create say to an auth value of 32 bytes, for a key whose Name is of SHA-256?"
    ).expects(
        "accepted",
        _CREATE,
        "hwsigner/backends/tpm2/keygen.py: _new_pin",
        "docs/how-to/keys.md#what-protects-a-key-in-a-tpm",
    ),
    _Row("policies.pcrs", "Does a key of PolicyPCR sign while the PCRs have their values?").expects(
        "signs", _POLICIES, _POLICIES_PAGE, "hwsigner/backends/tpm2/pcrs.py: policy"
    ),
    _Row("policies.pcrs-and-auth", "Does a key of PolicyPCR and PolicyAuthValue sign with its auth value?").expects(
        "signs", _POLICIES, _POLICIES_PAGE
    ),
    _Row("policies.or", "Does a key of PolicyOR sign if one branch is satisfied?").expects(
        "signs", _POLICIES, _POLICIES_PAGE, "hwsigner/backends/tpm2/policy_commands.py: PolicyOR"
    ),
    _Row("policies.auth-value", "Does a key of PolicyAuthValue sign with its auth value?").expects(
        "signs", _POLICIES, _POLICIES_PAGE, "hwsigner/backends/tpm2/policy.py: session"
    ),
    _Row("policies.digest", "Which digest has a session after PolicyPCR, PolicyOR and PolicyAuthValue?").expects(
        "the computed one", _POLICIES, "hwsigner/backends/tpm2/policy_commands.py: extended"
    ),
    _Row("policies.other-pcrs", "Is PolicyPCR satisfied with another digest than the PCRs'?").expects(
        "not satisfied", _POLICIES, _POLICIES_PAGE, "hwsigner/backends/tpm2/policy_commands.py: run"
    ),
    _Row("policies.other-branches", "Is PolicyOR satisfied if no branch is?").expects(
        "not satisfied", _POLICIES, _POLICIES_PAGE, "hwsigner/backends/tpm2/policy_commands.py: run"
    ),
    _Row(
        "policies.unsatisfied", "What does a key of PolicyPCR say to a policy session in which nothing was shown?"
    ).expects("TPM_RC_POLICY_FAIL", _POLICIES, "hwsigner/backends/tpm2/policy.py: session"),
    _Row(
        "policies.without-session", "What does a key of PolicyPCR without userWithAuth say to its auth value alone?"
    ).expects(
        "TPM_RC_AUTH_UNAVAILABLE",
        _library("part 2, 8.3 TPMA_OBJECT, userWithAuth"),
        "docs/how-to/keys.md#what-protects-a-key-in-a-tpm",
        "hwsigner/backends/tpm2/keygen.py: _template",
    ),
    _Row("policies.user-with-auth", "Does a key of PolicyPCR with userWithAuth sign by its auth value alone?").expects(
        "signs", _library("part 2, 8.3 TPMA_OBJECT, userWithAuth"), "hwsigner/backends/tpm2/keygen.py: _template"
    ),
    _Row(
        "endorsement.same-key", "Is the attestation key, made of the endorsement hierarchy's seed, the same one again?"
    ).expects(
        "the same",
        _library("part 1, 27.2 Primary Object Creation"),
        _ATTESTATION_PAGE,
        "hwsigner/backends/tpm2/endorsement.py: attestation_key",
    ),
    _Row("endorsement.certificate", "Which key has the certificate in the TPM?").expects(
        "that key", _EK_PROFILE, _ATTESTATION_PAGE, "hwsigner/backends/tpm2/endorsement.py: endorsement_key"
    ),
    _Row(
        "endorsement.activate", "What does the TPM do with a secret for its endorsement key and attestation key?"
    ).expects("opens it", _ACTIVATE, _ATTESTATION_PAGE, "hwsigner/attestation/credential.py: make_credential"),
    _Row("endorsement.activate-other", "What does it do with a secret for another attestation key?").expects(
        "refuses", _ACTIVATE, _ATTESTATION_PAGE, "hwsigner/backends/tpm2/endorsement.py: open_challenge"
    ),
    _Row("endorsement.certify", "Does the attestation key certify a key, over a number of ours?").expects(
        "certifies it", _CERTIFY, _ATTESTATION_PAGE, "hwsigner/attestation/structures.py: read_certified"
    ),
    _Row(
        "endorsement.certify-admin", "What does TPM2_Certify say to a key with adminWithPolicy and no session for that?"
    ).expects("TPM_RC_AUTH_TYPE", _CERTIFY, "hwsigner/backends/tpm2/attest.py: _check_certifiable"),
    _Row("endorsement.quote", "Of what is the quote of PCRs?").expects(
        "their digest", _QUOTE, _ATTESTATION_PAGE, "hwsigner/attestation/structures.py: read_quoted"
    ),
    _Row("endorsement.chain", "Where does the endorsement key's certificate lead?").expects(
        "to a root", _EK_PROFILE, "docs/how-to/attestation.md#tpm", "hwsigner/attestation/tpm2.py: examine"
    ),
    _Row("endorsement.whole", "What does a statement, a challenge and the answer to it show of a key?").expects(
        "proven", _ACTIVATE, _ATTESTATION_PAGE, "hwsigner/attestation/tpm2.py: verify"
    ),
    _Row("owner.key-file", "Does a key file under the owner's primary key sign through hwsigner?").expects(
        "signs",
        document("draft-bottomley-tpm2-keys, 3.1.8 parent"),
        "docs/how-to/tpm.md#key-files",
        "hwsigner/backends/tpm2/keygen.py: _owner_primary",
    ),
    _Row("owner.same-key", "Is the owner's primary key of the draft's template the same one again?").expects(
        "the same",
        _library("part 1, 27.2 Primary Object Creation"),
        "docs/how-to/tpm.md#parents",
        "docs/how-to/tpm.md#the-storage-root-key",
    ),
    _Row("owner.provisioned", "What is at the handle 0x81000001?").expects(
        "a storage key",
        document("TCG TPM v2.0 Provisioning Guidance, 7.5.1"),
        "docs/how-to/tpm.md#the-storage-root-key",
        "hwsigner/backends/tpm2/srk.py: PROVISIONED",
    ),
    _Row("room.objects", "What does a TPM without a resource manager say when no place for an object is free?").expects(
        "TPM_RC_OBJECT_MEMORY", _MEMORY, _SHARING_PAGE, "hwsigner/backends/tpm2/errors.py: OBJECT_MEMORY"
    ),
    _Row("room.after", "Does a key sign once the places are free again?").expects("signs", _MEMORY, _SHARING_PAGE),
    _Row(
        "room.sessions", "What does a TPM without a resource manager say when no place for a session is free?"
    ).expects("that no session is free", _MEMORY, _SHARING_PAGE, "hwsigner/backends/tpm2/errors.py: SESSIONS_FULL"),
    _Row("room.managed", "Which of six keys sign that are loaded at once behind a resource manager?").expects(
        "all sign",
        document("TCG TSS 2.0 TAB and Resource Manager, 3"),
        _SHARING_PAGE,
        "hwsigner/backends/tpm2/tpm.py: loaded",
    ),
    _Row(
        "room.managed-sessions",
        "What is said to three sessions at once, as many as hwsigner has, behind a resource manager?",
    ).expects(
        "nothing", document("TCG TSS 2.0 TAB and Resource Manager, 3"), _SHARING_PAGE, "docs/how-to/tpm.md#on-the-bus"
    ),
    _Row("sharing.second-process", "Which processes sign if two use the TPM by turns?").expects(
        "all sign",
        choice("the processes of a user take turns by a lock file, or a resource manager shares it out"),
        _SHARING_PAGE,
        "hwsigner/backends/tpm2/connection.py: ProcessLock",
    ),
    _Row(
        "sharing.reconnected", "Does a key sign that was made before the connection was closed and opened again?"
    ).expects("signs", _MEMORY, _SHARING_PAGE, "hwsigner/backends/tpm2/connection.py: TPMConnection"),
    _Row(
        "sharing.stays", "What is with a loaded key when its connection is closed, without a resource manager?"
    ).expects("stays", _MEMORY, _SHARING_PAGE, "hwsigner/backends/tpm2/connection.py"),
    _Row("writing.persistent", "Does a key at a persistent handle sign?").expects(
        "signs", _EVICT, _HANDLES_PAGE, "hwsigner/backends/tpm2/handles.py: persist"
    ),
    _Row("writing.taken", "What does TPM2_EvictControl say if there is a key at the handle?").expects(
        "TPM_RC_NV_DEFINED", _EVICT, _HANDLES_PAGE, "hwsigner/backends/tpm2/handles.py: persist"
    ),
    _Row("writing.removed", "What does the TPM say of the handle once the key is removed?").expects(
        "TPM_RC_HANDLE", _EVICT, _HANDLES_PAGE, "hwsigner/backends/tpm2/handles.py: remove"
    ),
    _Row(
        "writing.index", "What is read, without an auth value, of an NV index of 1,024 bytes that the owner wrote?"
    ).expects(
        "what was written",
        _WRITE,
        _INDICES_PAGE,
        "hwsigner/backends/tpm2/installing.py",
        "hwsigner/backends/tpm2/nv.py: read_index",
    ),
    _Row("writing.index-2048", "What is read of one of 2,048 bytes?").expects(
        "what was written",
        _DEFINE,
        _INDICES_PAGE,
        "docs/how-to/keys.md#a-tpm-server",
        "hwsigner/backends/tpm2/installing.py: _MAX_BYTES",
    ),
    _Row("writing.index-twice", "What does TPM2_NV_DefineSpace say if there is such an index?").expects(
        "TPM_RC_NV_DEFINED", _DEFINE, _INDICES_PAGE
    ),
    _Row("writing.index-removed", "What does the TPM say of an index once it is removed?").expects(
        "TPM_RC_HANDLE", _DEFINE, _INDICES_PAGE, "hwsigner/backends/tpm2/installing.py: remove_index"
    ),
)
