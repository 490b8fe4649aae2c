"""Metrics in the text format of Prometheus, version 0.0.4, also in a file, and the answer to a health check."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds: the buckets of the histogram.
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_HEALTHY = ("ready", "idle")
# Between two writes of a textfile.
WRITE_SECONDS = 15.0


class ProfileHealth(NamedTuple):
    """The state of a profile."""

    name: str
    state: str  # `ready` if it has credentials, or `idle` if it has none and nothing failed; any other is not healthy.
    expiration: datetime | None = None  # Of its last credentials.
    cause: str = ""  # Of its last failure.

    @property
    def is_healthy(self) -> bool:
        """Whether it has credentials, or gets them once they are asked for, as far as one knows."""
        return self.state in _HEALTHY


@dataclass
class _Counts:
    """What was counted of a profile."""

    sessions: int = 0
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)  # By cause and reason.
    created: float | None = None
    begins: float | None = None  # Its last certificate.
    ends: float | None = None


class Metrics:
    """Counts sessions and failures, and shows them with the states of the profiles. Thread-safe.

    `states` returns the states of the profiles as they are now. Others are not shown. `more` returns further lines.
    """

    def __init__(
        self,
        version: str,
        states: Callable[[], Iterable[ProfileHealth]],
        more: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._version = version
        self._states = states
        self._more = more
        self._profiles: dict[str, _Counts] = {}
        self._requests = Histogram()
        self._lock = threading.Lock()

    def succeeded(self, profile: str, now: float, certificate: tuple[datetime, datetime] | None) -> None:
        """Count a session.

        `now` is in seconds since 1970; the certificate is given by the times between which it is valid.
        """
        with self._lock:
            counted = self._profiles.setdefault(profile, _Counts())
            counted.sessions += 1
            counted.created = now
            if certificate:
                counted.begins, counted.ends = (end.timestamp() for end in certificate)

    def failed(self, profile: str, cause: str, reason: str = "") -> None:
        """Count a failed attempt by its cause, and by the service's reason if it refused."""
        with self._lock:
            self._profiles.setdefault(profile, _Counts()).failures[cause, reason] += 1

    def took(self, seconds: float) -> None:
        """Count how long a request for a session took."""
        with self._lock:
            self._requests.add(seconds)

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
        counted = [(one, self._profiles.get(one.name, _Counts())) for one in states]
        yield from _family("hwsigner_build_info", "gauge", "The version.", [({"version": self._version}, 1)])
        created = [({"profile": one.name}, own.sessions) for one, own in counted]
        yield from _family("hwsigner_sessions_created_total", "counter", "Sessions that were created.", created)
        failed: _Samples = [
            ({"profile": one.name, "cause": cause, **({"reason": reason} if reason else {})}, count)
            for one, own in counted
            for (cause, reason), count in sorted(own.failures.items())
        ]
        text = "Failed attempts to create a session."
        yield from _family("hwsigner_session_failures_total", "counter", text, failed)
        text = "1 if the profile has credentials or none were asked for, 0 if it has none."
        healthy = [({"profile": one.name}, int(one.is_healthy)) for one in states]
        yield from _family("hwsigner_profile_healthy", "gauge", text, healthy)
        times = {one.name: own.created for one, own in counted}
        yield from _timestamp("session_created", "When the last session was created.", times)
        times = {one.name: one.expiration.timestamp() if one.expiration else None for one in states}
        yield from _timestamp("session_expiry", "When the last session expires.", times)
        text = "When the validity of the last session's certificate"
        yield from _timestamp("certificate_start", f"{text} begins.", {one.name: own.begins for one, own in counted})
        yield from _timestamp("certificate_expiry", f"{text} ends.", {one.name: own.ends for one, own in counted})
        text = "Duration of requests for a session, with signature and retries."
        yield from self._requests.lines("hwsigner_create_session_duration_seconds", text)
        yield from self._more()


class Histogram:
    """How many durations there were, by their length."""

    def __init__(self) -> None:
        self._buckets = Counter[float]()
        self._seconds = 0.0
        self._count = 0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self._seconds += seconds
        self._count += 1
        self._buckets.update(bucket for bucket in _BUCKETS if seconds <= bucket)

    def lines(self, name: str, text: str) -> Iterator[str]:
        """Yield the lines of this metric."""
        yield f"# HELP {name} {text}"
        yield f"# TYPE {name} histogram"
        for bucket in _BUCKETS:
            yield _sample(f"{name}_bucket", {"le": str(bucket)}, self._buckets[bucket])
        yield _sample(f"{name}_bucket", {"le": "+Inf"}, self._count)
        yield _sample(f"{name}_sum", {}, self._seconds)
        yield _sample(f"{name}_count", {}, self._count)


class PodMetrics:
    """What `serve --pods` counts besides. Thread-safe."""

    def __init__(self) -> None:
        self._reviews = Counter[str]()
        self._seconds = Histogram()
        self._good = 0.0
        self._failed_reads = 0
        self._is_current = True
        self._lock = threading.Lock()

    def reviewed(self, result: str, seconds: float) -> None:
        """Count a review of a token: its result, which is `valid`, `refused` or why there is none."""
        with self._lock:
            self._reviews[result] += 1
            self._seconds.add(seconds)
            if result in ("valid", "refused"):
                self._good = time.time()

    def read_policy(self, *, is_good: bool) -> None:
        """Note whether the policy and the profiles that are on disk are in use."""
        self._is_current = is_good
        self._failed_reads += not is_good

    def lines(self, sent: Mapping[bytes, int], causes: Sequence[str], problems: Collection[str]) -> Iterator[str]:
        """Yield the lines, with the responses by status, and which of the causes are problems now."""
        with self._lock:
            codes = [({"code": code.decode()}, count) for code, count in sorted(dict(sent).items())]
            yield from _family("hwsigner_responses_total", "counter", "Responses to Pods. Probes get 204.", codes)
            results = [({"result": result}, count) for result, count in sorted(self._reviews.items())]
            yield from _family("hwsigner_token_reviews_total", "counter", "Reviews of tokens.", results)
            yield from self._seconds.lines("hwsigner_token_review_duration_seconds", "Duration of reviews of tokens.")
            good: _Samples = [({}, self._good)] if self._good else []
            name, text = "hwsigner_token_review_answered_timestamp_seconds", "When a review had an answer last."
            yield from _family(name, "gauge", f"{text} Seconds since 1970.", good)
        text = "Changed policies and profiles that were bad, so that the old ones stayed in use."
        yield from _family("hwsigner_policy_reload_failures_total", "counter", text, [({}, self._failed_reads)])
        text = "1 if the policy and profiles on disk are in use, 0 if they are bad."
        yield from _family("hwsigner_policy_current", "gauge", text, [({}, int(self._is_current))])
        text = "1 for each cause for which Pods get no new credentials now, else 0."
        found = [({"cause": cause}, int(cause in problems)) for cause in causes]
        yield from _family("hwsigner_pods_problem", "gauge", text, found)


_Samples = Sequence[tuple[dict[str, str], float]]


def _timestamp(name: str, text: str, times: Mapping[str, float | None]) -> Iterator[str]:
    samples: _Samples = [({"profile": name}, seconds) for name, seconds in times.items() if seconds is not None]
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


class Textfile:
    """Writes a file every 15 seconds, whole: the time of its last change says that the program runs.

    It has mode 0644. `log` takes a line if it can't be written, once until it can be again.
    """

    def __init__(self, path: str, render: Callable[[], str], log: Callable[[str], None]) -> None:
        self._path = path
        self._render = render
        self._log = log
        self._is_failing = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hwsigner-textfile", daemon=True)

    def start(self) -> None:
        """Write the file, and from now on every 15 seconds."""
        self._thread.start()

    def stop(self) -> None:
        """Stop writing, and remove the file, so that its metrics are not taken for those of a running program."""
        self._ending.set()
        self._thread.join(1.0)
        with suppress(OSError):
            os.unlink(self._path)

    def _run(self) -> None:
        while True:
            self._write()
            if self._ending.wait(WRITE_SECONDS):
                return

    def _write(self) -> None:
        new = f"{self._path}.{os.getpid()}.new"  # The collector reads *.prom only.
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with open(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(descriptor, 0o644)  # Whatever the umask is.
                file.write(self._render())
            os.replace(new, self._path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(new)
            if not self._is_failing:
                self._log(f"warning: the metrics can't be written to {self._path}: {error.strerror or error}")
            self._is_failing = True
        else:
            self._is_failing = False
