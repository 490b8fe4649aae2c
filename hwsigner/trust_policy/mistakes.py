"""The mistakes that trust policies have: for each, why it matters and what to write instead.

The facts are those of the IAM User Guide ("Condition operators", "Policy variables", "Global condition keys") and the
Roles Anywhere User Guide ("Trust model", "Mapping"). The names of the mistakes are stable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from hwsigner.trust_policy.writing import HIGHEST_SIZE_LIMIT, SIZE_LIMIT

# What a mistake does: lets in more than it names, keeps out what it should let in, or can't be judged.
LEVELS = OPEN, WRONG, UNCLEAR = "open", "wrong", "unclear"


@dataclass(frozen=True)
class ReviewFinding:
    """One mistake in a trust policy, or in what belongs to it.

    Attributes:
        id: the name of the mistake, such as "source-arn-none".
        level: "open" if it lets in more than it should, "wrong" if it keeps out certificates or IAM refuses it,
            "unclear" if hwsigner can't tell.
        found: what the policy has, beginning with its statement: "statement 2 (OnlyDevops) has …".
        why: why it matters, one or two sentences.
        instead: what to write, one or two sentences.
    """

    id: str
    level: str
    found: str
    why: str
    instead: str


class Mistake(NamedTuple):
    """A mistake's level, why it matters, and what to write instead."""

    level: str
    why: str
    instead: str


def finding(name: str, found: str, instead: str = "") -> ReviewFinding:
    """Return a finding.

    Args:
        name: the mistake's name in MISTAKES.
        found: what the policy has.
        instead: what to write, if the table's sentence can be made more exact.
    """
    mistake = MISTAKES[name]
    return ReviewFinding(name, mistake.level, found, mistake.why, instead or mistake.instead)


_ANCHOR = "arn:aws:rolesanywhere:REGION:ACCOUNT:trust-anchor/UUID"
_TAG = 'Add "StringEquals": {"aws:PrincipalTag/x509Subject/CN": "NAME"}'
_SOURCE_ARN = f'"ArnEquals": {{"aws:SourceArn": "{_ANCHOR}"}}'

MISTAKES = {
    # What is open.
    "condition-none": Mistake(
        OPEN,
        "Every certificate of every trust anchor can assume the role",
        f"Add a Condition: {_SOURCE_ARN} and a tag of the certificate",
    ),
    "source-arn-none": Mistake(
        OPEN,
        "Certificates of every trust anchor can assume the role, even of anchors that others create later",
        f"Add {_SOURCE_ARN}",
    ),
    "source-account-only": Mistake(
        OPEN,
        "Every trust anchor of the account is accepted. A user who may create one can make certificates with any name",
        f"Add {_SOURCE_ARN}",
    ),
    "source-arn-any": Mistake(
        OPEN,
        "The condition is met by other trust anchors too, so their CAs can make certificates with any name",
        f"Name one trust anchor, without wildcards: {_SOURCE_ARN}",
    ),
    "tag-none": Mistake(
        OPEN,
        "Every certificate that the trust anchor accepts can assume the role, not only those of this workload",
        _TAG,
    ),
    "for-all-values": Mistake(
        OPEN,
        "ForAllValues is true if the key is missing, so a request without it is let in",
        "Use the operator without ForAllValues: these keys have one value",
    ),
    "if-exists": Mistake(
        OPEN,
        "An operator with IfExists is true if the key is missing, so a request without it is let in",
        "Use the operator without IfExists",
    ),
    "negated": Mistake(
        OPEN,
        "A negated operator is true for every other value, and if the key is missing",
        "Name who may assume the role, with StringEquals or StringLike; keep the negated operator beside it",
    ),
    "any-value": Mistake(
        OPEN,
        "A condition that every value or nearly every value meets only requires that the certificate has that name",
        "Write the value, or a pattern that others can't meet, such as bamboo-*",
    ),
    "principal-everyone": Mistake(
        OPEN,
        "Any AWS account may try to assume the role, and can give its own sessions tags such as x509Subject/CN",
        'Use "Principal": {"Service": "rolesanywhere.amazonaws.com"}',
    ),
    # What keeps certificates out, or what IAM refuses.
    "not-a-policy": Mistake(
        WRONG,
        "IAM refuses such a document",
        "Write a JSON object with Version 2012-10-17 and a list of statements",
    ),
    "policy-too-large": Mistake(
        WRONG,
        f"IAM accepts {SIZE_LIMIT:,} characters, or up to {HIGHEST_SIZE_LIMIT:,} if AWS raised the account's quota",
        "Match a pattern such as web-*, or a name that the certificates share",
    ),
    "element-unknown": Mistake(
        WRONG,
        "IAM refuses a trust policy with it: the role itself is the resource, and the principal must be named",
        "A statement has Effect, Principal, Action, Condition and perhaps Sid",
    ),
    "action-unknown": Mistake(
        WRONG,
        "There is no such action for trust policies, so IAM refuses the policy or the right action stays missing",
        "Use sts:AssumeRole, sts:TagSession and sts:SetSourceIdentity",
    ),
    "action-missing": Mistake(
        WRONG,
        "Roles Anywhere needs sts:AssumeRole, sts:TagSession and sts:SetSourceIdentity; without one, every session "
        "is refused",
        "Add it to the statement's Action",
    ),
    "principal-wrong": Mistake(
        WRONG,
        "Roles Anywhere calls as rolesanywhere.amazonaws.com, in every partition. No other principal lets it in",
        'Use "Principal": {"Service": "rolesanywhere.amazonaws.com"}',
    ),
    "variable-malformed": Mistake(
        WRONG,
        "It is not a policy variable, so it is compared letter by letter or IAM refuses it",
        "Write ${KEY}: a dollar sign, then the key in braces, such as ${aws:PrincipalTag/x509Subject/CN}",
    ),
    "variable-version": Mistake(
        WRONG,
        "Policy variables are replaced in Version 2012-10-17 only; else they are compared letter by letter",
        'Write "Version": "2012-10-17"',
    ),
    "wildcard-literal": Mistake(
        WRONG,
        "StringEquals and StringNotEquals do not support wildcards, and no name has an asterisk or a question mark in "
        "it",
        "Use StringLike for text, ArnLike for ARNs",
    ),
    "operator-unknown": Mistake(
        WRONG,
        "IAM refuses a policy with it",
        "Use an operator of the IAM User Guide, such as StringEquals, StringLike or ArnEquals",
    ),
    "value-wrong": Mistake(
        WRONG,
        "IAM refuses it, or no request can meet it",
        "Write a value of the operator's type",
    ),
    "tag-impossible": Mistake(
        WRONG,
        "No certificate gives its session such a tag, so the condition is never met",
        "Use x509Subject/NAME, x509Issuer/NAME, x509SAN/DNS, x509SAN/URI or x509SAN/Name/NAME; NAME is CN, OU, O, C, "
        "ST, L, SN, GN, DC, UID, E or SERIALNUMBER",
    ),
    "value-impossible": Mistake(
        WRONG,
        "No session tag can have this value, so the condition is never met",
        "Use a name that a tag can have: letters, digits, spaces and _.:/=+-@, at most 256",
    ),
    "source-identity-prefix": Mistake(
        WRONG,
        "The source identity is CN= and the subject's CN, so the value alone is never met",
        "Write CN= before the name",
    ),
    "source-arn-kind": Mistake(
        WRONG,
        "aws:SourceArn is the trust anchor's ARN in every request, so another kind of ARN, or an alias, is never met",
        f"Use the ARN that ends with the trust anchor's UUID: {_ANCHOR}",
    ),
    "source-arn-other": Mistake(
        WRONG,
        "aws:SourceArn is the ARN of the trust anchor that is used, so every session with it is refused",
        "Name this trust anchor, or use the one that the policy names",
    ),
    "contradiction": Mistake(
        WRONG,
        "All conditions of a statement must be met at once, so this statement lets no certificate in",
        "Write alternatives as several values of one condition, or as several statements",
    ),
    "date-passed": Mistake(
        WRONG,
        "The statement has let no certificate in since then",
        "Remove the statement, or write a later date",
    ),
    "denied-always": Mistake(
        WRONG,
        "A Deny outweighs every Allow, so no certificate can assume the role",
        "Remove the statement, or give it a Condition",
    ),
    # What can't be judged.
    "key-unknown": Mistake(
        UNCLEAR,
        "AWS does not document that requests of Roles Anywhere have this key. If it is missing, a positive condition "
        "is never met",
        "Use aws:SourceArn, aws:SourceAccount, aws:PrincipalTag/x509…, sts:SourceIdentity or sts:RoleSessionName",
    ),
    "not-judged": Mistake(
        UNCLEAR,
        "hwsigner does not know what IAM makes of it",
        "Write it more simply, or check it with IAM Access Analyzer",
    ),
}
