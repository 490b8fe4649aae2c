"""Metrics and health: what they say, with prometheus_client as the judge of the format."""

from __future__ import annotations

import json
import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from hwsigner._monitoring import metrics as module
from hwsigner._monitoring.metrics import Metrics, ProfileHealth, Textfile

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
READY = ProfileHealth("web", "ready", NOW + timedelta(hours=1))


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a text by name and values of their labels."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_metrics_count_sessions_and_failures_by_cause() -> None:
    metrics = Metrics("1.2", lambda: [READY])
    dates = NOW - timedelta(days=1), NOW + timedelta(days=9)
    for cause in ("service", "service", "pin"):
        metrics.failed("web", cause)
    metrics.succeeded("web", NOW.timestamp(), dates)
    found = samples(metrics.render())
    assert found["hwsigner_build_info", "1.2"] == 1
    assert found["hwsigner_sessions_created_total", "web"] == 1
    assert found["hwsigner_session_failures_total", "web", "service"] == 2
    assert found["hwsigner_session_failures_total", "web", "pin"] == 1
    assert found["hwsigner_session_created_timestamp_seconds", "web"] == NOW.timestamp()
    assert found["hwsigner_session_expiry_timestamp_seconds", "web"] == NOW.timestamp() + 3600
    assert found["hwsigner_certificate_start_timestamp_seconds", "web"] == dates[0].timestamp()
    assert found["hwsigner_certificate_expiry_timestamp_seconds", "web"] == dates[1].timestamp()


@given(st.lists(st.floats(0, 100)))
def test_histogram_counts_each_request_in_every_bucket_that_it_fits(durations: list[float]) -> None:
    metrics = Metrics("1.2", list)
    for seconds in durations:
        metrics.took(seconds)
    name = "hwsigner_create_session_duration_seconds"
    found = samples(metrics.render())
    for (one, *labels), value in found.items():
        if one == f"{name}_bucket":
            assert value == sum(seconds <= float(labels[0]) for seconds in durations)
    assert found[f"{name}_count",] == len(durations)
    assert found[f"{name}_sum",] == pytest.approx(sum(durations))


@given(st.text(), st.sampled_from(["pin", "service"]))
def test_any_name_is_read_back_as_it_was(name: str, cause: str) -> None:
    metrics = Metrics("1.2", lambda: [ProfileHealth(name, "failing", None, cause)])
    metrics.failed(name, cause)
    text = metrics.render().encode("utf-8", "replace").decode()
    assert ("hwsigner_session_failures_total", name.encode("utf-8", "replace").decode(), cause) in samples(text)


def test_profile_that_was_removed_has_no_metrics_any_more() -> None:
    states = [READY, READY._replace(name="db")]
    metrics = Metrics("1.2", lambda: states)
    metrics.failed("db", "key")
    states.pop()
    assert 'profile="db"' not in metrics.render()


def test_labels_are_profile_and_cause_alone() -> None:
    metrics = Metrics("1.2", lambda: [READY])
    metrics.failed("web", "pin")
    metrics.succeeded("web", 1.0, (NOW, NOW))
    labels = {
        label
        for family in text_string_to_metric_families(metrics.render())
        for sample in family.samples
        for label in sample.labels
    }
    assert labels == {"profile", "cause", "le", "version"}


@pytest.mark.parametrize(
    ("states", "failing"),
    [
        ([READY, ProfileHealth("db", "idle", NOW)], {}),
        ([READY, ProfileHealth("db", "failing", None, "service")], {"db": "service"}),
        ([ProfileHealth("db", "locked"), ProfileHealth("web", "starting")], {"db": "locked", "web": "starting"}),
        ([], {}),
    ],
)
def test_health_names_the_profiles_without_credentials(states: list[ProfileHealth], failing: dict[str, str]) -> None:
    is_healthy, body = Metrics("1.2", lambda: states).health()
    assert is_healthy is not bool(failing)
    assert json.loads(body) == {
        "status": "failing" if failing else "ok",
        "profiles": len(states),
        "failing": failing,
    }


def test_textfile_is_written_whole_for_all_to_read_and_removed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)
    path, texts = tmp_path / "hwsigner.prom", ["a 1\n" * 10_000, "b 2\n" * 10_000]
    before = os.umask(0o077)
    file = Textfile(str(path), lambda: texts[int(time.monotonic() * 1000) % 2], lambda text: None)
    file.start()
    try:
        seen = set[str]()
        end = time.monotonic() + 30
        while len(seen) < 2 and time.monotonic() < end:
            if path.exists():
                seen.add(path.read_text())
                assert stat.S_IMODE(path.stat().st_mode) == 0o644
    finally:
        os.umask(before)
        file.stop()
    assert seen == set(texts)
    assert not any(tmp_path.iterdir())


def test_textfile_that_can_t_be_written_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.001)
    logged, tries = list[str](), list[int]()

    def render() -> str:
        tries.append(1)
        return ""

    (tmp_path / "x.prom").mkdir()  # It can't be replaced by a file.
    file = Textfile(str(tmp_path / "x.prom"), render, logged.append)
    file.start()
    while len(tries) < 5:
        time.sleep(0.001)
    file.stop()
    assert logged == [f"warning: the metrics can't be written to {tmp_path}/x.prom: Is a directory"]
