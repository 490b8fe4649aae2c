"""The fields of `--output json` in docs/reference/output.md, and what a command prints."""

from __future__ import annotations

import json
import re
from typing import Any

from pages import ROOT
from scene import Outcome


def documented() -> dict[str, str]:
    """Return what the page says of each command's fields, by command."""
    text = (ROOT / "docs" / "reference" / "output.md").read_text()
    return dict(re.findall(r"^\| `([a-z -]+)` \| (.+) \|$", text, re.MULTILINE))


def read(outcome: Outcome, command: str, *, status: int = 0, alone: bool = False) -> Any:
    """Return the JSON that a command printed, which has fields that the page names.

    Args:
        outcome: the command's output.
        command: its name.
        status: its status.
        alone: whether nothing may be on stderr.
    """
    assert outcome.status == status, outcome.err
    assert not (alone and outcome.err)
    data = json.loads(outcome.out)
    assert [name for name in data if f"`{name}`" not in documented()[command]] == []
    return data
