"""The volatile state of a PIV card, shared by the parts of the applet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from softhsm import apdu, tlv
from softhsm.piv_state import State
from softhsm.touch import TouchSensor

Handler = Callable[[apdu.Command], bytes]


@dataclass
class Session:
    """The security status, the persistent state, and the touch sensor.

    Attributes:
        state: the persistent state.
        sensor: the touch sensor.
        pin_verified: whether the PIN has been verified.
        pin_fresh: whether the previous command verified the PIN.
        managed: whether the host has proved the management key.
        challenge: the witness or challenge that the host has yet to respond to.
    """

    state: State
    sensor: TouchSensor
    pin_verified: bool = False
    pin_fresh: bool = False
    managed: bool = False
    challenge: bytes = b""

    def reset(self) -> None:
        """Revoke all rights."""
        self.pin_verified = self.pin_fresh = self.managed = False
        self.challenge = b""

    def require_management(self) -> None:
        """Refuse the command unless the host has proved the management key."""
        if not self.managed:
            raise apdu.StatusError(apdu.SECURITY_STATUS)


def decode(data: bytes) -> dict[int, bytes]:
    """Return data objects by tag, or refuse the command."""
    try:
        return tlv.decode(data)
    except ValueError:
        raise apdu.StatusError(apdu.WRONG_DATA) from None
