"""Where the expected answers about certificates, requests and refusals come from, with the marks of aws.md."""

from __future__ import annotations

from hwsigner.trial.questions import Origin, Source

_GUIDE = "IAM Roles Anywhere User Guide"
_API = "IAM Roles Anywhere API Reference"


def document(where: str) -> Source:
    """Return the source of what a document of AWS says."""
    return Source(Origin.DOCUMENT, where)


def observation(where: str) -> Source:
    """Return the source of what somebody saw, or what another program does."""
    return Source(Origin.OBSERVATION, where)


def choice(reason: str) -> Source:
    """Return the source of what nobody says, with the reason of the choice."""
    return Source(Origin.CHOICE, f"[H] {reason}")


CERTIFICATE_RULES = document(f"[A1] {_GUIDE}: Trust model, signature validation")
SESSION_API = document(f"[A3] {_GUIDE}: CreateSession API")
SIGNING = document(f"{_GUIDE}: Signing process")
CRL_API = document(f"[A4] {_API}: ImportCrl")
ALIASES = document(f"{_API}: aliasName of CreateTrustAnchor and CreateProfile")
PROFILE_API = document(f"{_API}: CreateProfile")
MAPPING_API = document(f"{_API}: PutAttributeMapping")
QUOTAS = document("AWS General Reference: IAM Roles Anywhere endpoints and quotas")
IAM_API = document("IAM API Reference: CreateRole")
IAM_QUOTAS = document("[A5] IAM User Guide: IAM and STS quotas")
PRINCIPALS = document("IAM User Guide: JSON policy elements: Principal")
FIVE_MINUTES = document("IAM User Guide: Signature Version 4: a request is valid for five minutes")
QUOTED = observation("[U5] repositories on GitHub quote the answer")
NOT_LISTED = observation("[U4] awslabs/iam-roles-anywhere-session, pull request 6")
QUOTED_VALUES = observation("hashicorp/terraform-provider-aws, issue 26872; DataDog/stratus-red-team, issue 331")
VENDORS_CLIENT = observation("aws_signing_helper does so, and works for its users")
IAM_WORDS = observation("users quote the words in many places")
STAR = observation("aws/aws-cdk, issue 5732")
