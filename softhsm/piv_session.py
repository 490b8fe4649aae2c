"""What a PIV card knows only while it has power, and what the parts of the applet share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from softhsm import apdu, tlv
from softhsm.piv_state import State
from softhsm.touch import TouchSensor

Handler = Callable[[apdu.Command], bytes]


@dataclass
class Session:
    """The security status, the state behind it, and the touch sensor.

    Attributes:
        pin_verified: the PIN was right, and nothing has taken that back.
        pin_fresh: it was right in the command just before this one.
        managed: the management key was proved.
        challenge: what the other side has yet to answer.
    """

    state: State
    sensor: TouchSensor
    pin_verified: bool = False
    pin_fresh: bool = False
    managed: bool = False
    challenge: bytes = b""

    def reset(self) -> None:
        """Take all rights back."""
        self.pin_verified = self.pin_fresh = self.managed = False
        self.challenge = b""

    def require_management(self) -> None:
        """Refuse a command of somebody who did not prove the management key."""
        if not self.managed:
            raise apdu.StatusError(apdu.SECURITY_STATUS)


def decode(data: bytes) -> dict[int, bytes]:
    """Return data objects by tag, or refuse the command."""
    try:
        return tlv.decode(data)
    except ValueError:
        raise apdu.StatusError(apdu.WRONG_DATA) from None
