"""Which condition keys each action of a session has, by AWS's documents.

AWS's documents differ: the Service Authorization Reference lists keys by action, and the Roles Anywhere User Guide
splits its statements accordingly, but a sample of AWS Prescriptive Guidance compares `sts:SourceIdentity` for all three
actions at once. hwsigner follows the reference, and names statements that only one of the two readings makes right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hwsigner.trust_policy.conditions import Condition, Context

ASSUME, TAG, SET = ACTIONS = ("sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity")
_GLOBAL = "IAM User Guide, AWS global condition context keys"
_GUIDE = "Roles Anywhere User Guide, Trust model: the sample has it in one statement for all three actions"
_REFERENCE = "Service Authorization Reference, Actions defined by AWS Security Token Service"
_SESSION_TAGS = "IAM User Guide, Pass session tags in AWS STS; " + _REFERENCE
_STS_KEYS = "IAM User Guide, IAM and AWS STS condition context keys; " + _REFERENCE


class ActionKey(NamedTuple):
    """The actions whose requests have a key, and the document that says so."""

    actions: tuple[str, ...]
    source: str


# By key. Names with a slash at the end are those of tags.
ACTION_KEYS = {
    "aws:SourceArn": ActionKey(ACTIONS, _GUIDE),
    "aws:SourceAccount": ActionKey(ACTIONS, _GLOBAL),
    "aws:PrincipalTag/": ActionKey(ACTIONS, _GUIDE),
    "aws:RequestTag/": ActionKey((ASSUME, TAG), _SESSION_TAGS),
    "aws:TagKeys": ActionKey((ASSUME, TAG), _SESSION_TAGS),
    "aws:PrincipalServiceName": ActionKey(ACTIONS, _GLOBAL),
    "aws:PrincipalIsAWSService": ActionKey(ACTIONS, _GLOBAL),
    "aws:CurrentTime": ActionKey(ACTIONS, _GLOBAL),
    "aws:EpochTime": ActionKey(ACTIONS, _GLOBAL),
    "sts:RoleSessionName": ActionKey((ASSUME,), _STS_KEYS),
    "sts:SourceIdentity": ActionKey((ASSUME, SET), _STS_KEYS),
    "aws:OriginIdentity/": ActionKey(ACTIONS, "Roles Anywhere User Guide, Trusted identity propagation"),
}
_BY_NAME = {key.lower(): each.actions for key, each in ACTION_KEYS.items()}


def has_key(action: str, key: str) -> bool:
    """Return whether AWS lists a key for an action. Unknown keys count as listed: other rules report them."""
    name, slash, _ = key.lower().partition("/")
    return action in _BY_NAME.get(name + slash, ACTIONS)


def of_action(context: Context, action: str) -> Context:
    """Return the keys and values of a request that AWS lists for an action."""
    return {key: values for key, values in context.items() if has_key(action, key)}


def unlisted(conditions: Sequence[Condition], actions: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each key of some conditions that AWS does not list for some of the actions, with these."""
    keys = (key for each in conditions for key in (each.key, *each.variables))
    for key in dict.fromkeys(keys):
        if lacking := [action for action in actions if not has_key(action, key)]:
            yield key, lacking
