"""The three ARNs of a session: reading them, and checking that they belong together.

    arn:aws:rolesanywhere:eu-west-1:123456789012:trust-anchor/UUID
    arn:aws:rolesanywhere:eu-west-1:123456789012:profile/UUID
    arn:aws:iam::123456789012:role/path/name              IAM is global: no region

Whether the accounts, the trust anchor, the profile and the role exist and fit is for the service to say.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hwsigner.errors import UsageError

MAX_ARN_LENGTH = 2048
_LONGEST_SHOWN = 200

# Strict, as it goes into a host name: us-east-1, us-gov-west-1, eusc-de-east-1, us-isob-east-1.
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]{2,12}){1,2}-[0-9]{1,2}")
_PARTITION = re.compile(r"aws(-[a-z]{1,12}){0,3}")
_ACCOUNT = re.compile(r"[0-9]{12}")
# The shape of a UUID; the service's own pattern has more than hexadecimal digits in it.
_UUID = r"[0-9A-Za-z]{8}(-[0-9A-Za-z]{4}){3}-[0-9A-Za-z]{12}"


class Arn(NamedTuple):
    """A parsed ARN; `region` is empty for a role, `resource` is as in `profile/UUID`."""

    partition: str
    service: str
    region: str
    account: str
    resource: str


class _Kind(NamedTuple):
    name: str
    flag: str
    service: str
    resource: re.Pattern[str]
    example: str


_TRUST_ANCHOR = _Kind(
    "trust anchor",
    "--trust-anchor-arn",
    "rolesanywhere",
    re.compile(f"trust-anchor/{_UUID}"),
    "arn:aws:rolesanywhere:REGION:ACCOUNT:trust-anchor/UUID",
)
_PROFILE = _Kind(
    "profile",
    "--profile-arn",
    "rolesanywhere",
    re.compile(f"profile/{_UUID}"),
    "arn:aws:rolesanywhere:REGION:ACCOUNT:profile/UUID",
)
_ROLE = _Kind(
    "role",
    "--role-arn",
    "iam",
    re.compile(r"role/([\x21-\x7e]*/)?[A-Za-z0-9_+=,.@-]{1,64}"),
    "arn:aws:iam::ACCOUNT:role/NAME",
)
_KINDS = (_TRUST_ANCHOR, _PROFILE, _ROLE)


def parse_trust_anchor(text: str | None, flag: str = _TRUST_ANCHOR.flag) -> Arn:
    """Read the ARN of a trust anchor.

    Args:
        text: the ARN; None or an empty string when it was not given.
        flag: the name of what held it, for the error's message.

    Raises:
        UsageError: it is missing, malformed, or the ARN of something else.
    """
    return _parse(text, flag, _TRUST_ANCHOR)


def parse_profile(text: str | None, flag: str = _PROFILE.flag) -> Arn:
    """Read the ARN of a Roles Anywhere profile; as parse_trust_anchor."""
    return _parse(text, flag, _PROFILE)


def parse_role(text: str | None, flag: str = _ROLE.flag) -> Arn:
    """Read the ARN of an IAM role, with or without a path; as parse_trust_anchor."""
    return _parse(text, flag, _ROLE)


def check_region(text: str, flag: str = "--region") -> str:
    """Return a region's name as it was given.

    Raises:
        UsageError: it has not the form of one.
    """
    if not _REGION.fullmatch(text):
        raise UsageError(f"{flag} holds {_shown(text)}, which is no region", "Write a region such as us-east-1")
    return text


def check_arns(trust_anchor: str | None, profile: str | None, *, role: str | None, region: str | None = None) -> str:
    """Check the three ARNs and the region that a session is asked for with.

    Args:
        trust_anchor: what `--trust-anchor-arn` holds.
        profile: what `--profile-arn` holds.
        role: what `--role-arn` holds.
        region: what `--region` holds; None or an empty string for the trust anchor's.

    Returns:
        The region to send the request to.

    Raises:
        UsageError: one of them is missing or malformed, or they do not agree.
    """
    anchor_arn, profile_arn, role_arn = parse_trust_anchor(trust_anchor), parse_profile(profile), parse_role(role)
    for flag, other in (("--profile-arn", profile_arn), ("--role-arn", role_arn)):
        if other.partition != anchor_arn.partition:
            raise UsageError(
                f"--trust-anchor-arn is in partition {anchor_arn.partition} and {flag} in {other.partition}",
                "Give ARNs of one partition",
            )
    if profile_arn.region != anchor_arn.region:
        raise UsageError(
            f"--trust-anchor-arn is in region {anchor_arn.region} and --profile-arn in {profile_arn.region}",
            "Give a trust anchor and a profile of one region",
        )
    if region and check_region(region) != anchor_arn.region:
        raise UsageError(
            f"--region holds {region} and the trust anchor is in {anchor_arn.region}",
            "Leave --region out, or give the trust anchor's",
        )
    return anchor_arn.region


def _parse(text: str | None, flag: str, kind: _Kind) -> Arn:
    if not text:
        raise UsageError(
            f"{flag} is missing", f"Give the ARN of the {kind.name}, such as {kind.example}, or name a profile"
        )
    arn = _match(text, kind)
    if arn is None:
        raise _misuse(text, flag, kind)
    if arn.service != "iam":
        check_region(arn.region, f"the region of {flag}")
    return arn


def _match(text: str, kind: _Kind) -> Arn | None:
    """Return the ARN if it is of this kind, whatever stands for its region."""
    fields = text.split(":", 5)
    if len(text) > MAX_ARN_LENGTH or len(fields) != 6 or fields[0] != "arn":
        return None
    arn = Arn(*fields[1:])
    fits = (
        _PARTITION.fullmatch(arn.partition)
        and arn.service == kind.service
        and (arn.service != "iam" or not arn.region)
        and _ACCOUNT.fullmatch(arn.account)
        and kind.resource.fullmatch(arn.resource)
    )
    return arn if fits else None


def _misuse(text: str, flag: str, kind: _Kind) -> UsageError:
    for other in _KINDS:
        if other is not kind and _match(text, other):
            return UsageError(
                f"{flag} holds the ARN of a {other.name}, {_shown(text)}",
                f"Give that one to {other.flag}, and to {flag} one such as {kind.example}",
            )
    return UsageError(f"{flag} holds {_shown(text)}, which is no ARN of a {kind.name}", f"Write it as {kind.example}")


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]!r}…"
