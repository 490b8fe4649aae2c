"""The rate of requests that the control plane takes, for each kind of resource, without a burst."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from hwsigner.emulator.refusals import RefusalError
from hwsigner.emulator.world import World

# By AWS's quotas. Operations that name none of them, such as PutAttributeMapping, are not limited.
_KINDS = ("TrustAnchor", "Profile", "Crl", "Subject", "Tag")


class Rates:
    """When requests were taken, by account, region and kind of resource."""

    def __init__(self, world: World, clock: Callable[[], datetime]) -> None:
        self._world = world
        self._clock = clock
        self._taken: dict[tuple[str, str, str], datetime] = {}

    def take(self, account: str, region: str, operation: str) -> None:
        """Take a request, or refuse it with ThrottlingException. A refused one does not count."""
        kind = next((each for each in _KINDS if each.lower() in operation.lower()), "")
        if self._world.rate is None or not kind:
            return
        now, last = self._clock(), self._taken.get((account, region, kind))
        if last is not None and last <= now < last + timedelta(seconds=1 / self._world.rate):
            raise RefusalError("ThrottlingException", 429, "Rate exceeded")
        self._taken[account, region, kind] = now
