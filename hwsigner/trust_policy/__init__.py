"""Trust policies: which requests of IAM Roles Anywhere may assume a role, and why.

A library without input and output. It judges the three actions of a session one by one, as IAM does: an action is
allowed if an Allow statement matches it and no Deny statement does. A key that AWS does not list for an action is
missing there (see `conditions`). What it does not know is refused: elements, operators, actions and principals when
the document is read, keys when a request is judged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hwsigner.errors import ConfigError
from hwsigner.trust_policy.conditions import ACTIONS, Condition, Context, Judgement, of_action

__all__ = ["ACTIONS", "Context", "Decision", "TrustPolicy", "request_context"]

SERVICE = "rolesanywhere.amazonaws.com"
OTHER_ACTIONS = ("sts:AssumeRoleWithSAML", "sts:AssumeRoleWithWebIdentity", "sts:SetContext")
_VERSIONS = ("2008-10-17", "2012-10-17")
# Values of Principal, by its type. IAM accepts the unique ID of a user or role for its ARN.
_PRINCIPALS = {
    "Service": re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+", re.ASCII),
    "AWS": re.compile(r"\*|\d{12}|arn:aws[a-z-]*:(?:iam|sts)::\d{12}:[^*?]+|A[A-Z0-9]{15,127}", re.ASCII),
    "Federated": re.compile(r"[\w.:/+=,@-]+", re.ASCII),
}


@dataclass(frozen=True)
class Decision:
    """Whether a trust policy allows an action, and by which statement or condition."""

    action: str
    allowed: bool
    reason: str


class TrustPolicy:
    """A role's trust policy (AssumeRolePolicyDocument).

    Args:
        document: JSON, or the object that it contains.

    Attributes:
        document: the JSON as given, or made from the object.

    Raises:
        ConfigError: the document is not a trust policy, or has a part that is not known here.
    """

    def __init__(self, document: str | bytes | Mapping[str, Any]) -> None:
        parsed = _parsed(document) if isinstance(document, str | bytes) else document
        text = json.dumps(document) if isinstance(document, Mapping) else document
        self.document: str = text.decode("utf-8-sig", "replace") if isinstance(text, bytes) else text
        policy = _members(parsed, "the trust policy", required=("Statement",), optional=("Version", "Id"))
        version = policy.get("Version", _VERSIONS[0])
        if version not in _VERSIONS:
            raise _bad(f"the trust policy has Version {version!r}, not {' or '.join(_VERSIONS)}")
        entries = policy["Statement"] if isinstance(policy["Statement"], list) else [policy["Statement"]]
        if not entries:
            raise _bad("the trust policy has no statement")
        has_variables = version == _VERSIONS[1]
        self._statements = [_Statement(entry, number, has_variables) for number, entry in enumerate(entries, 1)]
        sids = [each.sid for each in self._statements if each.sid]
        if len(set(sids)) < len(sids):
            raise _bad("the trust policy has a Sid twice")

    def decide(self, action: str, context: Context, *, every_key: bool = False) -> Decision:
        """Judge one action of a request.

        Args:
            action: one of ACTIONS.
            context: the request, from `request_context`.
            every_key: whether the action has every key of the request, not only those that AWS lists for it.
        """
        context = context if every_key else of_action(context, action)
        matching = [each for each in self._statements if each.misses(action) is None]
        denying = [(each, each.judge(context)) for each in matching if not each.allows]
        for statement, finding in denying:
            if finding.met:
                return Decision(action, allowed=False, reason=f"{statement.name} denies it")
        for statement, finding in denying:
            if finding.met is None:
                return Decision(action, allowed=False, reason=f"refused: {finding.words} in {statement.name}, a Deny")
        allowing = [(each, each.judge(context)) for each in matching if each.allows]
        for statement, finding in allowing:
            if finding.met:
                return Decision(action, allowed=True, reason=f"{statement.name} allows it")
        words = [
            f"refused: {finding.words} in {statement.name}"
            if finding.met is None
            else f"{statement.name} requires {finding.words}"
            for statement, finding in allowing
        ]
        words = words or [f"{each.name} {each.misses(action)}" for each in self._statements if each.allows]
        return Decision(action, allowed=False, reason="; ".join(words) or "no statement allows it")

    def refusal(self, context: Context, *, every_key: bool = False) -> str:
        """Return why a request may not assume the role, or an empty string if it may.

        All three actions must be allowed. The arguments are those of `decide`.
        """
        actions: dict[str, list[str]] = {}
        for action in ACTIONS:
            decision = self.decide(action, context, every_key=every_key)
            if not decision.allowed:
                actions.setdefault(decision.reason, []).append(action)
        return "; ".join(
            f"the trust policy does not allow {', '.join(names)}: {reason}" for reason, names in actions.items()
        )


def request_context(
    *,
    trust_anchor: str,
    tags: Mapping[str, str],
    session_name: str,
    source_identity: str,
    now: datetime,
    origin_identity: Mapping[str, str] | None = None,
) -> Context:
    """Return the keys and values of a request, as Roles Anywhere makes it to STS.

    Args:
        trust_anchor: the ARN of the trust anchor.
        tags: the session tags, such as {"x509Subject/CN": "bamboo-01"}.
        session_name: the role session name.
        source_identity: the source identity, such as "CN=bamboo-01".
        now: the time, with a time zone.
        origin_identity: Subject and, if the profile has it, SubjectType. None without trusted identity propagation.
    """
    values = {
        "aws:SourceArn": trust_anchor,
        "aws:SourceAccount": trust_anchor.split(":")[4],
        "aws:PrincipalIsAWSService": "true",
        "aws:PrincipalServiceName": SERVICE,
        "sts:RoleSessionName": session_name,
        "sts:SourceIdentity": source_identity,
        "aws:CurrentTime": f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "aws:EpochTime": f"{int(now.timestamp())}",
        **{f"aws:PrincipalTag/{name}": value for name, value in tags.items()},
        **{f"aws:RequestTag/{name}": value for name, value in tags.items()},
        **{f"aws:OriginIdentity/{name}": value for name, value in (origin_identity or {}).items()},
    }
    return {"aws:tagkeys": tuple(tags), **{key.lower(): (value,) for key, value in values.items()}}


def _names_action(text: str, action: str) -> bool:
    """Return whether an action is one of those that a policy's text with wildcards names."""
    pattern = re.escape(text).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(pattern, action, re.IGNORECASE) is not None


class _Statement:
    """A statement. Its name is for messages: "statement 2 (OnlyDevops)"."""

    def __init__(self, value: object, number: int, has_variables: bool) -> None:
        self.name = f"statement {number}"
        entry = _members(value, self.name, required=("Effect", "Principal", "Action"), optional=("Sid", "Condition"))
        self.sid = entry.get("Sid", "")
        if not isinstance(self.sid, str) or not re.fullmatch(r"[A-Za-z0-9]*", self.sid):
            raise _bad(f"{self.name} has a Sid that is not letters and digits")
        self.name += f" ({self.sid})" if self.sid else ""
        if entry["Effect"] not in ("Allow", "Deny"):
            raise _bad(f"{self.name} has Effect {entry['Effect']!r}, not Allow or Deny")
        self.allows = entry["Effect"] == "Allow"
        self._is_for_service = _is_for_service(entry["Principal"], self.name)
        self._actions = _actions(entry["Action"], self.name)
        self._conditions = list(_conditions(entry.get("Condition", {}), self.name, has_variables))

    def misses(self, action: str) -> str | None:
        """Return why the statement does not concern an action, or None if it does."""
        if not self._is_for_service:
            return f"is not for {SERVICE}"
        if not any(_names_action(text, action) for text in self._actions):
            return "does not have this action"
        return None

    def judge(self, context: Context) -> Judgement:
        """Return whether a request meets all conditions. One that is not met outweighs unknown ones."""
        findings = [condition.judge(context) for condition in self._conditions]
        for met in (False, None):
            words = [each.words for each in findings if each.met is met]
            if words:
                return Judgement(met, " and ".join(words))
        return Judgement(True)


def _parsed(text: str | bytes) -> Any:
    try:
        # Numbers stay as written.
        return json.loads(
            text, object_pairs_hook=_without_repeats, parse_int=str, parse_float=str, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise _bad(f"the trust policy is not JSON, or names a member twice: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member is named twice")
    return members


def _members(value: object, where: str, *, required: tuple[str, ...], optional: tuple[str, ...]) -> Mapping[str, Any]:
    """Return an object of a policy, checked to have the required elements and no unknown ones."""
    if not isinstance(value, Mapping):
        raise _bad(f"{where} is not a JSON object")
    for name in required:
        if name not in value:
            raise _bad(f"{where} has no {name}")
    for name in value:
        if name not in (*required, *optional):
            raise _bad(f"{where} has {name}, which is unknown or not for trust policies")
    return value


def _texts(value: object, what: str) -> list[str]:
    """Return a string or a list of strings as a list that is not empty."""
    values = value if isinstance(value, list) else [value]
    texts = [each for each in values if isinstance(each, str)]
    if not texts or len(texts) < len(values):
        raise _bad(f"{what} is neither a string nor a list of strings")
    return texts


def _is_for_service(principal: object, where: str) -> bool:
    """Return whether a Principal has Roles Anywhere in it. `*` and `{"AWS": "*"}` mean everyone, services too."""
    if principal == "*":
        return True
    if not isinstance(principal, Mapping) or not principal:
        raise _bad(f"{where} has a Principal that is neither * nor an object")
    found = False
    for kind, value in principal.items():
        if kind not in _PRINCIPALS:
            raise _bad(f"{where} has a principal of the unknown type {kind}")
        for text in _texts(value, f"the principal {kind} of {where}"):
            if not _PRINCIPALS[kind].fullmatch(text):
                raise _bad(f"{where} has {text!r}, which is not a principal of type {kind}")
            found = found or (kind, text) in (("Service", SERVICE), ("AWS", "*"))
    return found


def _actions(value: object, where: str) -> list[str]:
    """Return a statement's actions. Each must name an action of trust policies."""
    texts = _texts(value, f"the Action of {where}")
    for text in texts:
        known = any(_names_action(text, action) for action in (*ACTIONS, *OTHER_ACTIONS))
        if not text.lower().startswith("sts:") or not known:
            raise _bad(f"{where} has the action {text!r}, which is not one of {', '.join((*ACTIONS, *OTHER_ACTIONS))}")
    return texts


def _conditions(value: object, where: str, has_variables: bool) -> Iterator[Condition]:
    if not isinstance(value, Mapping) or not all(isinstance(keys, Mapping) for keys in value.values()):
        raise _bad(f"{where} has a Condition that is not an object of operators with their keys")
    for operator, keys in value.items():
        lowered = [key.lower() for key in keys]
        if len(set(lowered)) < len(lowered):
            raise _bad(f"{where} has a key of {operator} twice")
        for key, wanted in keys.items():
            values = wanted if isinstance(wanted, list) else [wanted]
            if not all(isinstance(each, str | int | float) for each in values):
                raise _bad(f"{where}: {operator} {key} has a value that is not a string, number or boolean")
            texts = tuple(str(each).lower() if isinstance(each, bool) else str(each) for each in values)
            try:
                yield Condition.parse(operator, key, texts, has_variables=has_variables)
            except ValueError as error:
                raise _bad(f"{where}: {error}") from error


def _bad(problem: str) -> ConfigError:
    return ConfigError(problem, "hwsigner help emulator says what a trust policy may have")
