"""Metrics in the text format of Prometheus, version 0.0.4, and the answer to a health check."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds: the buckets of the histogram.
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_HEALTHY = ("ready", "idle")


class ProfileHealth(NamedTuple):
    """The state of a profile.

    Attributes:
        name: its name.
        state: `ready` if it has credentials, or `idle` if it has none and nothing failed; any other is not healthy.
        expiration: when its last credentials expire or expired; None without any.
        cause: the cause of its last failure, or an empty string.
    """

    name: str
    state: str
    expiration: datetime | None = None
    cause: str = ""

    @property
    def is_healthy(self) -> bool:
        """Whether it has credentials, or gets them once they are asked for, as far as one knows."""
        return self.state in _HEALTHY


@dataclass
class _Profile:
    """What was counted of a profile."""

    sessions: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    created: float | None = None
    certificate: tuple[float, float] | None = None


class Metrics:
    """Counts sessions and failures, and shows them with the states of the profiles. Thread-safe.

    `states` returns the states of the profiles as they are now. Others are not shown.
    """

    def __init__(self, version: str, states: Callable[[], Iterable[ProfileHealth]]) -> None:
        self._version = version
        self._states = states
        self._profiles: dict[str, _Profile] = {}
        self._buckets = Counter[float]()
        self._seconds = 0.0
        self._requests = 0
        self._lock = threading.Lock()

    def succeeded(self, profile: str, now: float, certificate: tuple[datetime, datetime] | None) -> None:
        """Count a session, created now (seconds since 1970), and the times between which its certificate is valid."""
        with self._lock:
            counted = self._profiles.setdefault(profile, _Profile())
            counted.sessions += 1
            counted.created = now
            if certificate:
                counted.certificate = certificate[0].timestamp(), certificate[1].timestamp()

    def failed(self, profile: str, cause: str) -> None:
        """Count a failed attempt by its cause."""
        with self._lock:
            self._profiles.setdefault(profile, _Profile()).failures[cause] += 1

    def took(self, seconds: float) -> None:
        """Count how long a request for a session took."""
        with self._lock:
            self._seconds += seconds
            self._requests += 1
            self._buckets.update(bucket for bucket in _BUCKETS if seconds <= bucket)

    def health(self) -> tuple[bool, str]:
        """Return whether all profiles are healthy, and JSON with the states or causes of those that are not."""
        states = list(self._states())
        failing = {one.name: one.cause or one.state for one in states if not one.is_healthy}
        body = {"status": "failing" if failing else "ok", "profiles": len(states), "failing": failing}
        return not failing, json.dumps(body) + "\n"

    def render(self) -> str:
        """Return the metrics."""
        states = sorted(self._states())
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines(states))

    def _lines(self, states: list[ProfileHealth]) -> Iterator[str]:
        counted = [(one, self._profiles.get(one.name, _Profile())) for one in states]
        yield from _family("hwsigner_build_info", "gauge", "The version.", [({"version": self._version}, 1)])
        yield from _family(
            "hwsigner_sessions_created_total",
            "counter",
            "Sessions that were created.",
            [({"profile": one.name}, own.sessions) for one, own in counted],
        )
        yield from _family(
            "hwsigner_session_failures_total",
            "counter",
            "Failed attempts to create a session.",
            [
                ({"profile": one.name, "cause": cause}, count)
                for one, own in counted
                for cause, count in sorted(own.failures.items())
            ],
        )
        yield from _family(
            "hwsigner_profile_healthy",
            "gauge",
            "1 if the profile has credentials or none were asked for, 0 if it has none.",
            [({"profile": one.name}, int(one.is_healthy)) for one in states],
        )
        yield from _timestamp(
            "session_created", "When the last session was created.", counted, lambda _, own: own.created
        )
        yield from _timestamp(
            "session_expiry",
            "When the last session expires.",
            counted,
            lambda one, _: one.expiration.timestamp() if one.expiration else None,
        )
        for name, index, text in (("start", 0, "begins"), ("expiry", 1, "ends")):
            yield from _timestamp(
                f"certificate_{name}",
                f"When the validity of the last session's certificate {text}.",
                counted,
                lambda _, own, index=index: own.certificate[index] if own.certificate else None,  # type: ignore[misc]
            )
        yield from self._histogram()

    def _histogram(self) -> Iterator[str]:
        name = "hwsigner_create_session_duration_seconds"
        yield f"# HELP {name} Duration of requests for a session, with signature and retries."
        yield f"# TYPE {name} histogram"
        for bucket in _BUCKETS:
            yield _sample(f"{name}_bucket", {"le": str(bucket)}, self._buckets[bucket])
        yield _sample(f"{name}_bucket", {"le": "+Inf"}, self._requests)
        yield _sample(f"{name}_sum", {}, self._seconds)
        yield _sample(f"{name}_count", {}, self._requests)


_Counted = list[tuple[ProfileHealth, _Profile]]
_Samples = list[tuple[dict[str, str], float]]


def _timestamp(
    name: str, text: str, counted: _Counted, value: Callable[[ProfileHealth, _Profile], float | None]
) -> Iterator[str]:
    found = [(one.name, seconds) for one, own in counted if (seconds := value(one, own)) is not None]
    samples: _Samples = [({"profile": profile}, seconds) for profile, seconds in found]
    return _family(f"hwsigner_{name}_timestamp_seconds", "gauge", f"{text} Seconds since 1970.", samples)


def _family(name: str, kind: str, text: str, samples: _Samples) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield _sample(name, labels, value)


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{pairs}}} {value}" if pairs else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
