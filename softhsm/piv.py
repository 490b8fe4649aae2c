"""The PIV applet of a YubiKey 5: dispatches commands (SP 800-73-4, part 2, 3; Yubico's extensions)."""

from __future__ import annotations

from softhsm import apdu, tlv
from softhsm.piv_pins import PinCommands
from softhsm.piv_session import Session, decode
from softhsm.piv_slots import SlotCommands
from softhsm.piv_state import State
from softhsm.touch import TouchSensor

_PIV = bytes.fromhex("A000000308")
_MANAGER = bytes.fromhex("A000000527471117")
_SELECTED = bytes.fromhex("61114F0600001000010079074F05A000000308")
# The discovery object: PIV, with the application PIN only (SP 800-73-4, part 1, 3.3.2).
_DISCOVERY = bytes.fromhex("7E124F0BA0000003080000100001005F2F024000")
# Fingerprints, facial image, printed information, iris images (table 2).
_READ_WITH_PIN = (0x5FC103, 0x5FC108, 0x5FC109, 0x5FC121)
_SELECT, _VERIFY = 0xA4, 0x20


class PivApplet:
    """A YubiKey's applications. Only PIV does anything.

    Attributes:
        pins: the PIN and PUK commands, and the PINs received.
        slots: the key commands.
    """

    def __init__(self, state: State, sensor: TouchSensor) -> None:
        self._session = Session(state, sensor)
        self._state = state
        self._selected = False
        self.pins = PinCommands(self._session)
        self.slots = SlotCommands(self._session)
        self._handlers = {
            **self.pins.handlers(),
            **self.slots.handlers(),
            0xCB: self._get_data,
            0xDB: self._put_data,
            0xF8: self._get_serial,
            0xFD: self._get_version,
        }

    def reset(self) -> None:
        """Forget the state that a reset or a loss of power clears."""
        self._selected = False
        self._session.reset()

    def process(self, command: apdu.Command) -> bytes:
        """Run a command and return its response data.

        Raises:
            StatusError: the command is refused.
        """
        if command.ins == _SELECT:
            return self._select(command)
        handler = self._handlers.get(command.ins)
        if handler is None or not self._selected:
            raise apdu.StatusError(apdu.UNKNOWN_INSTRUCTION)
        try:
            return handler(command)
        finally:
            if command.ins != _VERIFY:
                self._session.pin_fresh = False

    def _select(self, command: apdu.Command) -> bytes:
        """Select an application. Selecting PIV again keeps its security status (3.1.1), another one ends it."""
        self._session.pin_fresh = False
        if command.data.startswith(_PIV):
            self._selected = True
            return _SELECTED
        self.reset()
        if command.data == _MANAGER:
            return b"Virtual mgr - FW version " + b"%d.%d.%d" % self._state.firmware
        raise apdu.StatusError(apdu.NOT_FOUND)

    def _get_serial(self, _: apdu.Command) -> bytes:
        return self._state.serial.to_bytes(4)

    def _get_version(self, _: apdu.Command) -> bytes:
        return bytes(self._state.firmware)

    def _get_data(self, command: apdu.Command) -> bytes:
        tag = int.from_bytes(decode(command.data).get(0x5C, b""))
        if tag == 0x7E:
            return _DISCOVERY
        if tag in _READ_WITH_PIN and not self._session.pin_verified:
            raise apdu.StatusError(apdu.SECURITY_STATUS)
        if tag not in self._state.objects:
            raise apdu.StatusError(apdu.NOT_FOUND)
        return tlv.encode(0x53, bytes.fromhex(self._state.objects[tag]))

    def _put_data(self, command: apdu.Command) -> bytes:
        self._session.require_management()
        values = decode(command.data)
        tag, content = int.from_bytes(values.get(0x5C, b"")), values.get(0x53)
        if tag >> 16 != 0x5F or content is None:
            raise apdu.StatusError(apdu.WRONG_DATA)
        self.write(tag, content)
        return b""

    def write(self, tag: int, content: bytes) -> None:
        """Write a data object. Empty content removes it."""
        if content:
            self._state.objects[tag] = content.hex()
        else:
            self._state.objects.pop(tag, None)
        self._state.save()
