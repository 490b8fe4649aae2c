"""What a set-up should be: a CA, a role, and the certificates that may assume it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from hwsigner.errors import CertificateError, UsageError
from hwsigner.identity.certificate import Certificate, is_ca, key_usage

DEFAULT_DURATION = 3600  # Seconds, of profiles and roles that do not say another one.
_ROLE = re.compile(r"[A-Za-z0-9+=,.@_-]{1,64}")
_POLICY = re.compile(r"arn:aws[a-z-]*:iam::(?:aws|[0-9]{12}):policy/[!-~]{1,512}")
_NAME = re.compile(r"[ A-Za-z0-9_-]{1,255}")


@dataclass(frozen=True)
class Wanted:
    """What a set-up should be.

    Attributes:
        name: the name of a new trust anchor and a new Roles Anywhere profile.
        role: the name of the role.
        cas: the certificates of the CA.
        tags: what a certificate must have to assume the role: for each session tag one or more values, as
            `write_trust_policy` takes them.
        duration: the longest session in seconds; None for the existing profile's, or one hour.
        policies: ARNs of policies that the role should have.
        add_ca: whether to add the CA to a trust anchor that has others.
        trust_anchor_arn: the trust anchor to use; an empty string to find or make one.
        profile_arn: the Roles Anywhere profile to use; an empty string to find or make one.
    """

    name: str
    role: str
    cas: tuple[Certificate, ...]
    tags: Mapping[str, Sequence[str]]
    duration: int | None = None
    policies: tuple[str, ...] = ()
    add_ca: bool = False
    trust_anchor_arn: str = ""
    profile_arn: str = ""

    def __post_init__(self) -> None:
        if not _ROLE.fullmatch(self.role):
            raise UsageError(f"{self.role[:100]!r} is not a role's name", "Use 1 to 64 letters, digits and +=,.@_-")
        if not _NAME.fullmatch(self.name):
            hint = "Give --name with letters, digits, spaces, _ and -"
            raise UsageError(f"{self.name[:100]!r} is not a name for a trust anchor and a profile", hint)
        for arn in self.policies:
            if not _POLICY.fullmatch(arn):
                hint = "Use an ARN such as arn:aws:iam::aws:policy/ReadOnlyAccess"
                raise UsageError(f"--policy is {arn[:200]!r}, which is not a policy's ARN", hint)

    @property
    def accounts(self) -> dict[str, str]:
        """The account of each ARN that was given. AWS's own policies are in none."""
        given = (self.trust_anchor_arn, self.profile_arn, *self.policies)
        return {arn: account for arn in given if arn and (account := arn.split(":")[4]) != "aws"}


def check_ca(certificates: Sequence[Certificate], now: datetime) -> None:
    """Check that the service would accept each certificate in a trust anchor.

    Raises:
        CertificateError: one is not a CA's, or not valid now.
    """
    for each in certificates:
        where, hint = f"certificate {each.subject} of {each.source}", "Give the CA's certificate"
        usage = key_usage(each.x509)
        if not is_ca(each.x509) or (usage is not None and not usage.key_cert_sign):
            raise CertificateError(f"{where} is not a CA certificate that may sign others", hint)
        if each.x509.not_valid_after_utc <= now:
            raise CertificateError(f"{where} expired on {each.x509.not_valid_after_utc:%Y-%m-%d}", hint)
        if each.x509.not_valid_before_utc > now:
            begin = f"{each.x509.not_valid_before_utc:%Y-%m-%d}"
            raise CertificateError(f"{where} is not valid before {begin}", "Wait, or check the clock")
