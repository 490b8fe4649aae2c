"""docs/how-to/monitoring.md against the program: its tables and examples."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import partial
from typing import Any

from hwsigner import errors
from hwsigner._cli.metrics import METRICS
from hwsigner._config.monitoring import MONITORING
from hwsigner._monitoring.metrics import Metrics, PodMetrics, ProfileHealth
from pages import ROOT

PAGE = (ROOT / "docs" / "how-to" / "monitoring.md").read_text()


def section(title: str) -> str:
    return re.split(r"^##+ ", PAGE.split(f"# {title}\n")[1], flags=re.MULTILINE)[0]


def examples() -> list[dict[str, Any]]:
    """Return the lines of JSON on the page: a failure in the log, and an audit line."""
    return [json.loads(line) for line in re.findall(r"```json\n(.*)\n```", PAGE)][:2]


def rows(text: str) -> list[str]:
    """Return the names in the first column of a table."""
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_causes_are_those_of_the_errors() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert rows(section("Causes")) == sorted({kind.cause for kind in classes if hasattr(kind, "cause")})


def test_flags_are_those_of_the_program() -> None:
    listed = [name for name in rows(PAGE.split("## The log")[0]) if name.startswith("--")]
    assert set(listed) == {f"--{flag.name}" for flag in MONITORING + METRICS}


def metrics() -> Metrics:
    """Return what the example of the page is of."""
    more = partial(PodMetrics().lines, {}, [], ())
    found = Metrics("0.9.0", lambda: [ProfileHealth("web", "ready", datetime.now(UTC))], more)
    for _ in range(12):
        found.succeeded("web", 1.0, (datetime.now(UTC), datetime.now(UTC)))
    found.failed("web", "service", "AccessDeniedException")
    return found


def test_example_of_metrics_is_what_the_program_writes() -> None:
    [example] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert metrics().render().startswith(example)


def test_table_of_metrics_has_all_metrics() -> None:
    written = re.findall(r"^# TYPE (\w+)", metrics().render(), re.MULTILINE)
    assert sorted(rows(section("Metrics"))) == sorted(written)


def test_example_of_health_is_what_the_program_answers() -> None:
    states = [ProfileHealth("web", "ready"), ProfileHealth("db", "failing", None, "service")]
    assert json.loads(re.findall(r"```json\n(.*)\n```", PAGE)[2]) == json.loads(
        Metrics("0.9.0", lambda: states).health()[1]
    )


def test_table_of_alerts_has_all_alerts() -> None:
    rules = (ROOT / "packaging" / "prometheus-rules.yml").read_text()
    assert rows(section("Alerts")) == re.findall(r"alert: (\w+)", rules)


def test_fields_of_the_examples_are_in_the_tables() -> None:
    failure, audit = examples()
    assert failure.keys() <= set(rows(section("The log")))
    assert audit.keys() <= {"time", "message", *rows(section("The audit log"))}
