"""Whether a role's trust policy lets a caller with an access key assume it.

Only what is in a caller's request is known here. A statement with another condition never allows anything, and a Deny
with one always denies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hwsigner.emulator.iam_policies import open_policy
from hwsigner.emulator.resources import Role
from hwsigner.emulator.vault import CallerCredentials, matches

_Value = str | None
_TAG = "aws:principaltag/"
_OPERATOR = re.compile(r"(String|Arn)(Not)?(Equals|Like)(IfExists)?")


class Assumption(NamedTuple):
    """A request for AssumeRole."""

    caller: CallerCredentials
    caller_role: str  # The ARN of the role whose session the caller has; empty for a user.
    session_name: str
    external_id: str

    def refusal(self, role: Role, action: str) -> str:
        """Return why a role's trust policy does not allow an action, or an empty string."""
        policy = json.loads(role.trust_policy.document if role.trust_policy else open_policy(role.principal_tags))
        allowed = False
        for statement in _listed(policy["Statement"]):
            if not any(matches(action, each) for each in _listed(statement.get("Action", []))):
                continue
            if not self._is_named(statement.get("Principal")):
                continue
            met = self._meets(statement.get("Condition", {}))
            if statement["Effect"] == "Deny" and met is not False:
                return f"the trust policy denies {action}"
            allowed = allowed or (statement["Effect"] == "Allow" and met is True)
        return "" if allowed else f"the trust policy does not allow {action} to {self.caller.arn}"

    def _is_named(self, principal: object) -> bool:
        account, partition = self.caller.account, self.caller.arn.split(":")[1]
        own = {"*", account, f"arn:{partition}:iam::{account}:root", self.caller.arn, self.caller_role}
        own |= {self.caller.user_id, self.caller.user_id.partition(":")[0]}
        return isinstance(principal, Mapping) and any(each in own for each in _listed(principal.get("AWS", [])))

    def _meets(self, condition: Mapping[str, Mapping[str, Any]]) -> bool | None:
        """Return whether all conditions are met. None: one is not known here, and the others are met."""
        found = [self._judge(operator, key, value) for operator, key, value in _conditions(condition)]
        return False if False in found else None if None in found else True

    def _judge(self, operator: str, key: str, wanted: list[str]) -> bool | None:
        match, values = _OPERATOR.fullmatch(operator), self._values()
        if not match or (key.lower() not in values and not key.lower().startswith(_TAG)):
            return None
        value = values.get(key.lower())
        if value is None:
            return bool(match[2] or match[4])
        exact = match[1] == "String" and match[3] == "Equals"
        found = any(value == each if exact else _is_like(value, each) for each in wanted)
        return found != bool(match[2])

    def _values(self) -> dict[str, _Value]:
        identity = self.caller.source_identity or None
        return {
            "aws:principalarn": self.caller_role or self.caller.arn,
            "aws:principalaccount": self.caller.account,
            "aws:sourceidentity": identity,
            "sts:sourceidentity": identity,
            "sts:externalid": self.external_id or None,
            "sts:rolesessionname": self.session_name,
            **{f"{_TAG}{name.lower()}": value for name, value in self.caller.tags.items()},
        }


def _conditions(condition: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, list[str]]]:
    for operator, keys in condition.items():
        for key, value in keys.items():
            yield operator, key, [str(each) for each in _listed(value)]


def _is_like(value: str, pattern: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), value, re.DOTALL) is not None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
