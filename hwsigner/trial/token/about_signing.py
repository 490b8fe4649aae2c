"""Questions about signatures, made with a key of the trial's own (--write), or with a key that the user names."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial

from cryptography.hazmat.primitives.serialization import load_der_public_key

from hwsigner.backends.pkcs11.der import encode_ecdsa_signature
from hwsigner.backends.pkcs11.functions import KeyType
from hwsigner.backends.pkcs11.objects import ORDER_BYTES, KeyObject
from hwsigner.backends.pkcs11.pairing import public_keys_of
from hwsigner.key import HashName
from hwsigner.key.public_key import verify
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.token.calls import ECDSA, MECHANISMS, MLDSA, OK, RSA, RSA_SHA256, named
from hwsigner.trial.token.making import make
from hwsigner.trial.token.second import look_in_second_process
from hwsigner.trial.token.subject import Ask, TriedToken, in_four_threads, yes_or

_MESSAGE = b"hwsigner trial: a text that is only signed to see how"
_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
_KINDS = {KeyType.EC: "p256", KeyType.RSA: "rsa2048", KeyType.ML_DSA: "mldsa44"}
_TIMES, _LONGEST_SECONDS = 20, 15.0
# A signature that takes longer may wait for a touch, and the user is not to touch the token 70 times.
_SLOW_SECONDS = 1.0


class _ReadyKey:
    """A private key in a session of its own, with its DER SubjectPublicKeyInfo."""

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
def _ready(tried: TriedToken, key_type: int, *, often: bool = False) -> Iterator[_ReadyKey]:
    """Log in, and yield a key of a type: the trial's own, or the one that the user named.

    If it is used often, one whose signatures may wait for a touch is not asked for.
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
        yield _ReadyKey(tried, session, key, public_key)


def _size(key: KeyObject, public_key: bytes) -> int:
    """Return the bytes of the order of an EC key's curve."""
    return ORDER_BYTES.get(key.curve) or (load_der_public_key(public_key).key_size + 7) // 8  # type: ignore[union-attr]


def _verifies(public_key: bytes, raw: bytes, hash: HashName = "sha256") -> bool:
    """Return whether a raw ECDSA signature is that of the message's digest, which may be longer than the curve."""
    signature = encode_ecdsa_signature(raw)
    return bool(raw) and not len(raw) % 2 and verify(public_key, _MESSAGE, signature=signature, hash=hash)


def _ecdsa(tried: TriedToken) -> str:
    digest = hashlib.sha256(_MESSAGE).digest()
    with _ready(tried, KeyType.EC) as ready:
        raw = ready.sign(ECDSA, digest)
        size = _size(ready.key, ready.public_key)
    if raw[:1] == b"\x30" and len(raw) != 2 * size:
        return "DER"
    if len(raw) != 2 * size:
        return f"{len(raw)} bytes for a curve of {size}"
    return "r and s, each as long as the order" if _verifies(ready.public_key, raw) else "it does not verify"


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
    is_right = _verifies(ready.public_key, raw, "sha512")
    return "it signs the leftmost bits" if is_right else "the signature does not verify"


def _whole_message(tried: TriedToken, *, key_type: int, mechanism: int) -> str:
    with _ready(tried, key_type) as ready:
        signature = ready.sign(mechanism, _MESSAGE)
    return yes_or("" if verify(ready.public_key, _MESSAGE, signature=signature) else "no")


def _rsa_digest_info(tried: TriedToken) -> str:
    with _ready(tried, KeyType.RSA) as ready:
        one = ready.sign(RSA_SHA256, _MESSAGE)
        other = ready.sign(RSA, _DIGEST_INFO + hashlib.sha256(_MESSAGE).digest())
    return yes_or("" if one == other else "no")


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


def _in_threads(tried: TriedToken) -> str:
    digest = hashlib.sha256(_MESSAGE).digest()
    if tried.module.functions.initialised != "for threads":
        raise NotAskedError("the module takes calls of one thread")
    with _ready(tried, KeyType.EC, often=True) as ready:

        def work() -> list[str]:
            with tried.raw_session() as session:
                own = _ReadyKey(tried, session, ready.key, ready.public_key)
                made = [own.sign(ECDSA, digest) for _ in range(5)]
            return ["does not verify" for raw in made if not _verifies(ready.public_key, raw)]

        return in_four_threads(work)


def _time(tried: TriedToken, *, cold: bool) -> str:
    """Measure the median of some signatures, fewer if they are slow; each with a new session and a search if cold."""
    digest, taken = hashlib.sha256(_MESSAGE).digest(), list[float]()
    with ExitStack() as stack:
        ready = None if cold else stack.enter_context(_ready(tried, KeyType.EC, often=True))
        while len(taken) < _TIMES and sum(taken) < _LONGEST_SECONDS:
            begin = time.perf_counter()
            with nullcontext(ready) if ready else _ready(tried, KeyType.EC, often=True) as key:
                key.sign(ECDSA, digest)
            taken.append(time.perf_counter() - begin)
    name = f"CKM_ECDSA {'with a new session and a search' if cold else 'in an open session'}, median of {len(taken)}"
    tried.measured[name] = f"{statistics.median(taken) * 1000:.2f} ms"
    return "measured"


ASKS: Mapping[str, Ask] = {
    "sign.second-process": _after_second_process,
    "sign.begun-twice": _begun_twice,
    "sign.ecdsa": _ecdsa,
    "sign.long-digest": _long_digest,
    "sign.rsa": partial(_whole_message, key_type=KeyType.RSA, mechanism=RSA_SHA256),
    "sign.rsa-digest-info": _rsa_digest_info,
    "sign.mldsa": partial(_whole_message, key_type=KeyType.ML_DSA, mechanism=MLDSA),
    "sign.threads": _in_threads,
    "time.ecdsa": partial(_time, cold=False),
    "time.ecdsa-cold": partial(_time, cold=True),
}
