"""Reading a trust policy leniently: what is meant, and what is written wrong.

`TrustPolicy` refuses a document with an unknown part. For a review, each such part becomes a finding, and the rest is
read as if the part were right.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hwsigner.findings import Finding, Mistake, policies
from hwsigner.trust_policy import ACTIONS, OTHER_ACTIONS, SERVICE, _names_action
from hwsigner.trust_policy.conditions import KEYS, OPERATORS, Condition, kind_of

_ELEMENTS = ("Effect", "Principal", "Action", "NotAction", "Condition", "Sid")
_MALFORMED_VARIABLE = re.compile(r"\$[(\[<]|\$\{(?![^{}]*\})|\$\{\s*\}|(?<!\$)\{\$|(?<!\$)\{aws:|\$aws:")
_VARIABLE = re.compile(r"\$\{[^{}]*\}")
_SPELLINGS = {each.lower(): each for each in KEYS}


@dataclass
class Statement:
    """What a statement means."""

    name: str  # For messages, such as "statement 2 (OnlyDevops)".
    allows: bool = True
    everyone: bool = False  # Whether its Principal is everyone.
    others: list[str] = field(default_factory=list)  # Its principals that are not Roles Anywhere, as written.
    concerns_service: bool = False  # Whether it is for Roles Anywhere, misspelt or not.
    actions: set[str] = field(default_factory=set)  # Those of ACTIONS that it has, misspelt or not.
    conditions: list[Condition] = field(default_factory=list)  # Those that can be read.
    unread: list[str] = field(default_factory=list)  # The keys of the others.


class Reader:
    """Reads the statements of a policy. The findings are about what is written wrong."""

    def __init__(self, policy: Mapping[str, Any]) -> None:
        self.findings: list[Finding] = []
        self._has_variables = policy.get("Version") == "2012-10-17"
        value = policy.get("Statement", [])
        entries = value if isinstance(value, list) else [value]
        read = [(entry, self._statement(entry, number)) for number, entry in enumerate(entries, 1)]
        self.written = [(entry, each) for entry, each in read if each is not None]  # As the policy has them, and read.
        self.statements = [each for _, each in self.written]

    def _add(self, mistake: Mistake, found: str, fix: str = "") -> None:
        self.findings.append(mistake.found(found, fix))

    def _statement(self, entry: object, number: int) -> Statement | None:
        name = f"statement {number}"
        if not isinstance(entry, Mapping):
            self._add(policies.NOT_A_POLICY, f"{name} is not a JSON object")
            return None
        sid = entry.get("Sid")
        statement = Statement(f"{name} ({sid})" if isinstance(sid, str) and sid else name)
        for element in entry:
            if element not in _ELEMENTS:
                self._add(policies.ELEMENT_UNKNOWN, f"{statement.name} has {element}")
        for element in ("Effect", "Principal", "Action"):
            if element not in entry and f"Not{element}" not in entry:
                self._add(policies.NOT_A_POLICY, f"{statement.name} has no {element}", f"Add {element}")
        if entry.get("Effect", "Allow") not in ("Allow", "Deny"):
            self._add(policies.NOT_A_POLICY, f"{statement.name} has Effect {entry['Effect']!r}", "Write Allow or Deny")
        statement.allows = entry.get("Effect") != "Deny"
        self._read_principal(entry.get("Principal", {}), statement)
        self._read_actions(entry.get("Action", []), statement)
        if "NotAction" in entry:
            self._add(policies.NOT_JUDGED, f"{statement.name} has NotAction", "Name the three actions in Action")
            excluded = list(texts_of(entry["NotAction"]))
            statement.actions |= {each for each in ACTIONS if not any(_names_action(text, each) for text in excluded)}
        if statement.concerns_service:  # The keys and tags of other principals are other ones.
            self._read_conditions(entry.get("Condition", {}), statement)
        return statement

    def _read_principal(self, principal: object, statement: Statement) -> None:
        if isinstance(principal, str):
            principal = {"AWS": principal} if principal == "*" else {"Service": principal}
            if principal.get("Service"):
                self._add(policies.PRINCIPAL_WRONG, f"{statement.name} has the Principal {principal['Service']!r}")
        for kind, value in principal.items() if isinstance(principal, Mapping) else ():
            for text in texts_of(value):
                if kind == "AWS" and text == "*":
                    statement.everyone = statement.concerns_service = True
                elif (kind, text) == ("Service", SERVICE):
                    statement.concerns_service = True
                elif (kind, text) == ("Service", "*"):
                    self._add(
                        policies.NOT_JUDGED, f"{statement.name} has the principal Service '*'", f"Write {SERVICE}"
                    )
                    statement.concerns_service = True
                else:
                    self._read_other_principal(kind, text, statement)

    def _read_other_principal(self, kind: str, text: str, statement: Statement) -> None:
        letters = re.sub(r"[^a-z]", "", text.lower())
        if "rolesanywhere" in letters or (kind == "Service" and text.split(".")[0].lower() in ("sts", "iam")):
            self._add(policies.PRINCIPAL_WRONG, f"{statement.name} has the principal {kind} {text!r}")
            statement.concerns_service = True
        else:
            statement.others.append(text)

    def _read_actions(self, value: object, statement: Statement) -> None:
        for text in texts_of(value):
            meant = {each for each in ACTIONS if _names_action(text, each)}
            other = any(_names_action(text, each) for each in OTHER_ACTIONS)
            if not text.lower().startswith("sts:") or not (meant or other):
                likely = _closest(text if ":" in text else f"sts:{text}", ACTIONS)
                hint = f"Write {likely}" if likely else ""
                self._add(policies.ACTION_UNKNOWN, f"{statement.name} has the action {text!r}", hint)
                meant = {likely} if likely else set()
            statement.actions |= meant

    def _read_conditions(self, value: object, statement: Statement) -> None:
        if not isinstance(value, Mapping) or not all(isinstance(keys, Mapping) for keys in value.values()):
            self._add(policies.NOT_A_POLICY, f"{statement.name} has a Condition that is not operators with their keys")
            statement.unread.append("aws:SourceArn")
            return
        for operator, keys in value.items():
            for key, wanted in keys.items():
                self._read_condition(operator, key, tuple(values_of(wanted)), statement)

    def _read_condition(self, operator: str, key: str, values: tuple[str, ...], statement: Statement) -> None:
        meant = self._operator(operator, f"{statement.name} has the operator {operator}")
        malformed = self._check_variables(f"{statement.name} has {operator} {key}", values)
        known = self._key(key, f"{statement.name} has {operator} with the key {key!r}")
        # Beside a value that can't be read, the others still let in what they fit.
        readable = [
            value
            for value in values
            if meant and value not in malformed and self._is_readable(meant, known, (value,), statement)
        ]
        if not values:
            self._is_readable(meant or operator, known, (), statement)
        if readable and meant:
            condition = Condition.parse(meant, known, tuple(readable), has_variables=self._has_variables)
            statement.conditions.append(condition)
        elif not is_met_by_others(operator) or not statement.allows:
            statement.unread.append(known)

    def _is_readable(self, operator: str, key: str, values: tuple[str, ...], statement: Statement) -> bool:
        """Return whether a condition can be read with some values; report why not."""
        try:
            Condition.parse(operator, key, values, has_variables=self._has_variables)
        except ValueError as error:
            self._add(policies.VALUE_WRONG, f"{statement.name}: {error}")
            return False
        return True

    def _operator(self, operator: str, found: str) -> str | None:
        """Return the operator that is meant, with its set form and IfExists, or None."""
        match = re.fullmatch(r"(?:(?P<set>ForA(?:ll|ny)Values?):)?(?P<base>\w+?)(?P<if>IfExists)?", operator)
        if match and match["base"] in OPERATORS and match["set"] != "ForAllValue":
            return operator
        base = match and _closest(match["base"], OPERATORS)
        self._add(policies.OPERATOR_UNKNOWN, found, f"Write {base}" if base else "")
        return f"{base}{match['if'] or ''}" if match and base and base != "Null" else None

    def _check_variables(self, found: str, values: tuple[str, ...]) -> list[str]:
        """Report variables that are malformed, or not known in the policy's Version. Return the malformed values."""
        malformed = [each for each in values if _MALFORMED_VARIABLE.search(each)]
        for value in malformed:
            self._add(policies.VARIABLE_MALFORMED, f"{found} {value!r}")
        if not self._has_variables:
            for value in (each for each in values if _VARIABLE.search(each) and each not in malformed):
                self._add(policies.VARIABLE_VERSION, f"{found} {value!r}, but not Version 2012-10-17")
        return malformed

    def _key(self, key: str, found: str) -> str:
        """Return the key that is meant."""
        if kind_of(key):
            return key
        name, slash, _ = key.lower().partition("/")
        meant, prefix = None, re.fullmatch(r"(?:aws:)?(x509\w+/.+)", key, re.IGNORECASE)
        if prefix:
            meant = f"aws:PrincipalTag/{prefix[1]}"
        elif close := difflib.get_close_matches(name + slash, _SPELLINGS, 1, 0.8):
            meant = f"{_SPELLINGS[close[0]]}{key[len(name) + len(slash) :] if close[0].endswith('/') else ''}"
        self._add(policies.KEY_UNKNOWN, found, f"Write {meant}" if meant else "")
        return meant or key


def is_met_by_others(operator: str) -> bool:
    """Return whether an operator is met by requests that a condition does not name, whatever its value is."""
    return "Not" in operator or operator.startswith("ForAllValues:") or operator.endswith("IfExists")


def _closest(text: str, known: Any) -> str | None:
    """Return the known word that a misspelt one is closest to."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(text.lower(), by_lower, 1, 0.75)
    return by_lower[found[0]] if found else None


def texts_of(value: object) -> Iterator[str]:
    """Yield the strings of a string or list."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str):
            yield each


def values_of(value: object) -> Iterator[str]:
    """Yield the values of a condition as text."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, str | int | float):
            yield str(each).lower() if isinstance(each, bool) else str(each)
