"""What questions need in the account: declared by name, made before the first question is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509

from trial_aws.authority import TrialCA

SERVICE = "rolesanywhere.amazonaws.com"
ACTIONS = ("sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity")
FollowUps = Sequence[tuple[str, Mapping[str, Any]]]


def statement(
    condition: Mapping[str, Any] | None = None, actions: Sequence[str] = ACTIONS, **more: Any
) -> dict[str, Any]:
    """Return a statement that lets Roles Anywhere in, with more elements, or others in place of its own."""
    made = {"Effect": "Allow", "Principal": {"Service": SERVICE}, "Action": list(actions), **more}
    return {**made, "Condition": condition} if condition is not None else made


def trusting(*statements: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trust policy of these statements; of one without a condition if there are none."""
    return {"Version": "2012-10-17", "Statement": list(statements) or [statement()]}


@dataclass(frozen=True)
class WantedRole:
    """A role.

    Attributes:
        name: its name in the trial; in the account it has the trial's prefix.
        policy: its trust policy. In its texts, <<anchor:NAME>> and <<role:NAME>> stand for ARNs of the trial, and
            <<account>>, <<partition>>, <<region>> and <<prefix>> for what they say.
        profile: the Roles Anywhere profile that lists it; empty for none.
        duration: its maximum session duration.
    """

    name: str
    policy: Mapping[str, Any] = field(default_factory=trusting)
    profile: str = "main"
    duration: int = 3600


@dataclass(frozen=True)
class WantedProfile:
    """A Roles Anywhere profile. It lists the roles that name it, and others.

    Attributes:
        name: its name in the trial.
        roles: names of other roles that it lists.
        members: more members of CreateProfile, such as {"acceptRoleSessionName": True}, with places as in WantedRole.
        then: operations on it after it was made, such as ("disable_profile", {}).
    """

    name: str
    roles: tuple[str, ...] = ("open",)
    members: Mapping[str, Any] = field(default_factory=dict)
    then: FollowUps = ()


@dataclass(frozen=True)
class WantedAnchor:
    """A trust anchor.

    Attributes:
        name: its name in the trial.
        certificates: returns those of its bundle.
        then: operations on it after it was made, such as ("disable_trust_anchor", {}).
    """

    name: str
    certificates: Callable[[TrialCA], Sequence[x509.Certificate]] = lambda ca: [ca.root.certificate]
    then: FollowUps = ()


@dataclass(frozen=True)
class WantedCrl:
    """A CRL.

    Attributes:
        name: its name in the trial.
        anchor: the name of its trust anchor.
        data: returns it in PEM.
    """

    name: str
    anchor: str
    data: Callable[[TrialCA], bytes]


Wanted = WantedRole | WantedProfile | WantedAnchor | WantedCrl
# They are always made: the trial begins when a session with them succeeds.
OPEN = WantedRole("open")
MAIN_PROFILE = WantedProfile("main", roles=())
MAIN_ANCHOR = WantedAnchor("main")
