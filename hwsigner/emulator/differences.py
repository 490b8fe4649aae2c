"""What the emulator can answer otherwise, where AWS does not document its answer or only users saw it."""

from __future__ import annotations

from collections.abc import Set
from enum import StrEnum
from typing import Self

from hwsigner.errors import UsageError


class Difference(StrEnum):
    """An answer that the emulator gives otherwise, by its name.

    Attributes:
        summary: what the emulator does then.
    """

    summary: str

    def __new__(cls, name: str, summary: str) -> Self:
        """Make a member from its name and summary."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.summary = summary
        return member

    FIRST_VALUE = "first-value", "of several values of one name, such as two OUs, only the first becomes a tag"
    OID_TAGS = "oid-tags", "a name without a short form becomes a tag that is named by its OID"
    BAD_NAMES_IGNORED = "bad-names-ignored", "names that can't be session tags are left out, not refused"
    LATER_DNS_IGNORED = "later-dns-ignored", "DNS names after the first need not be possible as session tags"
    BARE_SOURCE_IDENTITY = "bare-source-identity", "the source identity is the CN without CN="
    UPPER_CASE_SERIAL = "upper-case-serial", "the default session name has upper-case digits"
    SUBJECT_BY_CA = "subject-by-ca", "the subject ARN depends on the CA too"
    EVERY_KEY = "every-key", "all three actions have every key, sts:TagSession also sts:SourceIdentity"
    FOR_ALL_NEEDS_KEY = "for-all-needs-key", "ForAllValues is not met if the key is missing"
    ARN_STAR = "arn-star", "ArnEquals and ArnLike with * fit no trust anchor"
    PRINCIPAL_STAR = "principal-star", 'IAM takes "Principal": "*" in a trust policy'
    OPERATOR_CASE = "operator-case", "IAM takes operators such as stringequals"
    LEAF_IN_CHAIN = "leaf-in-chain", "the chain header must not begin with the leaf"
    ROOT_IN_CHAIN = "root-in-chain", "the chain header may have a root"
    CLIENT_AUTH = "client-auth", "an extended key usage, if there is one, must have clientAuth"
    RSA_1024 = "rsa-1024", "leaves may have RSA keys of 1,024 bits"
    EMPTY_SUBJECT = "empty-subject", "leaves may have an empty subject"
    NAME_CONSTRAINTS = "name-constraints", "DNS names must obey the name constraints of the CAs"
    EXPIRED_CRL = "expired-crl", "an expired CRL revokes nothing"
    THREE_CAS = "three-cas", "a trust anchor may have three certificates"
    LONGER_SKEW = "longer-skew", "the clock of CreateSession may be 15 minutes off"
    DURATION_REFUSED = "duration-refused", "a duration over that of the Roles Anywhere profile is refused"
    DISABLED_NOT_FOUND = "disabled-not-found", "a disabled Roles Anywhere profile is a ResourceNotFoundException, 404"
    SESSION_NAME_IGNORED = "session-name-ignored", "a session name that the profile does not accept is ignored"
    OTHER_WORDS = "other-words", "a bad leaf gets the message Certificate not accepted"
    STATUS_200 = "status-200", "CreateSession responds with 200 instead of 201"
    MAPPINGS_MERGED = "mappings-merged", "PutAttributeMapping adds to the rules of a field"

    @classmethod
    def named(cls, name: str) -> Difference:
        """Return the one with a name.

        Raises:
            UsageError: there is none.
        """
        for each in cls:
            if each == name:
                return each
        raise UsageError(f"unknown difference: {name}", f"Use one of: {', '.join(cls)}")


Differences = Set[Difference]
NONE: Differences = frozenset()
