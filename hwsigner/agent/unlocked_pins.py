"""The PINs of one profile that `hwsigner agent unlock` brought. The agent never prompts for a PIN."""

from __future__ import annotations

from dataclasses import replace

from hwsigner.pins import PinRequest


class UnlockedPins:
    """Gives a provider the PINs that were brought; it is the provider's `ask_pin`.

    Attributes:
        wanted: the last PIN that was asked for, or None.
    """

    def __init__(self) -> None:
        self.wanted: PinRequest | None = None
        self._brought: dict[PinRequest, memoryview] = {}

    def __call__(self, request: PinRequest) -> str | None:
        """Return the PIN for a request, or None to leave it to the stored places."""
        self.wanted = request
        key = _key(request)
        brought = self._brought.pop(key, None) if request.for_one_signature else self._brought.get(key)
        return None if brought is None else str(brought, "utf-8")

    def bring(self, request: PinRequest, pin: memoryview) -> None:
        """Keep the PIN for a request: UTF-8 in locked memory."""
        self._brought[_key(request)] = pin

    def forget(self) -> None:
        """Forget all PINs: they are overwritten with their views."""
        self._brought.clear()


def _key(request: PinRequest) -> PinRequest:
    """Return a request without the PIN's state, which may differ each time."""
    return replace(request, state="")
