"""The PINs of one profile that `hwsigner agent unlock` brought. The agent itself asks nobody."""

from __future__ import annotations

from dataclasses import replace

from hwsigner.pins import PinRequest


class Pins:
    """Gives a provider the PINs that were brought; it is the provider's `ask_pin`.

    Attributes:
        wanted: what was asked for last, or None.
    """

    def __init__(self) -> None:
        self.wanted: PinRequest | None = None
        self._brought: dict[PinRequest, memoryview] = {}

    def __call__(self, request: PinRequest) -> str | None:
        """Return the PIN for a request, or None to leave it to the stored places."""
        self.wanted = request
        name = _name(request)
        brought = self._brought.pop(name, None) if request.for_one_signature else self._brought.get(name)
        return None if brought is None else str(brought, "utf-8")

    def bring(self, request: PinRequest, pin: memoryview) -> None:
        """Keep a PIN, in locked memory and as UTF-8, for a request."""
        self._brought[_name(request)] = pin

    def forget(self) -> None:
        """Give up all of them: they are wiped with their views."""
        self._brought.clear()


def _name(request: PinRequest) -> PinRequest:
    """Return what makes two requests the same: the state of the PIN does not."""
    return replace(request, state="")
