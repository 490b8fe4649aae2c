"""What a real API server answers to the requests of `serve --pods`: recording it, and the recorded file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.api import API, REVIEWS, Answer
from cluster.tokens import AUDIENCE, CASES, EKS_AUDIENCE

RECORDED = Path(__file__).with_name("answers.json")
KEYS, CONFIGURATION = "/openid/v1/jwks", "/.well-known/openid-configuration"
AUDIENCES = ([AUDIENCE], [AUDIENCE, EKS_AUDIENCE])
_REVIEWERS = ("reviewer", "stale reviewer", "powerless reviewer", "")
_PLACE = "THE-TOKEN"


def ask_all(api: API, tokens: dict[str, str]) -> list[dict[str, Any]]:
    """Return the answers to all kinds of requests: each with what was asked, and by which reviewer ("": by none)."""
    found = []
    for by in _REVIEWERS:
        for name in CASES if by == "reviewer" else ["good"]:
            for audiences in AUDIENCES:
                answer = api.review(tokens[name], audiences, by=tokens.get(by, ""))
                asked = {"by": by, "method": "POST", "path": REVIEWS, "token": name, "audiences": audiences}
                found.append({**asked, **_written(answer, tokens[name])})
        for path in (KEYS, CONFIGURATION):
            for accept in ("application/jwk-set+json", "application/json", "*/*"):
                answer = api.ask("GET", path, token=tokens.get(by, ""), Accept=accept)
                found.append({"by": by, "method": "GET", "path": path, "accept": accept, **_written(answer, None)})
    return found


def _written(answer: Answer, token: str | None) -> dict[str, Any]:
    """Return an answer without what its request has already."""
    body = answer.json() if "json" in answer.headers["Content-Type"] else answer.body
    if token is not None and isinstance(body, dict) and "spec" in body:
        assert body["spec"]["token"] == token
        body["spec"]["token"] = _PLACE
    return {"status": answer.status, "headers": answer.headers, "body": body}


class Answers:
    """The recorded answers, for a server that gives them again.

    Attributes:
        tokens: the tokens that were made for the recording, by name.
    """

    def __init__(self, file: Path = RECORDED) -> None:
        recorded = json.loads(file.read_text())
        self.tokens: dict[str, str] = recorded["tokens"]
        self._names = {token: name for name, token in self.tokens.items()}
        self._found: list[dict[str, Any]] = recorded["answers"]

    def find(self, method: str, path: str, headers: dict[str, str], body: str) -> Answer:
        """Return the answer to a request. A token that was not recorded is garbage, as a reviewer's and as a client's.

        Raises:
            KeyError: there is no such recording.
        """
        _, _, bearer = headers.get("authorization", "").partition("Bearer ")
        by = self._names.get(bearer, "stale reviewer") if bearer else ""
        asked: dict[str, Any] = {"by": "reviewer" if by == "next reviewer" else by, "method": method, "path": path}
        token = None
        if method == "POST":
            spec = json.loads(body)["spec"]
            token = spec["token"]
            name = self._names.get(token, "garbage") if asked["by"] == "reviewer" else "good"
            asked |= {"token": name, "audiences": spec.get("audiences")}
        else:
            asked["accept"] = headers.get("accept", "*/*")
        for one in self._found:
            if all(one.get(name) == value for name, value in asked.items()):
                return Answer(one["status"], one["headers"], _text(one["body"], token))
        raise KeyError(f"there is no recorded answer to {asked}")


def _text(body: Any, token: str | None) -> str:
    text = body if isinstance(body, str) else json.dumps(body, separators=(",", ":"))
    return text if token is None else text.replace(json.dumps(_PLACE), json.dumps(token))


def record(tokens: dict[str, str], answers: list[dict[str, Any]], file: Path = RECORDED) -> None:
    """Write answers and tokens, for runs without an API server."""
    lines = ",\n".join(json.dumps(one) for one in answers)
    file.write_text(f'{{"tokens": {json.dumps(tokens, indent=0)},\n"answers": [\n{lines}\n]}}\n')
