"""Writing trust policies: which certificates of a trust anchor may assume a role.

Every condition is met only if the request has its key: no set operators and no …IfExists, which a missing tag meets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hwsigner.errors import UsageError
from hwsigner.trust_policy import ACTIONS, SERVICE

# How many characters of a trust policy IAM accepts by default, and at most after a quota increase. White space between
# JSON's tokens does not count.
SIZE_LIMIT = 2048
HIGHEST_SIZE_LIMIT = 8192
_SPECIAL = re.compile(r"[*?$]")
_VARIABLE = re.compile(r"\$\{.*?\}")


def literal(text: str) -> str:
    """Return text as a policy's value that means these characters, with no wildcard and no policy variable."""
    return _SPECIAL.sub(lambda found: f"${{{found[0]}}}", text)


def has_wildcard(value: str) -> bool:
    """Return whether a policy's value has `*` or `?` as a wildcard."""
    return re.search(r"[*?]", _VARIABLE.sub("", value)) is not None


def in_words(tags: Mapping[str, Sequence[str]]) -> str:
    """Return what tags require, as `write_trust_policy` takes them: "x509Subject/CN like 'web-*' and …"."""
    shown = {
        tag: [f"like {value!r}" if has_wildcard(value) else repr(value) for value in values]
        for tag, values in tags.items()
    }
    return " and ".join(f"{tag} {' or '.join(values)}" for tag, values in shown.items())


def write_trust_policy(tags: Mapping[str, Sequence[str]], *, trust_anchor: str | None = None) -> dict[str, Any]:
    """Return a trust policy (AssumeRolePolicyDocument) that requires every tag to have one of its values.

    Args:
        tags: for each session tag, such as "x509Subject/CN", one or more values as a policy has them: `*` and `?` are
            wildcards. Pass the text of a certificate through `literal`.
        trust_anchor: the ARN of the trust anchor, not of an alias. If it is None, every trust anchor of the account
            will do.

    Raises:
        UsageError: there is no tag, or one without values, so that every certificate might be let in.
    """
    for name, values in tags.items():
        if not values:
            raise UsageError(f"the trust policy has no value for {name}", "Give at least one value")
    if not tags:
        raise UsageError("the trust policy compares no name of the certificate", "Compare one, such as x509Subject/CN")
    condition: dict[str, dict[str, str | list[str]]] = {}
    for name, values in tags.items():
        operator = "StringLike" if any(map(has_wildcard, values)) else "StringEquals"
        unique = list(dict.fromkeys(values))
        condition.setdefault(operator, {})[f"aws:PrincipalTag/{name}"] = unique[0] if len(unique) == 1 else unique
    if trust_anchor is not None:
        condition["ArnEquals"] = {"aws:SourceArn": trust_anchor}
    statement = {"Effect": "Allow", "Principal": {"Service": SERVICE}, "Action": list(ACTIONS), "Condition": condition}
    return {"Version": "2012-10-17", "Statement": [statement]}


def size(policy: Mapping[str, Any]) -> int:
    """Return how many characters of a policy, written in ASCII, count against IAM's limit."""
    return len(json.dumps(policy, separators=(",", ":")))


def check_size(policy: Mapping[str, Any], limit: int = HIGHEST_SIZE_LIMIT) -> None:
    """Check that IAM accepts a policy of this size.

    The account's limit is in characters. A larger policy is a UsageError.
    """
    if size(policy) > limit:
        hint = "Use a pattern such as CN=web-*, a name that the certificates share, or another role"
        raise UsageError(f"the trust policy would have {size(policy)} characters, and IAM accepts {limit}", hint)


def for_trust_anchor(policy: Mapping[str, Any], reference: Any) -> dict[str, Any]:
    """Return a written policy with another value for its trust anchor, such as a template's reference."""
    [statement] = policy["Statement"]
    condition = {**statement["Condition"], "ArnEquals": {"aws:SourceArn": reference}}
    return {**policy, "Statement": [{**statement, "Condition": condition}]}
