"""The management key, which authorises changes of keys and data (SP 800-73-4, part 2, appendix A.1 and A.2)."""

from __future__ import annotations

import hmac
import secrets

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from softhsm import apdu, tlv
from softhsm.piv_session import Session
from softhsm.piv_state import CIPHER_KEY_SIZES, MANAGEMENT, TDES, TOUCH_ALWAYS, TOUCH_NEVER

_WITNESS, _CHALLENGE, _RESPONSE = 0x80, 0x81, 0x82
_TOUCH_POLICIES = {0xFF: TOUCH_NEVER, 0xFE: TOUCH_ALWAYS}


class ManagementKey:
    """The management key of a card."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def set(self, command: apdu.Command) -> bytes:
        """SET MANAGEMENT KEY: algorithm, key reference, length, key."""
        self._session.require_management()
        algorithm, reference, length = command.data[:3].ljust(3, b"\0")
        key = command.data[3:]
        sizes = {length, len(key), CIPHER_KEY_SIZES.get(algorithm)}
        if reference != MANAGEMENT or len(sizes) > 1 or command.p2 not in _TOUCH_POLICIES:
            raise apdu.StatusError(apdu.WRONG_DATA)
        state = self._session.state
        state.management_algorithm, state.management_key = algorithm, key.hex()
        state.management_touch = _TOUCH_POLICIES[command.p2]
        state.save()
        return b""

    def authenticate(self, algorithm: int, values: dict[int, bytes]) -> bytes:
        """Run one step: first the card's witness or challenge, then the host's response to it."""
        if algorithm != self._session.state.management_algorithm:
            raise apdu.StatusError(apdu.WRONG_DATA)
        for tag in (_WITNESS, _CHALLENGE):
            if values.get(tag) == b"":
                return self._challenge(tag)
        challenge, self._session.challenge = self._session.challenge, b""
        self._session.managed = False
        if _WITNESS in values:
            self._prove(challenge, values[_WITNESS])
            answer = tlv.encode(_RESPONSE, self._encrypt(values.get(_CHALLENGE, b"")))
        else:
            self._prove(self._encrypt(challenge), values.get(_RESPONSE, b""))
            answer = b""
        self._session.managed = True
        return answer

    def _challenge(self, tag: int) -> bytes:
        self._session.challenge = secrets.token_bytes(8 if self._session.state.management_algorithm == TDES else 16)
        # A witness is sent encrypted and returned in clear. A challenge is sent in clear and returned encrypted.
        return tlv.encode(tag, self._encrypt(self._session.challenge) if tag == _WITNESS else self._session.challenge)

    def _prove(self, expected: bytes, answer: bytes) -> None:
        if not expected or not hmac.compare_digest(expected, answer):
            raise apdu.StatusError(apdu.SECURITY_STATUS)

    def _encrypt(self, data: bytes) -> bytes:
        state = self._session.state
        key = bytes.fromhex(state.management_key)
        algorithm = TripleDES(key) if state.management_algorithm == TDES else algorithms.AES(key)
        if len(data) * 8 % algorithm.block_size:
            raise apdu.StatusError(apdu.WRONG_DATA)
        encryptor = Cipher(algorithm, modes.ECB()).encryptor()  # noqa: S305
        return encryptor.update(data) + encryptor.finalize()
