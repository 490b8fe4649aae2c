"""Keys in slots: GENERAL AUTHENTICATE, GENERATE, and Yubico's IMPORT, ATTEST, GET METADATA and MOVE KEY."""

from __future__ import annotations

from softhsm import apdu, piv_keys, tlv
from softhsm.piv_attestation import attest
from softhsm.piv_management import ManagementKey
from softhsm.piv_session import Handler, Session, decode
from softhsm.piv_state import (
    ATTESTATION,
    MANAGEMENT,
    MANAGEMENT_KEY,
    PIN,
    PIN_ALWAYS,
    PIN_NEVER,
    PIN_ONCE,
    PUK,
    SLOTS,
    TOUCH_CACHED,
    TOUCH_NEVER,
    Code,
    PrivateKey,
    StoredKey,
    pad,
)

_CHALLENGE, _EXPONENTIATION = 0x81, 0x85
# Of MOVE KEY: instead of a destination, to delete the key.
_NOWHERE = 0xFF
# The firmware that first had each of Yubico's instructions.
_SINCE = {0xF6: (5, 7, 0), 0xF7: (5, 3, 0), 0xF9: (4, 3, 0)}
# The default PIN policies that differ from PIN_ONCE (SP 800-73-4, part 1, table 4b).
_PIN_POLICIES = {0x9C: PIN_ALWAYS, 0x9E: PIN_NEVER}


class SlotCommands:
    """The commands that make and use keys."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._management = ManagementKey(session)

    def handlers(self) -> dict[int, Handler]:
        """Return the handler of each instruction that the firmware has."""
        firmware = self._session.state.firmware
        known: dict[int, Handler] = {
            0x47: self._generate,
            0x87: self._authenticate,
            0xF6: self._move,
            0xF7: self._get_metadata,
            0xF9: self._attest,
            0xFE: self._import,
            0xFF: self._management.set,
        }
        return {number: handler for number, handler in known.items() if firmware >= _SINCE.get(number, firmware)}

    def store(self, slot: int, key: PrivateKey, policies: tuple[int, int], *, generated: bool) -> None:
        """Store a key in a slot with its PIN policy and touch policy. 0 means the slot's default."""
        pin, touch = policies[0] or _PIN_POLICIES.get(slot, PIN_ONCE), policies[1] or TOUCH_NEVER
        self._session.state.keys[slot] = StoredKey.of(key, pin, touch, generated=generated)
        self._session.state.save()

    def _generate(self, command: apdu.Command) -> bytes:
        self._session.require_management()
        self._require_slot(command.p2)
        values = decode(decode(command.data).get(0xAC, b""))
        algorithm = int.from_bytes(values.get(0x80, b""))
        piv_keys.require_supported(algorithm, self._session.state.firmware)
        key = piv_keys.generate(algorithm)
        self.store(command.p2, key, _policies(values), generated=True)
        return tlv.encode(0x7F49, piv_keys.public_key(key))

    def _import(self, command: apdu.Command) -> bytes:
        self._session.require_management()
        self._require_slot(command.p2)
        piv_keys.require_supported(command.p1, self._session.state.firmware)
        values = decode(command.data)
        self.store(command.p2, piv_keys.read(command.p1, values), _policies(values), generated=False)
        return b""

    def _authenticate(self, command: apdu.Command) -> bytes:
        values = decode(decode(command.data).get(0x7C, b""))
        if command.p2 == MANAGEMENT:
            return tlv.encode(0x7C, self._management.authenticate(command.p1, values))
        key = self._authorised_key(command.p2, command.p1)
        point, block = values.get(_EXPONENTIATION), values.get(_CHALLENGE, b"")
        result = piv_keys.use(key, block) if point is None else piv_keys.agree(key, point)
        return tlv.encode(0x7C, tlv.encode(0x82, result))

    def _authorised_key(self, slot: int, algorithm: int) -> PrivateKey:
        """Return a key after its PIN policy and touch policy are satisfied."""
        session = self._session
        stored = session.state.keys.get(slot)
        if stored is None or slot == ATTESTATION or stored.algorithm != algorithm:
            raise apdu.StatusError(apdu.WRONG_DATA)
        verified = {PIN_NEVER: True, PIN_ONCE: session.pin_verified, PIN_ALWAYS: session.pin_fresh}[stored.pin_policy]
        if not verified:
            raise apdu.StatusError(apdu.SECURITY_STATUS)
        if stored.touch_policy != TOUCH_NEVER and not session.sensor.wait(cached=stored.touch_policy == TOUCH_CACHED):
            raise apdu.StatusError(apdu.SECURITY_STATUS)
        return stored.private_key

    def _attest(self, command: apdu.Command) -> bytes:
        stored = self._session.state.keys.get(command.p1)
        if command.p1 not in SLOTS or stored is None or not stored.generated:
            raise apdu.StatusError(apdu.WRONG_DATA)
        if ATTESTATION not in self._session.state.keys:
            raise apdu.StatusError(apdu.REFERENCE_NOT_FOUND)
        return attest(self._session.state, command.p1)

    def _move(self, command: apdu.Command) -> bytes:
        """MOVE KEY: from the slot in P2 to the empty one in P1, or nowhere. The certificate stays where it is."""
        self._session.require_management()
        target, source = command.p1, command.p2
        self._require_slot(source)
        keys = self._session.state.keys
        if source not in keys:
            raise apdu.StatusError(apdu.REFERENCE_NOT_FOUND)
        if target != _NOWHERE:
            if target not in SLOTS or source == ATTESTATION or target in keys:
                raise apdu.StatusError(apdu.WRONG_DATA)
            keys[target] = keys[source]
        del keys[source]
        self._session.state.save()
        return b""

    def _get_metadata(self, command: apdu.Command) -> bytes:
        state = self._session.state
        if command.p2 == 0x80:
            return _code_metadata(state.pin, PIN)
        if command.p2 == 0x81:
            return _code_metadata(state.puk, PUK)
        if command.p2 == MANAGEMENT:
            is_default = state.management_key == MANAGEMENT_KEY.hex()
            return _metadata(state.management_algorithm, 0, state.management_touch) + tlv.encode(5, bytes([is_default]))
        stored = state.keys.get(command.p2)
        if stored is None:
            raise apdu.StatusError(apdu.REFERENCE_NOT_FOUND)
        origin = tlv.encode(3, b"\x01" if stored.generated else b"\x02")
        public_key = tlv.encode(4, piv_keys.public_key(stored.private_key))
        return _metadata(stored.algorithm, stored.pin_policy, stored.touch_policy) + origin + public_key

    def _require_slot(self, slot: int) -> None:
        if slot not in (*SLOTS, ATTESTATION):
            raise apdu.StatusError(apdu.WRONG_DATA)


def _policies(values: dict[int, bytes]) -> tuple[int, int]:
    pin, touch = (int.from_bytes(values.get(tag, b"")) for tag in (0xAA, 0xAB))
    # 4 and 5 are for fingerprints, which this card does not support.
    if pin > PIN_ALWAYS or touch > TOUCH_CACHED:
        raise apdu.StatusError(apdu.WRONG_DATA)
    return pin, touch


def _metadata(algorithm: int, pin_policy: int, touch_policy: int) -> bytes:
    return tlv.encode(1, bytes([algorithm])) + tlv.encode(2, bytes([pin_policy, touch_policy]))


def _code_metadata(code: Code, default: str) -> bytes:
    is_default = code.value == pad(default).hex()
    tries = tlv.encode(6, bytes([code.tries, code.left]))
    return tlv.encode(1, b"\xff") + tlv.encode(5, bytes([is_default])) + tries
