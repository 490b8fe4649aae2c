"""What a review of a trust policy finds.

The facts are those of the IAM User Guide ("Condition operators", "Policy variables", "Global condition keys") and the
Roles Anywhere User Guide ("Trust model", "Mapping").
"""

from __future__ import annotations

from hwsigner.findings import OPEN, UNCLEAR, Mistake

_ANCHOR = "arn:aws:rolesanywhere:REGION:ACCOUNT:trust-anchor/UUID"
_TAG = 'Add "StringEquals": {"aws:PrincipalTag/x509Subject/CN": "NAME"}'
_SOURCE_ARN = f'"ArnEquals": {{"aws:SourceArn": "{_ANCHOR}"}}'

# What is open.
CONDITION_NONE = Mistake(
    "condition-none",
    "Every certificate of every trust anchor can assume the role",
    f"Add a Condition: {_SOURCE_ARN} and a tag of the certificate",
    level=OPEN,
)
SOURCE_ARN_NONE = Mistake(
    "source-arn-none",
    "Certificates of every trust anchor can assume the role, even of anchors that others create later",
    f"Add {_SOURCE_ARN}",
    level=OPEN,
)
SOURCE_ACCOUNT_ONLY = Mistake(
    "source-account-only",
    "Every trust anchor of the account is accepted. A user who may create one can make certificates with any name",
    f"Add {_SOURCE_ARN}",
    level=OPEN,
)
SOURCE_ARN_ANY = Mistake(
    "source-arn-any",
    "The condition is met by other trust anchors too, so their CAs can make certificates with any name",
    f"Name one trust anchor, without wildcards: {_SOURCE_ARN}",
    level=OPEN,
)
TAG_NONE = Mistake(
    "tag-none",
    "Every certificate that the trust anchor accepts can assume the role, not only those of this workload",
    _TAG,
    level=OPEN,
)
FOR_ALL_VALUES = Mistake(
    "for-all-values",
    "ForAllValues is true if the key is missing, so a request without it is let in",
    "Use the operator without ForAllValues: these keys have one value",
    level=OPEN,
)
IF_EXISTS = Mistake(
    "if-exists",
    "An operator with IfExists is true if the key is missing, so a request without it is let in",
    "Use the operator without IfExists",
    level=OPEN,
)
NEGATED = Mistake(
    "negated",
    "A negated operator is true for every other value, and if the key is missing",
    "Name who may assume the role, with StringEquals or StringLike; keep the negated operator beside it",
    level=OPEN,
)
ANY_VALUE = Mistake(
    "any-value",
    "A condition that every value or nearly every value meets only requires that the certificate has that name",
    "Write the value, or a pattern that others can't meet, such as bamboo-*",
    level=OPEN,
)
SUFFIX_UNBOUNDED = Mistake(
    "suffix-unbounded",
    "The wildcard may stand for letters too: *example.com lets in evilexample.com, which has another owner",
    "Write a dot or an @ between them, such as *.example.com",
    level=OPEN,
)
ISSUER_ONLY = Mistake(
    "issuer-only",
    "Every certificate of that CA can assume the role, not only those of this workload",
    _TAG,
    level=OPEN,
)
DENY_NEEDS_ALL = Mistake(
    "deny-needs-all",
    "A Deny applies only if all its conditions are met, so a certificate that fits one of the names gets in",
    "Write one Deny statement for each name, or name who may assume the role in the Allow statement",
    level=OPEN,
)
PRINCIPAL_EVERYONE = Mistake(
    "principal-everyone",
    "Any AWS account may try to assume the role, and can give its own sessions tags such as x509Subject/CN",
    'Use "Principal": {"Service": "rolesanywhere.amazonaws.com"}',
    level=OPEN,
)
ACCOUNT_UNNAMED = Mistake(
    "account-unnamed",
    "Every user and role of that account to whom its administrators give sts:AssumeRole can assume the role, and with "
    "sts:TagSession bring any tags",
    'Name a role or user of that account as the principal, or add "StringEquals": {"sts:ExternalId": "SECRET"}',
    level=OPEN,
)
PROVIDER_UNNAMED = Mistake(
    "provider-unnamed",
    "Every identity of that provider, even of its other customers, can assume the role",
    "Add a condition on the provider's key",
    level=OPEN,
)

# What keeps certificates out, or what IAM refuses.
NOT_A_POLICY = Mistake(
    "not-a-policy",
    "IAM refuses such a document",
    "Write a JSON object with Version 2012-10-17 and a list of statements",
)
POLICY_TOO_LARGE = Mistake(
    "policy-too-large",
    "IAM accepts 2,048 characters, or up to 8,192 if AWS raised the account's quota",
    "Match a pattern such as web-*, or a name that the certificates share",
)
ELEMENT_UNKNOWN = Mistake(
    "element-unknown",
    "IAM refuses a trust policy with it: the role itself is the resource, and the principal must be named",
    "A statement has Effect, Principal, Action, Condition and perhaps Sid",
)
ACTION_UNKNOWN = Mistake(
    "action-unknown",
    "There is no such action for trust policies, so IAM refuses the policy or the right action stays missing",
    "Use sts:AssumeRole, sts:TagSession and sts:SetSourceIdentity",
)
ACTION_MISSING = Mistake(
    "action-missing",
    "Roles Anywhere needs sts:AssumeRole, sts:TagSession and sts:SetSourceIdentity; without one, every session "
    "is refused",
    "Add it to the statement's Action",
)
PRINCIPAL_WRONG = Mistake(
    "principal-wrong",
    "Roles Anywhere calls as rolesanywhere.amazonaws.com, in every partition. No other principal lets it in",
    'Use "Principal": {"Service": "rolesanywhere.amazonaws.com"}',
)
VARIABLE_MALFORMED = Mistake(
    "variable-malformed",
    "It is not a policy variable, so it is compared letter by letter or IAM refuses it",
    "Write ${KEY}: a dollar sign, then the key in braces, such as ${aws:PrincipalTag/x509Subject/CN}",
)
VARIABLE_VERSION = Mistake(
    "variable-version",
    "Policy variables are replaced in Version 2012-10-17 only; else they are compared letter by letter",
    'Write "Version": "2012-10-17"',
)
WILDCARD_LITERAL = Mistake(
    "wildcard-literal",
    "StringEquals and StringNotEquals do not support wildcards, and no name has an asterisk or a question mark in it",
    "Use StringLike for text, ArnLike for ARNs",
)
OPERATOR_UNKNOWN = Mistake(
    "operator-unknown",
    "IAM refuses a policy with it",
    "Use an operator of the IAM User Guide, such as StringEquals, StringLike or ArnEquals",
)
VALUE_WRONG = Mistake(
    "value-wrong", "IAM refuses it, or no request can meet it", "Write a value of the operator's type"
)
TAG_IMPOSSIBLE = Mistake(
    "tag-impossible",
    "No certificate gives its session such a tag, so the condition is never met",
    "Use x509Subject/NAME, x509Issuer/NAME, x509SAN/DNS, x509SAN/URI or x509SAN/Name/NAME; NAME is CN, OU, O, C, "
    "ST, L, SN, GN, DC, UID, E or SERIALNUMBER",
)
VALUE_IMPOSSIBLE = Mistake(
    "value-impossible",
    "No session tag can have this value, so the condition is never met",
    "Use a name that a tag can have: letters, digits, spaces and _.:/=+-@, at most 256",
)
VALUE_EMPTY = Mistake(
    "value-empty",
    "No name of a certificate is empty, so this value lets none in. A template may have had an empty variable",
    "Write the name, or remove the value",
)
SOURCE_IDENTITY_PREFIX = Mistake(
    "source-identity-prefix",
    "The source identity is CN= and the subject's CN, so the value alone is never met",
    "Write CN= before the name, in a statement for sts:AssumeRole alone. Allow the other two actions in one without it",
)
SOURCE_ARN_KIND = Mistake(
    "source-arn-kind",
    "aws:SourceArn is the trust anchor's ARN in every request, so another kind of ARN, or an alias, is never met",
    f"Use the ARN that ends with the trust anchor's UUID: {_ANCHOR}",
)
SOURCE_ARN_OTHER = Mistake(
    "source-arn-other",
    "aws:SourceArn is the ARN of the trust anchor that is used, so every session with it is refused",
    "Name this trust anchor, or use the one that the policy names",
)
CONTRADICTION = Mistake(
    "contradiction",
    "All conditions of a statement must be met at once, so this statement lets no certificate in",
    "Write alternatives as several values of one condition, or as several statements",
)
DATE_PASSED = Mistake(
    "date-passed", "The statement has let no certificate in since then", "Remove the statement, or write a later date"
)
SHUT = Mistake(
    "shut",
    "Roles Anywhere needs all three actions for the same certificate, so every session is refused",
    "Give the statements of the three actions the same conditions",
)
DENIED_ALWAYS = Mistake(
    "denied-always",
    "A Deny outweighs every Allow, so no certificate can assume the role",
    "Remove the statement, or give it a Condition",
)

# What can't be judged.
KEY_BY_ACTION = Mistake(
    "key-by-action",
    "AWS's Service Authorization Reference does not list the key for this action, so IAM may find it missing there and "
    "decide otherwise. A sample of AWS has it nevertheless",
    "Split the statement in two: one with the key, for the actions that have it (sts:AssumeRole), and one without it, "
    "for the others. Keep the other conditions in both",
    level=UNCLEAR,
)
GROUP_ONLY = Mistake(
    "group-only",
    "Every certificate of the trust anchor with that name can assume the role. CAs often give O, C, ST, L and DC to "
    "all their certificates; hwsigner does not know whether yours does",
    f"If not all of them should get in: {_TAG[0].lower()}{_TAG[1:]}",
    level=UNCLEAR,
)
PATTERN_WIDE = Mistake(
    "pattern-wide",
    "A wildcard may stand for dots too, and the domain is not fixed. So names of other owners fit, if the CA issues "
    "certificates for them: web.* fits web.example.com",
    "Write the domain in full after the wildcard, such as web-*.example.com",
    level=UNCLEAR,
)
NEEDLESS = Mistake(
    "needless",
    "Every request of Roles Anywhere has this key, so IfExists and ForAllValues change nothing here",
    "Use the operator alone, such as ArnEquals",
    level=UNCLEAR,
)
KEY_UNKNOWN = Mistake(
    "key-unknown",
    "AWS does not document that requests of Roles Anywhere have this key. If it is missing, a positive condition "
    "is never met",
    "Use aws:SourceArn, aws:SourceAccount, aws:PrincipalTag/x509…, sts:SourceIdentity or sts:RoleSessionName",
    level=UNCLEAR,
)
NOT_DECIDED = Mistake(
    "not-decided",
    "hwsigner tries certificates to find out who gets in, and could not do so for this policy",
    "Write it with fewer conditions, without negated operators and variables, or check it with IAM Access Analyzer",
    level=UNCLEAR,
)
NOT_JUDGED = Mistake(
    "not-judged",
    "hwsigner does not know what IAM makes of it",
    "Write it more simply, or check it with IAM Access Analyzer",
    level=UNCLEAR,
)
