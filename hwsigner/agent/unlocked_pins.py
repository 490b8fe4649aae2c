"""The PINs of one profile that `hwsigner agent unlock` was given."""

from __future__ import annotations

from hwsigner.errors import PinRequiredError
from hwsigner.pins import PinRequest


class UnlockedPins:
    """The PINs of a profile that `hwsigner agent unlock` was given; the provider's `ask_pin`. The agent never prompts.

    Attributes:
        wanted: the last PIN that was asked for, or None.
        is_unlocking: whether `unlock` runs, so that a PIN can be added.
    """

    def __init__(self) -> None:
        self.wanted: PinRequest | None = None
        self.is_unlocking = False
        self._pins: dict[PinRequest, memoryview] = {}

    def __call__(self, request: PinRequest) -> str | None:
        """Return the PIN for a request, or None to leave it to the stored places."""
        self.wanted = request
        key = _key(request)
        pin = self._pins.pop(key, None) if request.for_one_signature else self._pins.get(key)
        return None if pin is None else str(pin, "utf-8")

    def prompt(self, request: PinRequest) -> str | None:
        """Return the PIN for a request that the stored places do not answer, or None.

        While `unlock` runs, raises a PinRequiredError if there may be no PIN: a wrong empty one would be an attempt.
        """
        pin = self(request)
        if pin is None and request.may_be_empty and self.is_unlocking:
            raise PinRequiredError(f"{request.subject} may need its {request.kind}")
        return pin

    def add(self, request: PinRequest, pin: memoryview) -> None:
        """Keep the PIN for a request: UTF-8 in locked memory."""
        self._pins[_key(request)] = pin

    def forget(self) -> None:
        """Forget all PINs: they are overwritten with their views."""
        self._pins.clear()


def _key(request: PinRequest) -> PinRequest:
    """Return a request without the PIN's state, which may differ each time."""
    return request._replace(state="")
