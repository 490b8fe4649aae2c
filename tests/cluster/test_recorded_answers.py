"""The recorded answers are those of a real API server."""

from __future__ import annotations

import json
import re
from typing import Any

from cluster.answers import RECORDED, ask_all
from cluster.sources import Source

_OF_ONE_CLUSTER = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[\d:]+Z|127\.0\.0\.1:\d+|\"(kid|n)\": \"[\w-]+\""
)


def _comparable(answers: list[dict[str, Any]]) -> list[str]:
    """Return answers without what is different in each cluster."""
    return [_OF_ONE_CLUSTER.sub("~", json.dumps(one, sort_keys=True)) for one in answers]


def test_recorded_answers_are_those_of_this_api_server(source: Source) -> None:
    recorded = json.loads(RECORDED.read_text())["answers"]
    assert _comparable(ask_all(source.api, source.tokens)) == _comparable(recorded)
