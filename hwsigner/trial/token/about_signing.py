"""Questions about signatures, made with a key of the trial's own (--write), or with a key that the user names."""

from __future__ import annotations

import hashlib
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hwsigner.backends.pkcs11.functions import KeyType
from hwsigner.backends.pkcs11.objects import ORDER_BYTES, KeyObject
from hwsigner.backends.pkcs11.pairing import public_keys_of
from hwsigner.key.public_key import verify
from hwsigner.trial.questions import NotAskedError, choice
from hwsigner.trial.token.about_token import ECDSA, MECHANISMS, MLDSA, RSA, RSA_SHA256
from hwsigner.trial.token.calls import BUFFER_TOO_SMALL, OK, named
from hwsigner.trial.token.making import make
from hwsigner.trial.token.second import look_in_second_process
from hwsigner.trial.token.subject import TriedToken
from hwsigner.trial.token.tables import TokenRow, spec, yes_or

_KEY = "hwsigner/backends/pkcs11/key.py: PKCS11Key"
_MESSAGE = b"hwsigner trial: a text that is only signed to see how"
_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
_KINDS = {KeyType.EC: "p256", KeyType.RSA: "rsa2048", KeyType.ML_DSA: "mldsa44"}
_TIMES, _LONGEST_SECONDS = 20, 15.0
# A signature that takes longer may wait for a touch, and the user is not to touch the token 70 times.
_SLOW_SECONDS = 1.0


class _Ready:
    """A key in a session of its own.

    Attributes:
        session: the handle of the session.
        key: the private key.
        public_key: its DER SubjectPublicKeyInfo.
    """

    def __init__(self, tried: TriedToken, session: int, key: KeyObject, public_key: bytes) -> None:
        self._tried = tried
        self._calls = tried.calls
        self.session = session
        self.key = key
        self.public_key = public_key

    def sign(self, mechanism: int, data: bytes) -> bytes:
        """Return a signature; raise a NotAskedError if there is none."""
        code = self._calls.begin_signature(self.session, mechanism, self.key.handle)
        signature, begin = b"", time.monotonic()
        if code == OK:
            code, signature = self._calls.sign(self.session, data)
        self._tried.is_slow |= time.monotonic() - begin > _SLOW_SECONDS
        if code != OK:
            raise NotAskedError(f"{MECHANISMS[mechanism]} answers {named(code)}")
        return signature


@contextmanager
def _ready(tried: TriedToken, key_type: int, *, often: bool = False) -> Iterator[_Ready]:
    """Log in, and yield a key of a type: the trial's own, or the one that the user named.

    Args:
        tried: the token.
        key_type: the type.
        often: whether it makes many signatures, so that one that may wait for a touch is not asked for.
    """
    if often and tried.is_slow and not tried.plan.label:
        raise NotAskedError("a signature takes over a second, as if it waits for a touch")
    tried.log_in_if_wanted()
    if tried.plan.label:
        key = make(tried, _KINDS[key_type]).key
    elif tried.plan.sign_with:
        key = tried.named_key()
        if key.key_type != key_type:
            raise NotAskedError("the named key is of another type")
    else:
        raise NotAskedError("no key may be used: give --write, or --sign-with")
    if key.always_authenticate:
        raise NotAskedError("the key wants the PIN for each signature")
    [public_key] = public_keys_of(tried.session, [key])
    if public_key is None:
        raise NotAskedError("the token does not show the key's public key")
    with tried.raw_session() as session:
        yield _Ready(tried, session, key, public_key)


def _size(key: KeyObject, public_key: bytes) -> int:
    """Return the bytes of the order of an EC key's curve."""
    return ORDER_BYTES.get(key.curve) or (load_der_public_key(public_key).key_size + 7) // 8  # type: ignore[union-attr]


def _verifies(public_key: bytes, raw: bytes, digest: bytes) -> bool:
    """Return whether a raw ECDSA signature is that of a digest, which may be longer than the curve."""
    public = load_der_public_key(public_key)
    if not isinstance(public, ec.EllipticCurvePublicKey) or len(raw) % 2 or not raw:
        return False
    half = len(raw) // 2
    signature = encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
    by_size = {32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512()}
    try:
        public.verify(signature, digest, ec.ECDSA(Prehashed(by_size[len(digest)])))
    except (InvalidSignature, ValueError):
        return False
    return True


def _ecdsa(tried: TriedToken) -> str:
    digest = hashlib.sha256(_MESSAGE).digest()
    with _ready(tried, KeyType.EC) as ready:
        raw = ready.sign(ECDSA, digest)
        size = _size(ready.key, ready.public_key)
    if raw[:1] == b"\x30" and len(raw) != 2 * size:
        return "DER"
    if len(raw) != 2 * size:
        return f"{len(raw)} bytes for a curve of {size}"
    return "r and s, each as long as the order" if _verifies(ready.public_key, raw, digest) else "it does not verify"


def _long_digest(tried: TriedToken) -> str:
    digest = hashlib.sha512(_MESSAGE).digest()
    with _ready(tried, KeyType.EC) as ready:
        size = _size(ready.key, ready.public_key)
        if size > 48:
            raise NotAskedError("no hash is longer than the curve")
        code = tried.calls.begin_signature(ready.session, ECDSA, ready.key.handle)
        code, raw = tried.calls.sign(ready.session, digest) if code == OK else (code, b"")
    if code != OK:
        return f"it refuses it: {named(code)}"
    return "it signs the leftmost bits" if _verifies(ready.public_key, raw, digest) else "the signature does not verify"


def _rsa(tried: TriedToken) -> str:
    with _ready(tried, KeyType.RSA) as ready:
        signature = ready.sign(RSA_SHA256, _MESSAGE)
    return yes_or("" if verify(ready.public_key, _MESSAGE, signature=signature) else "no")


def _rsa_digest_info(tried: TriedToken) -> str:
    with _ready(tried, KeyType.RSA) as ready:
        one = ready.sign(RSA_SHA256, _MESSAGE)
        other = ready.sign(RSA, _DIGEST_INFO + hashlib.sha256(_MESSAGE).digest())
    return yes_or("" if one == other else "no")


def _rsa_parts(tried: TriedToken) -> str:
    with _ready(tried, KeyType.RSA) as ready:
        whole = ready.sign(RSA_SHA256, _MESSAGE)
        codes = [tried.calls.begin_signature(ready.session, RSA_SHA256, ready.key.handle)]
        codes += [tried.calls.sign_part(ready.session, part) for part in (_MESSAGE[:7], _MESSAGE[7:])]
        code, signature = tried.calls.end_signature(ready.session)
    failed = next((one for one in (*codes, code) if one != OK), OK)
    return named(failed) if failed != OK else yes_or("" if signature == whole else "no")


def _mldsa(tried: TriedToken) -> str:
    with _ready(tried, KeyType.ML_DSA) as ready:
        signature = ready.sign(MLDSA, _MESSAGE)
    return yes_or("" if verify(ready.public_key, _MESSAGE, signature=signature) else "no")


def _after_second_process(tried: TriedToken) -> str:
    digest = hashlib.sha256(_MESSAGE).digest()
    with _ready(tried, KeyType.EC) as ready:
        look_in_second_process(tried)
        code = tried.calls.begin_signature(ready.session, ECDSA, ready.key.handle)
        if code == OK:
            code, _ = tried.calls.sign(ready.session, digest)
    return "yes" if code == OK else named(code)


def _begun_twice(tried: TriedToken) -> str:
    with _ready(tried, KeyType.EC) as ready:
        tried.calls.begin_signature(ready.session, ECDSA, ready.key.handle)
        return named(tried.calls.begin_signature(ready.session, ECDSA, ready.key.handle))


def _little_room(tried: TriedToken) -> str:
    digest = hashlib.sha256(_MESSAGE).digest()
    with _ready(tried, KeyType.EC) as ready:
        tried.calls.begin_signature(ready.session, ECDSA, ready.key.handle)
        code, _ = tried.calls.sign(ready.session, digest, room=8)
        if code != BUFFER_TOO_SMALL:
            return named(code)
        again, _ = tried.calls.sign(ready.session, digest)
    return "it can be asked again" if again == OK else f"then {named(again)}"


def _in_threads(tried: TriedToken) -> str:
    digest = hashlib.sha256(_MESSAGE).digest()
    wrong: list[str] = []

    if tried.module.functions.initialised != "for threads":
        raise NotAskedError("the module takes calls of one thread")
    with _ready(tried, KeyType.EC, often=True) as ready:

        def work() -> None:
            try:
                with tried.raw_session() as session:
                    own = _Ready(tried, session, ready.key, ready.public_key)
                    made = [own.sign(ECDSA, digest) for _ in range(5)]
                wrong.extend("does not verify" for raw in made if not _verifies(ready.public_key, raw, digest))
            except NotAskedError as error:
                wrong.append(f"fails: {error.message}")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return yes_or(f"{len(wrong)} times one {wrong[0]}" if wrong else "")


def _measured(tried: TriedToken, name: str, work: Callable[[], object]) -> str:
    """Measure the median of some calls, fewer if they are slow, as when each waits for a touch."""
    taken: list[float] = []
    while len(taken) < _TIMES and sum(taken) < _LONGEST_SECONDS:
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    tried.measured[f"{name}, median of {len(taken)}"] = f"{statistics.median(taken) * 1000:.2f} ms"
    return "measured"


def _resident(tried: TriedToken, key_type: int) -> str:
    mechanism = ECDSA if key_type == KeyType.EC else RSA_SHA256
    data = hashlib.sha256(_MESSAGE).digest() if key_type == KeyType.EC else _MESSAGE
    with _ready(tried, key_type, often=True) as ready:
        name = f"{MECHANISMS[mechanism]} in an open session"
        return _measured(tried, name, lambda: ready.sign(mechanism, data))


def _cold(tried: TriedToken) -> str:
    """Open a session, find the key by its label and sign, each time."""
    digest = hashlib.sha256(_MESSAGE).digest()

    def work() -> None:
        with _ready(tried, KeyType.EC, often=True) as ready:
            ready.sign(ECDSA, digest)

    return _measured(tried, "CKM_ECDSA with a new session and a search", work)


QUESTIONS = (
    TokenRow(
        "sign.second-process",
        "Can the first process sign after a second one has used the token, without another login?",
    ).expects(
        "yes",
        spec("PKCS #11 2.20, 6.6.1 (applications and processes)"),
        _after_second_process,
        f"{_KEY}.sign",
        "docs/how-to/pkcs11-in-use.md",
    ),
    TokenRow("sign.begun-twice", "What does a second C_SignInit in a session answer?").expects(
        "CKR_OPERATION_ACTIVE",
        spec("5.13.1 (C_SignInit)"),
        _begun_twice,
        "hwsigner/backends/pkcs11/token.py: OpenToken.log_in_for_signature",
    ),
    TokenRow("sign.ecdsa", "What does CKM_ECDSA return?").expects(
        "r and s, each as long as the order",
        spec("6.3.1 (EC signatures)"),
        _ecdsa,
        "hwsigner/backends/pkcs11/der.py: encode_ecdsa_signature",
    ),
    TokenRow("sign.long-digest", "What does CKM_ECDSA do with a digest of SHA-512 on a shorter curve?").expects(
        "it signs the leftmost bits", spec("6.3.12 (ECDSA without hashing)"), _long_digest, f"{_KEY}._method"
    ),
    TokenRow("sign.rsa", "Does a signature of CKM_SHA256_RSA_PKCS verify?").expects(
        "yes", spec("6.1.11 (PKCS #1 v1.5 RSA signature with SHA-2)"), _rsa, f"{_KEY}._method"
    ),
    TokenRow(
        "sign.rsa-digest-info", "Is a signature of CKM_RSA_PKCS over a DigestInfo that of CKM_SHA256_RSA_PKCS?"
    ).expects("yes", spec("6.1.6 (PKCS #1 v1.5 RSA)"), _rsa_digest_info, f"{_KEY}._method"),
    TokenRow("sign.rsa-parts", "Is a signature in parts that of the whole message?").expects(
        "yes",
        spec("5.13.3 (C_SignUpdate)"),
        _rsa_parts,
        "hwsigner/backends/pkcs11/functions.py: PKCS11Session.complete_signature",
    ),
    TokenRow("sign.mldsa", "Does a signature of CKM_ML_DSA without a context verify?").expects(
        "yes", spec("PKCS #11 3.2, 6.67 (ML-DSA)"), _mldsa, f"{_KEY}._method"
    ),
    TokenRow("sign.little-room", "What does C_Sign do if the room is too small?").expects(
        "it can be asked again",
        spec("5.2 (functions that return data in a variable-length buffer)"),
        _little_room,
        "hwsigner/backends/pkcs11/functions.py: PKCS11Session.complete_signature",
    ),
    TokenRow("sign.threads", "Do signatures verify that four threads make at once, each in its session?").expects(
        "yes", spec("3.7 (locking)"), _in_threads, "hwsigner/backends/pkcs11/functions.py: Functions"
    ),
    TokenRow("time.ecdsa", "How long does CKM_ECDSA take in an open session? The report's head says it.").expects(
        "measured",
        choice("no time is wrong"),
        partial(_resident, key_type=KeyType.EC),
        "docs/how-it-works/performance.md",
    ),
    TokenRow(
        "time.rsa", "How long does CKM_SHA256_RSA_PKCS take in an open session? The report's head says it."
    ).expects(
        "measured",
        choice("no time is wrong"),
        partial(_resident, key_type=KeyType.RSA),
        "docs/how-it-works/performance.md",
    ),
    TokenRow(
        "time.ecdsa-cold", "How long does CKM_ECDSA take with a new session and a search? The report's head says it."
    ).expects("measured", choice("no time is wrong"), _cold, "docs/how-it-works/performance.md"),
)
