"""A key's life on a token: made in it, certified, described and deleted; judged by pkcs11-tool, p11tool and OpenSSL."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

import certs
import judges
from any_module import delete_key, describe_key, find_certificates, generate_key, install_certificate, open_key
from backends.contract import ENVIRONMENT, openssl_verifies
from backends.pkcs11.tokens import key_uri, p11tool, plain_ids, remove_tokens, run, tool
from emulators import InProcessSoftHSM
from hwsigner._identity import IdentitySource, open_identity
from hwsigner._system import notices
from hwsigner._system.environment import open_lock_file
from hwsigner._system.files import lock_within
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11 import keygen, writing
from hwsigner.backends.pkcs11.functions import Attribute, Functions, MechanismInfo
from hwsigner.backends.pkcs11.writing import KeyPair, WritingSession
from hwsigner.errors import (
    AmbiguousKeyError,
    BackendUnavailableError,
    HwsignerWarning,
    KeyMismatchError,
    KeyNotFoundError,
    PinRequiredError,
    SigningKeyError,
    UnsupportedKeyError,
    UsageError,
    WrongPinError,
)
from hwsigner.key import FoundCertificate
from hwsigner.key.management import KeyAlgorithm, KeyDescription, KeyRequest
from pkcs11_shim import COPY_OBJECT, CREATE_OBJECT, DESTROY_OBJECT, GENERATE_KEY_PAIR, LOGIN, Person, Shim
from softhsm.token import SoftHSM
from softhsm.yubikey import OPENSC, YubiKey

ROOT = Path(__file__).parents[3]
CA = certs.make_ca()
INTERMEDIATE = certs.make_ca("Example Issuing CA", CA)
PRIVATE_KEY = 3
DEVICE_MEMORY, SESSION_READ_ONLY, FUNCTION_NOT_SUPPORTED, CURVE_NOT_SUPPORTED = 0x31, 0xB5, 0x54, 0x140
ACTION_PROHIBITED = 0x1B
SIGNATURE = 0x9C
KEYPAD = 0x100
EC_KEY_PAIR_GEN, RSA_KEY_PAIR_GEN, MLDSA_KEY_PAIR_GEN = 0x1040, 0, 0x1C


# Does what the last line says, and dies before a call of a method.
KILLED = """
import os, signal, sys
from hwsigner.backends.pkcs11.writing import KeyPair, WritingSession
from hwsigner.key import FoundCertificate
from hwsigner.key.management import delete_key, generate_key, install_certificate
uri, method, spared, action, *chain = sys.argv[1:]
chain = [FoundCertificate(bytes.fromhex(one), "") for one in chain]
call, calls = getattr(WritingSession, method), []
def counted(*arguments):
    if len(calls) == int(spared):
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(1)
    return call(*arguments)
setattr(WritingSession, method, counted)
eval(action)
"""
READ_OR_COPY = """
import sys, pkcs11
from pkcs11 import Attribute
weaker = {Attribute.EXTRACTABLE: True}, {Attribute.SENSITIVE: False}, {Attribute.MODIFIABLE: True}
with pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2]).open(rw=True, user_pin="1234") as session:
    key = session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, label=sys.argv[3])
    for attempt in (lambda: key[Attribute.PRIVATE_EXPONENT], *(lambda one=one: key.copy(one) for one in weaker)):
        try:
            print(attempt())
        except pkcs11.PKCS11Error as error:
            print(type(error).__name__)
"""


READ_CERTIFICATE = """
import sys, pkcs11
from pkcs11 import Attribute
with pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2]).open() as session:
    names = {Attribute.CLASS: pkcs11.ObjectClass.CERTIFICATE, Attribute.LABEL: sys.argv[3]}
    (one,) = session.get_objects(names)
    print(*(one[name].hex() for name in (Attribute.SERIAL_NUMBER, Attribute.ISSUER, Attribute.SUBJECT)))
    print(one[Attribute.PRIVATE])
"""


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> Iterator[InProcessSoftHSM]:
    """A token for the keys of these tests, and another one."""
    token = softhsm.label
    softhsm.add_token("neighbour")
    softhsm.label = token
    yield softhsm
    remove_tokens(softhsm, token, "neighbour")


def uri_of(hsm: InProcessSoftHSM, attributes: str) -> str:
    return key_uri(hsm.module, attributes, token=hsm.label)


def objects(hsm: SoftHSM, label: str, token: str = "") -> list[str]:
    """Return the objects with a label as pkcs11-tool shows them, each in one text."""
    shown = re.split(r"\n(?=\S)", plain_ids(tool(hsm, token or hsm.label, "--list-objects")))
    return [one for one in shown if re.search(rf"label: +{re.escape(label)}$", one, re.MULTILINE)]


def refused(hsm: InProcessSoftHSM, *arguments: str) -> str:
    """Return what pkcs11-tool prints on stderr, logged in."""
    command = [
        "pkcs11-tool",
        "--module",
        hsm.module,
        "--token-label",
        hsm.label,
        "--login",
        "--pin",
        "1234",
        *arguments,
    ]
    done = subprocess.run(command, env={**ENVIRONMENT, **hsm.env}, capture_output=True, text=True, check=False)
    return done.stderr


def kill_before(hsm: InProcessSoftHSM, uri: str, call: str, spared: int, action: str, *chain: FoundCertificate) -> None:
    """Do something in another process, and kill that before it calls a method of the session once more."""
    certificates = [one.der.hex() for one in chain]
    command = [sys.executable, "-c", KILLED, uri, call, str(spared), action, *certificates]
    done = subprocess.run(command, env={**ENVIRONMENT, **hsm.env, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL


def agree(lines: Sequence[str]) -> None:
    """Let everything be deleted."""
    assert lines


def refuse(lines: Sequence[str]) -> NoReturn:
    raise UsageError(" / ".join(lines))


def new_key(hsm: InProcessSoftHSM, label: str) -> KeyDescription:
    return generate_key(uri_of(hsm, f"object={label}"), pin="1234")


def chain_for(key: KeyDescription, *issuers: certs.Authority) -> list[FoundCertificate]:
    """Return a new leaf for a key, issued by the first of some CAs, or by the root; then their certificates."""
    assert key.public_key is not None
    leaf = certs.issue(issuers[0] if issuers else CA, key.public_key)
    certificates = [leaf, *(issuer.certificate for issuer in issuers)]
    return [FoundCertificate(one.public_bytes(Encoding.DER), "a file") for one in certificates]


def ders(hsm: InProcessSoftHSM, label: str) -> list[bytes]:
    return [one.der for one in find_certificates(uri_of(hsm, f"object={label};type=cert"))]


def expected_id(public_key: bytes) -> bytes:
    """Return the SHA-1 of an EC point or an RSA modulus."""
    key = load_der_public_key(public_key)
    if isinstance(key, rsa.RSAPublicKey):
        return hashlib.sha1(key.public_numbers().n.to_bytes(key.key_size // 8)).digest()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return hashlib.sha1(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)).digest()


# Making a key


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048", "rsa3072"])
def test_new_key_signs_and_cannot_leave(hsm: InProcessSoftHSM, kind: KeyAlgorithm, tmp_path: Path) -> None:
    made = generate_key(uri_of(hsm, f"object=new-{kind}"), KeyRequest(kind), "1234")
    assert made.public_key is not None
    with open_key(made.uri, "1234") as key:
        assert key.public_key() == made.public_key
        assert openssl_verifies(tmp_path, made.public_key, key.sign(b"message"), b"message", "sha256")
    private, public = sorted(objects(hsm, f"new-{kind}"))
    for one in (private, public):
        assert f"ID:         {expected_id(made.public_key).hex()}" in one
    assert "Usage:      sign\n" in private
    assert "Access:     sensitive, always sensitive, never extractable, local" in private
    assert re.search("Usage: .* verify", public)
    assert "wrap" not in public


@judges.needs_openssl_3_5
@pytest.mark.parametrize("names", ["object=lattice", "object=lattice;id=%79"])
@pytest.mark.parametrize("size", [44, 65, 87])
def test_new_ml_dsa_key_signs_and_is_read_back(shim: Shim, size: int, names: str) -> None:
    seed = hashlib.sha256(b"%d" % size).digest()
    shim.become_mldsa(f"ML-DSA-{size}", seed)
    public = getattr(mldsa, f"MLDSA{size}PrivateKey").from_seed_bytes(seed).public_key()
    uri = shim.uri().replace("object=P-256", names)
    made = generate_key(uri, KeyRequest(f"mldsa{size}"), "1234")  # type: ignore[arg-type]
    assert made.public_key == public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert made.properties["id"] == ("79" if "id" in names else hashlib.sha1(public.public_bytes_raw()).hexdigest())
    assert "neverExtractable" in made.properties
    with open_key(made.uri, "1234") as key:
        public.verify(key.sign(b"message"), b"message")
    assert describe_key(made.uri, "1234") == made
    assert len(delete_key(made.uri, agree, "1234")) == 2


@judges.needs_openssl_3_5
def test_parameter_set_that_a_token_lacks_is_unsupported(shim: Shim) -> None:
    shim.become_mldsa("ML-DSA-44", bytes(32))
    with pytest.raises(UnsupportedKeyError, match=r"can't make such a key: it does not have this parameter set"):
        generate_key(shim.uri("new"), KeyRequest("mldsa87"), "1234")
    assert objects(shim.hsm, "new", "one") == []


@judges.needs_openssl_3_5
@pytest.mark.parametrize("asked", ["mldsa65", "p256"])
def test_key_of_another_parameter_set_is_removed_again(
    shim: Shim, asked: KeyAlgorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim.become_mldsa("ML-DSA-44", bytes(32))
    kinds = {"mldsa65": "mldsa44", "p256": "p256"}  # The second: every EC key appears as ML-DSA.
    instead = keygen.KeyKind.of(kinds[asked])  # type: ignore[arg-type]
    generate = WritingSession.generate_key_pair

    def generate_another(session: WritingSession, _: int, public: Any, private: Any) -> KeyPair:
        return generate(session, instead.mechanism, {**public, **instead.size}, private)

    monkeypatch.setattr(WritingSession, "generate_key_pair", generate_another)
    with pytest.raises(SigningKeyError, match=r"not as asked \((CKA_KEY_TYPE, )?its size\), so it was removed again"):
        generate_key(shim.uri("other"), KeyRequest(asked), "1234")
    assert objects(shim.hsm, "other", "one") == []


@judges.needs_opensc
def test_private_half_of_a_new_key_cannot_be_read_wrapped_copied_or_changed(
    hsm: InProcessSoftHSM, tmp_path: Path
) -> None:
    made = generate_key(uri_of(hsm, "object=kept"), KeyRequest("rsa2048"), "1234")
    key_id = made.properties["id"]
    tool(hsm, hsm.label, "--keygen", "--key-type", "AES:32", "--id", "beef", "--label", "wrapping", "--usage-wrap")
    data, out = tmp_path / "data", tmp_path / "out"
    data.write_bytes(bytes(256))
    attempts = {
        "CKR_KEY_UNEXTRACTABLE": [
            "--wrap",
            "--mechanism",
            "AES-KEY-WRAP-PAD",
            "--id",
            "beef",
            "--application-id",
            key_id,
        ],
        "C_SetAttributeValue failed": ["--set-id", "aa", "--type", "privkey", "--id", key_id],
        "CKR_KEY_FUNCTION_NOT_PERMITTED": ["--decrypt", "-m", "RSA-PKCS", "--id", key_id, "--input-file", str(data)],
    }
    for answer, attempt in attempts.items():
        assert answer in refused(hsm, *attempt, "--output-file", str(out))
        assert not out.exists() or not out.read_bytes()
    tried = run([sys.executable, "-c", READ_OR_COPY, hsm.module, hsm.label, "kept"], hsm)
    assert tried.split() == ["AttributeSensitive", *["AttributeReadOnly"] * 3]


def test_gnutls_finds_the_new_key_with_its_flags(hsm: InProcessSoftHSM) -> None:
    made = generate_key(uri_of(hsm, "object=gnutls"), pin="1234")
    shown = p11tool(hsm, "--login", "--list-privkeys", f"pkcs11:token={hsm.label}")
    (entry,) = [one for one in shown.split("Object ") if "Label: gnutls" in one]
    for flag in ("CKA_PRIVATE", "CKA_NEVER_EXTRACTABLE", "CKA_SENSITIVE"):
        assert flag in entry
    assert "CKA_EXTRACTABLE" not in entry
    assert made.properties["id"] == re.sub(r"[^0-9a-f]", "", "".join(re.findall(r"ID: (.*)", entry)))


def test_new_key_can_be_given_an_id_of_its_own(hsm: InProcessSoftHSM) -> None:
    made = generate_key(uri_of(hsm, "object=numbered;id=%A1%02"), pin="1234")
    assert made.properties["id"] == "a102"
    assert all("ID:         a102" in one for one in objects(hsm, "numbered"))
    assert len(objects(hsm, "numbered")) == 2
    assert made.properties["modifiable"] is False


def test_new_key_can_want_the_pin_for_each_signature(hsm: InProcessSoftHSM) -> None:
    made = generate_key(uri_of(hsm, "object=guarded"), KeyRequest(always_authenticate=True), "1234")
    assert "Access:     always authenticate, sensitive" in "".join(objects(hsm, "guarded"))
    assert made.guards[0] == f"Each signature needs the PIN of token '{hsm.label}'"
    with open_key(made.uri, "1234") as key, pytest.raises(PinRequiredError):
        key.sign(b"message")


def test_slow_token_shows_that_it_is_making_the_key(hsm: InProcessSoftHSM, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    generate = WritingSession.generate_key_pair

    def slowly(*arguments: Any) -> KeyPair:
        while not told:
            time.sleep(0.01)
        return generate(*arguments)

    monkeypatch.setattr(WritingSession, "generate_key_pair", slowly)
    notices.set_notifier(told.append)
    try:
        new_key(hsm, "slow")
    finally:
        notices.set_notifier(None)
    assert told == [f"token '{hsm.label}' is making the key, which can take minutes"]


def test_request_for_other_hardware_is_refused(hsm: InProcessSoftHSM) -> None:
    foreign = [
        KeyRequest(pin_policy="once"),
        KeyRequest(touch_policy="always"),
        KeyRequest(noda=True),
        KeyRequest(pcrs="sha256:7"),
        KeyRequest(overwrite=True),
    ]
    for request in foreign:
        with pytest.raises(UsageError, match="does not apply to keys on a PKCS #11 token"):
            generate_key(uri_of(hsm, "object=foreign"), request, "1234")
    assert objects(hsm, "foreign") == []


@pytest.mark.parametrize(
    ("attributes", "words"), [("id=%01", "no label"), ("object=x;type=cert", "not name a private")]
)
def test_uri_that_cannot_name_a_new_key_is_refused(hsm: InProcessSoftHSM, attributes: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        generate_key(uri_of(hsm, attributes), pin="1234")


def test_new_key_replaces_nothing(hsm: InProcessSoftHSM) -> None:
    made = new_key(hsm, "first")
    key_id = made.properties["id"]
    with pytest.raises(SigningKeyError, match=rf"already has: private key \(label 'first', id {key_id}\), public key"):
        new_key(hsm, "first")
    with pytest.raises(SigningKeyError, match="already has: private key"):
        generate_key(uri_of(hsm, f"object=second;id={quote(bytes.fromhex(key_id))}"), pin="1234")
    hsm.write_certificate(chain_for(made)[0].der, "lonely", b"\xee", hsm.label)
    with pytest.raises(SigningKeyError, match=r"already has: certificate \(label 'lonely', id ee\)"):
        new_key(hsm, "lonely")
    assert [len(objects(hsm, label)) for label in ("first", "second", "lonely")] == [2, 0, 1]


def test_one_process_at_a_time_changes_a_token(hsm: InProcessSoftHSM) -> None:
    """Without that, each would find the label free."""
    command = [sys.executable, "-m", "hwsigner", "keygen", uri_of(hsm, "object=racing")]
    environment = {**ENVIRONMENT, **hsm.env, "PYTHONPATH": str(ROOT), "HWSIGNER_PIN": "1234"}
    started = [subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in started]
    assert sorted(process.returncode for process in started) == [0, 3, 3], outputs
    assert len([one for one in objects(hsm, "racing") if one.startswith("Private")]) == 1


def test_token_that_another_process_changes_for_too_long_is_left_alone(
    hsm: InProcessSoftHSM, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = new_key(hsm, "waiting")
    monkeypatch.setattr(writing, "_LONGEST_WAIT_SECONDS", 0.1)
    file = open_lock_file("token", f"{hsm.label} {made.properties['serial']}")
    assert file is not None
    try:
        assert lock_within(file, 1)
        with pytest.raises(BackendUnavailableError, match=f"another process has been changing token '{hsm.label}'"):
            delete_key(made.uri, agree, "1234")
    finally:
        os.close(file)
    assert delete_key(made.uri, agree, "1234")


def test_uri_of_two_tokens_makes_no_key_and_sends_no_pin(shim: Shim) -> None:
    with pytest.raises(AmbiguousKeyError, match="names 2 tokens"):
        generate_key(f"pkcs11:object=new?module-path={shim.path}", pin="1234")
    assert shim.count(LOGIN) == shim.count(GENERATE_KEY_PAIR) == 0


@pytest.mark.parametrize(
    ("kind", "mechanism"), [("p256", EC_KEY_PAIR_GEN), ("rsa2048", RSA_KEY_PAIR_GEN), ("mldsa65", MLDSA_KEY_PAIR_GEN)]
)
def test_token_without_the_mechanism_is_asked_first(shim: Shim, kind: KeyAlgorithm, mechanism: int) -> None:
    shim.hide(mechanism)
    with pytest.raises(UnsupportedKeyError, match=r"token 'one' makes no (EC|RSA|ML-DSA) keys"):
        generate_key(shim.uri("new"), KeyRequest(kind), "1234")
    assert shim.count(LOGIN) == shim.count(GENERATE_KEY_PAIR) == 0


def test_token_without_keys_of_that_size_is_asked_first(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Functions, "mechanism", lambda *_: MechanismInfo(256, 384, 0x10000))
    with pytest.raises(UnsupportedKeyError, match="makes EC keys of 256 to 384 bits, so not p521"):
        generate_key(shim.uri("new"), KeyRequest("p521"), "1234")
    assert shim.count(GENERATE_KEY_PAIR) == 0


@pytest.mark.parametrize(("flags", "is_made"), [(0x10000, True), (0x8000, False), (0x2800, False)])
def test_mechanism_that_generates_keys_is_used(
    shim: Shim, monkeypatch: pytest.MonkeyPatch, flags: int, is_made: bool
) -> None:
    """CKF_GENERATE, which NSS has for ML-DSA, is of symmetric keys."""
    monkeypatch.setattr(Functions, "mechanism", lambda *_: MechanismInfo(256, 521, flags))
    if is_made:
        delete_key(generate_key(shim.uri("flagged"), pin="1234").uri, agree, "1234")
    else:
        with pytest.raises(UnsupportedKeyError, match="makes no EC keys"):
            generate_key(shim.uri("flagged"), pin="1234")
    assert shim.count(GENERATE_KEY_PAIR) == is_made


def test_curve_that_a_token_lacks_is_unsupported(shim: Shim) -> None:
    shim.fail(GENERATE_KEY_PAIR, CURVE_NOT_SUPPORTED)
    with pytest.raises(UnsupportedKeyError, match="does not have this curve"):
        generate_key(shim.uri("new"), pin="1234")


def test_token_that_cannot_copy_keys_wants_an_id_in_the_uri(shim: Shim) -> None:
    shim.fail(COPY_OBJECT, FUNCTION_NOT_SUPPORTED)
    with pytest.raises(UnsupportedKeyError, match="can't give a key the id of its public key") as caught:
        generate_key(shim.uri("uncopied"), pin="1234")
    assert "such as id=%01" in caught.value.hint
    assert objects(shim.hsm, "uncopied", "one") == []
    made = generate_key(shim.uri("uncopied;id=%77"), pin="1234")
    assert made.properties["id"] == "77"
    delete_key(made.uri, agree, "1234")


@pytest.mark.parametrize("call", [GENERATE_KEY_PAIR, COPY_OBJECT])
@pytest.mark.parametrize("spared", [0, 1])
def test_full_token_keeps_nothing_of_a_new_key(shim: Shim, call: int, spared: int) -> None:
    if call == GENERATE_KEY_PAIR and spared:
        return
    shim.fail(call, DEVICE_MEMORY, after=spared)
    with pytest.raises(SigningKeyError, match="token 'one' could not make the key: the token is full"):
        generate_key(shim.uri("crammed"), pin="1234")
    assert objects(shim.hsm, "crammed", "one") == []


def test_read_only_token_gets_no_pin(shim: Shim) -> None:
    shim.library.shim_read_only(1)
    with pytest.raises(SigningKeyError, match="token 'one' could not make the key: it is read-only"):
        generate_key(shim.uri("new"), pin="1234")
    assert shim.count(LOGIN) == 0


def test_wrong_pin_is_sent_once_and_makes_no_key(shim: Shim) -> None:
    with pytest.raises(WrongPinError, match="wrong PIN for token 'one'"):
        generate_key(shim.uri("new"), pin="9999")
    assert (shim.count(LOGIN), shim.count(GENERATE_KEY_PAIR)) == (1, 0)
    open_key(shim.uri(), Person("1234")).close()  # The token forgets the wrong PIN.


def test_missing_pin_makes_no_key(shim: Shim) -> None:
    with pytest.raises(PinRequiredError):
        generate_key(shim.uri("new"))
    assert shim.count(GENERATE_KEY_PAIR) == 0


@pytest.mark.parametrize(
    ("attribute", "value", "name"),
    [
        (Attribute.EXTRACTABLE, True, "CKA_EXTRACTABLE"),
        (Attribute.SENSITIVE, False, "CKA_SENSITIVE"),
        (Attribute.ALWAYS_SENSITIVE, False, "CKA_ALWAYS_SENSITIVE"),
        (Attribute.NEVER_EXTRACTABLE, False, "CKA_NEVER_EXTRACTABLE"),
        (Attribute.LOCAL, False, "CKA_LOCAL"),
        (Attribute.MODIFIABLE, True, "CKA_MODIFIABLE"),
        (Attribute.DERIVE, True, "CKA_DERIVE"),
        (Attribute.SIGN, False, "CKA_SIGN"),
    ],
)
@pytest.mark.parametrize("named", ["unasked", "unasked;id=%78"])
def test_key_that_was_not_made_as_asked_is_removed(
    shim: Shim, named: str, attribute: int, value: bool, name: str
) -> None:
    shim.claim(attribute, value=value)
    with pytest.raises(SigningKeyError, match=rf"not as asked \({name}\), so it was removed again"):
        generate_key(shim.uri(named), pin="1234")
    assert objects(shim.hsm, "unasked", "one") == []


@pytest.mark.parametrize("named", ["denied", "denied;id=%79"])
def test_key_that_the_token_denies_having_made_is_kept_when_that_is_accepted(shim: Shim, named: str) -> None:
    shim.claim(Attribute.LOCAL, value=False)
    made = generate_key(shim.uri(named), KeyRequest(accept_unproven=True), "1234")
    assert made.properties["local"] is False
    assert "The token says that the key was not made in it" in made.notes
    shim.reset()
    delete_key(made.uri, agree, "1234")


@pytest.mark.parametrize(
    "attribute",
    [Attribute.ALWAYS_SENSITIVE, Attribute.NEVER_EXTRACTABLE, Attribute.SENSITIVE, Attribute.MODIFIABLE],
)
def test_only_cka_local_may_be_denied(shim: Shim, attribute: int) -> None:
    shim.claim(attribute, value=attribute == Attribute.MODIFIABLE)
    with pytest.raises(SigningKeyError, match="so it was removed again"):
        generate_key(shim.uri("strict;id=%7a"), KeyRequest(accept_unproven=True), "1234")
    assert objects(shim.hsm, "strict", "one") == []


def test_key_of_an_earlier_run_is_not_accepted_unproven(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be one that another program has imported since."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    request = KeyRequest(accept_unproven=True)
    with monkeypatch.context() as patch:
        patch.setattr(keygen, "_differences", interrupt)
        with pytest.raises(KeyboardInterrupt):
            generate_key(shim.uri("earlier;id=%7b"), request, "1234")
    assert len(objects(shim.hsm, "earlier", "one")) == 2
    shim.claim(Attribute.LOCAL, value=False)
    shim.claim(Attribute.MODIFIABLE, value=True)
    with pytest.raises(SigningKeyError, match="already has: private key"):
        generate_key(shim.uri("earlier;id=%7b"), request, "1234")
    shim.reset()
    delete_key(shim.uri("earlier"), agree, "1234")


@pytest.mark.parametrize(
    ("attribute", "named", "hint"),
    [
        (Attribute.LOCAL, "hinted", "run keygen --accept-unproven"),
        (Attribute.LOCAL, "hinted;id=%7c", "run keygen --accept-unproven"),
        (Attribute.NEVER_EXTRACTABLE, "hinted", "Add an id to the key URI, such as id=%01"),
        (Attribute.NEVER_EXTRACTABLE, "hinted;id=%7c", "Use another token"),
        (Attribute.SENSITIVE, "hinted", "Use another token"),
    ],
)
def test_hint_says_what_makes_a_key_as_asked(shim: Shim, attribute: int, named: str, hint: str) -> None:
    shim.claim(attribute, value=False)
    with pytest.raises(SigningKeyError) as caught:
        generate_key(shim.uri(named), pin="1234")
    assert hint in caught.value.hint


def test_key_that_was_not_made_as_asked_and_cannot_be_removed_is_named(shim: Shim) -> None:
    shim.claim(Attribute.EXTRACTABLE, value=True)
    shim.library.shim_keep(PRIVATE_KEY)
    with pytest.raises(SigningKeyError, match=r"not as asked .* it may be left there: .*private key \(label 'stuck'\)"):
        generate_key(shim.uri("stuck"), pin="1234")
    shim.reset()
    delete_key(shim.uri("stuck"), agree, "1234")


def test_key_that_can_no_longer_be_read_is_said_to_be_left(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    def remove(*_: object) -> list[str]:
        shim.remove()
        return ["CKA_SIGN"]

    monkeypatch.setattr(keygen, "_differences", remove)
    with pytest.raises(SigningKeyError, match=r"not as asked \(CKA_SIGN\), and it may be left there: .*removed"):
        generate_key(shim.uri("pulled"), pin="1234")
    shim.reset()
    delete_key(shim.uri("pulled"), agree, "1234")


@pytest.mark.parametrize("algorithm", ["p256", "rsa2048"])
def test_module_that_cannot_write_to_a_piv_card_changes_nothing(yubikey: YubiKey, algorithm: KeyAlgorithm) -> None:
    yubikey.write_chuid()
    yubikey.generate(SIGNATURE)
    yubikey.self_sign(SIGNATURE, "hwsigner")
    uri = yubikey.uri(SIGNATURE, OPENSC)
    before = dict(yubikey.state.keys)
    token, query = str(KeyURI.of(uri).token).split("?")
    for name in ("object=new", "object=new;id=%01"):
        with pytest.raises(SigningKeyError, match=r"makes no|can't do this|can't give"):
            generate_key(f"{token}{name}?{query}", KeyRequest(algorithm), yubikey.pin)
    with pytest.raises(SigningKeyError, match=r"could not delete the private key .* the module can't do this"):
        delete_key(uri, agree, yubikey.pin)
    chain = [FoundCertificate(certs.issue(CA, yubikey.public_key(SIGNATURE)).public_bytes(Encoding.DER), "a file")]
    with pytest.raises(SigningKeyError, match="could not store the certificate: the module can't do this"):
        install_certificate(uri, chain, yubikey.pin)
    assert yubikey.state.keys == before


def test_key_that_is_left_by_a_kill_is_named_next_time_when_no_mark_tells_of_it(hsm: InProcessSoftHSM) -> None:
    uri = uri_of(hsm, "object=cut")
    kill_before(hsm, uri, "copy", 0, "generate_key(uri, pin='1234')")
    assert objects(hsm, "cut") == []
    kill_before(hsm, uri, "copy", 1, "generate_key(uri, pin='1234')")
    with pytest.raises(SigningKeyError, match=r"already has: public key \(label 'cut'") as caught:
        generate_key(uri, pin="1234")
    assert "hwsigner delete" in caught.value.hint
    delete_key(uri, agree, "1234")
    assert generate_key(uri, pin="1234").public_key


# Describing a key


def test_key_is_described_by_what_the_token_says(hsm: InProcessSoftHSM) -> None:
    made = new_key(hsm, "described")
    shown = describe_key(uri_of(hsm, "object=described"), "1234")
    assert shown == made
    assert shown.place == f"token '{hsm.label}'"
    assert shown.guards == (
        f"Signatures need a login with the PIN of token '{hsm.label}'",
        "The token says that the key can't be read or copied out of it, and never could be",
    )
    flags = ("pin", "sensitive", "extractable", "alwaysSensitive", "neverExtractable", "local", "alwaysAuthenticate")
    assert [shown.properties[flag] for flag in flags] == [True, True, False, True, True, True, False]
    assert "is a claim" in shown.notes[0]
    key_id = shown.properties["id"]
    names = f"(label 'described', id {key_id})"
    assert shown.properties["objects"] == [f"private key {names}", f"public key {names}"]
    with open_key(shown.uri, "1234") as key:
        assert key.public_key() == shown.public_key


def test_key_that_can_be_copied_is_said_to_be_so(hsm: InProcessSoftHSM, tmp_path: Path) -> None:
    key = certs.write_key(tmp_path / "key.pem", ec.generate_private_key(ec.SECP256R1()))
    names = ["--type", "privkey", "--label", "open", "--id", "0e"]
    tool(hsm, hsm.label, "--write-object", str(key), *names, "--usage-sign", "--extractable")
    shown = describe_key(uri_of(hsm, "object=open"), "1234")
    assert shown.guards[1] == "The token says that the key can be copied out of it"
    assert "was not made in it" in shown.notes[1]
    assert shown.properties["local"] is False


def test_description_says_what_a_token_hides_and_where_its_pin_is_typed(shim: Shim) -> None:
    open_key(shim.uri(), "1234").close()
    shim.flags(raised=KEYPAD)
    shim.library.shim_unknown(Attribute.EXTRACTABLE)
    shown = describe_key(shim.uri())
    assert shown.guards == (
        "Signatures need a login with the PIN of token 'one', typed at its keypad",
        "The token does not say whether the key can be copied out of it",
    )
    assert shown.properties["extractable"] is None


def test_key_that_is_neither_extractable_nor_sensitive_is_not_said_to_be_copied(shim: Shim) -> None:
    shim.claim(Attribute.SENSITIVE, value=False)
    shown = describe_key(shim.uri(), "1234")
    assert (shown.properties["extractable"], shown.properties["sensitive"]) == (False, False)
    assert shown.guards[1].startswith("The token says that the key can't be read or copied out of it")
    assert shown.whereabouts == "token 'one'"


def test_description_of_a_key_that_is_not_there_lists_what_is(hsm: InProcessSoftHSM) -> None:
    with pytest.raises(KeyNotFoundError, match="no key is named by"):
        describe_key(uri_of(hsm, "object=nowhere"), "1234")


# Installing a certificate


def test_certificate_is_found_by_the_names_of_its_key(hsm: InProcessSoftHSM, tmp_path: Path) -> None:
    made = new_key(hsm, "certified")
    chain = chain_for(made, INTERMEDIATE)
    installed = install_certificate(made.uri, chain, "1234")
    assert [one.der for one in find_certificates(installed.certificate)] == [chain[0].der]
    (shown,) = [one for one in objects(hsm, "certified") if one.startswith("Certificate Object")]
    assert f"ID:         {made.properties['id']}" in shown
    [subject] = re.findall(r"subject: +DN: (.*)", shown)
    assert sorted(re.split(", ?", subject)) == ["C=DE", "CN=bamboo-01", "O=Example", "OU=devops"]
    out = tmp_path / "leaf.der"
    tool(hsm, hsm.label, "--read-object", "--type", "cert", "--id", made.properties["id"], "--output-file", str(out))
    assert out.read_bytes() == chain[0].der
    assert [len(objects(hsm, "Example Issuing CA")), len(objects(hsm, "certified"))] == [1, 3]
    with open_identity(IdentitySource(uri_of(hsm, "object=certified"), pin="1234")) as identity:
        assert identity.chain.intermediates[0].der == chain[1].der
        assert identity.sign(b"message")


def test_attributes_of_a_certificate_are_those_of_its_der(hsm: InProcessSoftHSM) -> None:
    made = new_key(hsm, "attributes")
    chain = chain_for(made)
    install_certificate(made.uri, chain, "1234")
    leaf = x509.load_der_x509_certificate(chain[0].der)
    shown = run([sys.executable, "-c", READ_CERTIFICATE, hsm.module, hsm.label, "attributes"], hsm).split()
    serial, issuer, subject, private = bytes.fromhex(shown[0]), *map(bytes.fromhex, shown[1:3]), shown[3]
    assert int.from_bytes(serial[2:]) == leaf.serial_number
    assert (serial[0], serial[1]) == (2, len(serial) - 2)
    assert (issuer, subject) == (leaf.issuer.public_bytes(), leaf.subject.public_bytes())
    assert private == "False"


def test_renewal_replaces_the_leaf_and_keeps_one_copy_of_the_rest(hsm: InProcessSoftHSM) -> None:
    made = new_key(hsm, "renewed")
    other = certs.make_ca("Example Renewing CA", CA)
    chains = [chain_for(made, other) for _ in range(3)]
    for chain in (chains[0], chains[1], chains[2], chains[2]):
        install_certificate(made.uri, chain, "1234")
        assert ders(hsm, "renewed") == [chain[0].der]
    assert len(objects(hsm, "Example Renewing CA")) == 1


def test_leaf_under_another_label_is_replaced_and_another_keys_is_not(hsm: InProcessSoftHSM) -> None:
    made, key_id = new_key(hsm, "labelled"), ""
    key_id = made.properties["id"]
    old, foreign = chain_for(made)[0], chain_for(new_key(hsm, "foreigner"))[0]
    hsm.write_certificate(old.der, "by hand", bytes.fromhex(key_id), hsm.label)
    hsm.write_certificate(foreign.der, "labelled", b"\xfe", hsm.label)
    new = chain_for(made)
    install_certificate(made.uri, new, "1234")
    assert objects(hsm, "by hand") == []
    assert sorted(ders(hsm, "labelled")) == sorted([new[0].der, foreign.der])


def test_certificate_of_another_key_is_refused(hsm: InProcessSoftHSM) -> None:
    made, other = new_key(hsm, "mine"), new_key(hsm, "theirs")
    with pytest.raises(KeyMismatchError, match=r"the certificate is for another key than 'mine'"):
        install_certificate(made.uri, chain_for(other), "1234")
    assert len(objects(hsm, "mine")) == 2


def test_nv_index_is_refused_for_a_token(hsm: InProcessSoftHSM) -> None:
    with pytest.raises(UsageError, match="--nv-index does not apply to keys on a PKCS #11 token"):
        install_certificate(uri_of(hsm, "object=x"), [], "1234", nv_index="0x1c10000")


@pytest.fixture
def certified(shim: Shim) -> Iterator[tuple[Shim, KeyDescription, bytes]]:
    """A key with its certificate on the shim's first token."""
    made = generate_key(shim.uri("enrolled"), pin="1234")
    chain = chain_for(made)
    install_certificate(made.uri, chain, "1234")
    yield shim, made, chain[0].der
    shim.reset()
    delete_key(made.uri, agree, "1234")


def enrolled(shim: Shim) -> list[bytes]:
    return [one.der for one in find_certificates(shim.uri("enrolled"))]


@pytest.mark.parametrize(
    ("call", "answer", "spared", "words"),
    [
        (CREATE_OBJECT, DEVICE_MEMORY, 0, "could not store the certificate: the token is full"),
        (CREATE_OBJECT, DEVICE_MEMORY, 1, "could not store the certificate: the token is full"),
        (CREATE_OBJECT, SESSION_READ_ONLY, 0, "could not store the certificate: it is read-only"),
        (DESTROY_OBJECT, ACTION_PROHIBITED, 0, r"could not delete the certificate \(label 'enrolled'"),
    ],
)
def test_former_certificate_stays_alone_after_a_failure(
    certified: tuple[Shim, KeyDescription, bytes], call: int, answer: int, spared: int, words: str
) -> None:
    shim, made, former = certified
    shim.fail(call, answer, after=spared, times=1)
    with pytest.raises(SigningKeyError, match=words):
        install_certificate(made.uri, chain_for(made, INTERMEDIATE), "1234")
    assert enrolled(shim) == [former]
    assert objects(shim.hsm, "Example Issuing CA", "one") == []


def test_former_certificate_is_written_back_when_a_second_one_cannot_be_deleted(
    certified: tuple[Shim, KeyDescription, bytes],
) -> None:
    shim, made, former = certified
    shim.hsm.write_certificate(chain_for(made)[0].der, "enrolled", bytes.fromhex(made.properties["id"]), "one")
    both = enrolled(shim)
    assert len(both) == 2
    shim.fail(DESTROY_OBJECT, ACTION_PROHIBITED, after=1, times=1)
    with pytest.raises(SigningKeyError, match="could not delete the certificate"):
        install_certificate(made.uri, chain_for(made), "1234")
    assert sorted(enrolled(shim)) == sorted(both)
    assert former in both


def test_token_that_deletes_nothing_keeps_both_leaves_and_a_warning_names_the_new_one(
    certified: tuple[Shim, KeyDescription, bytes],
) -> None:
    shim, made, former = certified
    new = chain_for(made)
    shim.fail(DESTROY_OBJECT, ACTION_PROHIBITED)
    with (
        pytest.warns(HwsignerWarning, match=r"could not delete the new certificate \(label 'enrolled'"),
        pytest.raises(SigningKeyError, match="could not delete the certificate"),
    ):
        install_certificate(made.uri, new, "1234")
    assert sorted(enrolled(shim)) == sorted([former, new[0].der])
    shim.reset()
    install_certificate(made.uri, new, "1234")
    assert enrolled(shim) == [new[0].der]


def test_certificate_that_was_not_stored_as_given_is_an_error(
    certified: tuple[Shim, KeyDescription, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    shim, made, former = certified
    create = WritingSession.create
    broken = {Attribute.VALUE: chain_for(made)[0].der}
    monkeypatch.setattr(WritingSession, "create", lambda session, template: create(session, {**template, **broken}))
    with pytest.raises(SigningKeyError, match="token 'one' has not stored the certificate that it was given"):
        install_certificate(made.uri, chain_for(made), "1234")
    assert enrolled(shim) == [former]


@pytest.mark.parametrize(("call", "spared"), [("create", 0), ("create", 1), ("destroy", 0)])
def test_kill_leaves_the_former_certificate_and_the_next_run_cleans_up(
    hsm: InProcessSoftHSM, call: str, spared: int
) -> None:
    label = f"interrupted-{call}-{spared}"
    made, ca = new_key(hsm, label), certs.make_ca(label.upper(), CA)
    former, new = chain_for(made), chain_for(made, ca)
    install_certificate(made.uri, former, "1234")
    kill_before(hsm, made.uri, call, spared, "install_certificate(uri, chain, '1234')", *new)
    assert former[0].der in ders(hsm, label)
    with open_identity(IdentitySource(uri_of(hsm, f"object={label}"), pin="1234", latest=True)) as identity:
        assert identity.sign(b"message")
    install_certificate(made.uri, new, "1234")
    assert ders(hsm, label) == [new[0].der]
    assert len(objects(hsm, label.upper())) == 1


# Deleting a key


def test_deleted_key_is_gone_with_what_belongs_to_it(hsm: InProcessSoftHSM) -> None:
    made, neighbour = new_key(hsm, "doomed"), new_key(hsm, "neighbour")
    install_certificate(made.uri, chain_for(made), "1234")
    asked: list[str] = []
    gone = delete_key(uri_of(hsm, "object=doomed"), asked.extend, "1234")
    names = f"(label 'doomed', id {made.properties['id']}) on token '{hsm.label}'"
    assert list(gone) == asked == [f"{kind} {names}" for kind in ("private key", "certificate", "public key")]
    assert objects(hsm, "doomed") == []
    assert describe_key(neighbour.uri, "1234") == neighbour


def test_key_stays_when_its_deletion_is_not_confirmed(hsm: InProcessSoftHSM) -> None:
    made = new_key(hsm, "spared")
    with pytest.raises(UsageError, match=r"private key .* / public key"):
        delete_key(made.uri, refuse, "1234")
    assert len(objects(hsm, "spared")) == 2


def test_uri_of_two_keys_deletes_none(hsm: InProcessSoftHSM) -> None:
    for key_id in ("%51", "%52"):
        generate_key(uri_of(hsm, f"object=twin {key_id};id={key_id}"), pin="1234")
    with pytest.raises(AmbiguousKeyError, match=r"names \d+ keys"):
        delete_key(uri_of(hsm, ""), agree, "1234")
    assert len(objects(hsm, "twin Q")) == 2


def test_certificates_of_another_key_with_the_same_id_stay(hsm: InProcessSoftHSM) -> None:
    for label in ("one of two", "two of two"):
        hsm.generate(label, b"\x5a", "EC:prime256v1", hsm.label)
    other = describe_key(uri_of(hsm, "object=two of two"), "1234")
    install_certificate(uri_of(hsm, "object=two of two"), chain_for(other), "1234")
    delete_key(uri_of(hsm, "object=one of two"), agree, "1234")
    assert [len(objects(hsm, label)) for label in ("one of two", "two of two")] == [0, 3]


def test_token_that_reports_success_and_keeps_the_key_is_an_error(shim: Shim) -> None:
    made = generate_key(shim.uri("clinging"), pin="1234")
    shim.library.shim_keep(PRIVATE_KEY)
    words = r"token 'one' reports that the private key \(label 'clinging', id \w+\) is deleted, and keeps it"
    with pytest.raises(SigningKeyError, match=words):
        delete_key(made.uri, agree, "1234")
    assert len(objects(shim.hsm, "clinging", "one")) == 2
    shim.reset()
    delete_key(made.uri, agree, "1234")
    with pytest.raises(KeyNotFoundError):
        delete_key(made.uri, agree, "1234")


def test_read_only_token_deletes_nothing_and_gets_no_pin(shim: Shim) -> None:
    shim.library.shim_read_only(1)
    with pytest.raises(SigningKeyError, match="token 'one' could not delete the key: it is read-only"):
        delete_key(shim.uri(), agree, "1234")
    assert shim.count(LOGIN) == 0


@pytest.mark.parametrize("spared", [1, 2])
def test_rest_of_a_key_is_deleted_after_a_kill(hsm: InProcessSoftHSM, spared: int) -> None:
    label = f"half gone {spared}"
    made = new_key(hsm, label)
    install_certificate(made.uri, chain_for(made), "1234")
    kill_before(hsm, made.uri, "destroy", spared, "delete_key(uri, print, '1234')")
    assert len(objects(hsm, label)) == 3 - spared
    delete_key(uri_of(hsm, f"object={label}"), agree, "1234")
    assert objects(hsm, label) == []


def test_uri_of_a_certificate_changes_no_key(hsm: InProcessSoftHSM, tmp_path: Path) -> None:
    # A private key whose public key the token does not show: open_key may take it for the certificate's.
    key = certs.write_key(tmp_path / "key.pem", ec.generate_private_key(ec.SECP256R1()))
    tool(hsm, hsm.label, "--write-object", str(key), "--type", "privkey", "--label", "bystander", "--id", "b5")
    made = new_key(hsm, "passing")
    chain = chain_for(made)
    delete_key(made.uri, agree, "1234")
    hsm.write_certificate(chain[0].der, "certificate alone", b"\xca", hsm.label)
    for query in ("object=certificate alone", "id=%CA"):
        with pytest.raises(KeyNotFoundError):
            delete_key(uri_of(hsm, query), agree, "1234")
        with pytest.raises(KeyNotFoundError):
            install_certificate(uri_of(hsm, query), chain, "1234")
    for query in ("object=bystander;type=cert", "object=bystander;type=public"):
        with pytest.raises(UsageError, match="does not name a private key"):
            delete_key(uri_of(hsm, query), agree, "1234")
    assert [len(objects(hsm, label)) for label in ("bystander", "certificate alone")] == [1, 1]


def test_key_is_managed_while_it_is_open(hsm: InProcessSoftHSM) -> None:
    made = new_key(hsm, "busy")
    with open_key(made.uri, "1234") as key:
        other = new_key(hsm, "busier")
        install_certificate(made.uri, chain_for(made), "1234")
        delete_key(other.uri, agree, "1234")
        assert key.sign(b"message")
    assert len(objects(hsm, "busy")) == 3
