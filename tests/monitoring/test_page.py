"""docs/monitoring.md against the program: its tables and examples."""

from __future__ import annotations

import json
import re
from typing import Any

from hwsigner import errors
from hwsigner.config.monitoring import MONITORING
from pages import ROOT

PAGE = (ROOT / "docs" / "monitoring.md").read_text()


def section(title: str) -> str:
    return re.split(r"^##+ ", PAGE.split(f"# {title}\n")[1], flags=re.MULTILINE)[0]


def examples() -> list[dict[str, Any]]:
    """Return the lines of JSON on the page: a failure in the log, and an audit line."""
    return [json.loads(line) for line in re.findall(r"```json\n(.*)\n```", PAGE)]


def rows(text: str) -> list[str]:
    """Return the names in the first column of a table."""
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_causes_are_those_of_the_errors() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert rows(section("Causes")) == sorted({kind.cause for kind in classes if hasattr(kind, "cause")})


def test_flags_are_those_of_the_program() -> None:
    assert rows(PAGE.split("## The log")[0])[:4] == [f"--{flag.name}" for flag in MONITORING]


def test_fields_of_the_examples_are_in_the_tables() -> None:
    failure, audit = examples()
    assert failure.keys() <= set(rows(section("The log")))
    assert audit.keys() <= {"time", "message", *rows(section("The audit log"))}
