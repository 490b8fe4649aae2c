"""PIN and PUK: VERIFY, CHANGE REFERENCE DATA, RESET RETRY COUNTER (SP 800-73-4, part 2, 3.2), and Yubico's resets."""

from __future__ import annotations

from softhsm import apdu
from softhsm.piv_session import Handler, Session
from softhsm.piv_state import PIN, PUK, Code, pad

_PIN, _PUK = 0x80, 0x81
_MIN_LENGTH = 6


class PinCommands:
    """The commands that compare or set a code.

    Attributes:
        tries: the status word of each PIN received, in order.
    """

    def __init__(self, session: Session) -> None:
        self.tries: list[int] = []
        self._session = session

    def handlers(self) -> dict[int, Handler]:
        """Return the handler of each instruction."""
        return {0x20: self._verify, 0x24: self._change, 0x2C: self._unblock, 0xFA: self._set_tries, 0xFB: self._reset}

    def _verify(self, command: apdu.Command) -> bytes:
        session = self._session
        if command.p2 != _PIN or command.p1 not in (0x00, 0xFF):
            raise apdu.StatusError(apdu.REFERENCE_NOT_FOUND)
        if command.p1 == 0xFF:  # Revoke the verification (table 9).
            session.pin_verified = session.pin_fresh = False
        elif command.data:
            self._compare_pin(command.data)
            session.pin_verified = session.pin_fresh = True
        elif not session.pin_verified:
            pin = session.state.pin
            raise apdu.StatusError(apdu.WRONG_REFERENCE + min(pin.left, 15) if pin.left else apdu.BLOCKED)
        return b""

    def _change(self, command: apdu.Command) -> bytes:
        old, new = self._split(command)
        if command.p2 == _PIN:
            self._compare_pin(old)
            code = self._session.state.pin
        elif command.p2 == _PUK:
            code = self._session.state.puk
            self._compare(code, old)
        else:
            raise apdu.StatusError(apdu.REFERENCE_NOT_FOUND)
        self._set(code, new)
        return b""

    def _unblock(self, command: apdu.Command) -> bytes:
        puk, new = self._split(command)
        if command.p2 != _PIN:
            raise apdu.StatusError(apdu.REFERENCE_NOT_FOUND)
        self._compare(self._session.state.puk, puk)
        self._set(self._session.state.pin, new)
        return b""

    def _set_tries(self, command: apdu.Command) -> bytes:
        """SET PIN RETRIES: reset PIN and PUK to the factory values, with new numbers of tries."""
        self._session.require_management()
        if not self._session.pin_verified:
            raise apdu.StatusError(apdu.SECURITY_STATUS)
        if not command.p1 or not command.p2:
            raise apdu.StatusError(apdu.WRONG_DATA)
        state = self._session.state
        state.pin = Code(pad(PIN).hex(), command.p1, command.p1)
        state.puk = Code(pad(PUK).hex(), command.p2, command.p2)
        state.save()
        return b""

    def _reset(self, command: apdu.Command) -> bytes:
        """RESET: allowed only if PIN and PUK are both blocked."""
        state = self._session.state
        if state.pin.left or state.puk.left:
            raise apdu.StatusError(apdu.CONDITIONS)
        state.reset()
        state.save()
        self._session.reset()
        return b""

    def _split(self, command: apdu.Command) -> tuple[bytes, bytes]:
        if len(command.data) != 16:
            raise apdu.StatusError(apdu.WRONG_DATA)
        return command.data[:8], command.data[8:]

    def _compare_pin(self, value: bytes) -> None:
        status = apdu.OK
        try:
            self._compare(self._session.state.pin, value)
        except apdu.StatusError as error:
            status = error.status
            self._session.pin_verified = self._session.pin_fresh = False
            raise
        finally:
            self.tries.append(status)

    def _compare(self, code: Code, value: bytes) -> None:
        """Refuse a wrong value and count the failed try."""
        if code.left == 0:
            raise apdu.StatusError(apdu.BLOCKED)
        if len(value) != 8:
            raise apdu.StatusError(apdu.WRONG_DATA)
        if value.hex() != code.value:
            code.left -= 1
            self._session.state.save()
            raise apdu.StatusError(apdu.WRONG_REFERENCE + min(code.left, 15))
        if code.left != code.tries:
            code.left = code.tries
            self._session.state.save()

    def _set(self, code: Code, value: bytes) -> None:
        stripped = value.rstrip(b"\xff")
        if len(stripped) < _MIN_LENGTH or b"\xff" in stripped:
            raise apdu.StatusError(apdu.CONDITIONS)
        code.set(value)
        self._session.state.save()
