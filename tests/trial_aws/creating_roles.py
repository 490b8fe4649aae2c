"""Questions about the trust policies that CreateRole refuses, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hwsigner.trial.questions import Source, choice, document
from trial_aws.asking import ACCEPTED, Ask
from trial_aws.plan import AWSQuestion, AWSRow, needing
from trial_aws.scene import AWSScene
from trial_aws.sources import IAM_API, IAM_QUOTAS, IAM_WORDS, PRINCIPALS, STAR
from trial_aws.wanted import ACTIONS, SERVICE, WantedRole, statement, trusting

_EMULATOR = "hwsigner/emulator/iam_policies.py"
_FORM, _STATEMENT = f"{_EMULATOR}: check_form", f"{_EMULATOR}: _check_statement"
_PRINCIPAL, _CONDITION = f"{_EMULATOR}: _check_principal", f"{_EMULATOR}: _check_condition"
_LENGTH = f"{_EMULATOR}: read_policy"
_IAM = "docs/how-to/emulator.md#iam"
_MALFORMED = "MalformedPolicyDocument"
_STS_ONLY = f"{_MALFORMED}: AssumeRole policy may only specify STS AssumeRole actions"
_AS_RESOURCE = choice("the words that users quote of Resource; another program has others for NotPrincipal")
_AS_BUCKETS = choice("the words that S3 has for the policies of buckets")
_STORED = choice("IAM is known to store actions and keys that it does not know; hwsigner refuses to judge them")
_OF_OPERATORS = document("IAM User Guide: Condition operators: the names are as listed")
_GRAMMAR = document("IAM User Guide: Grammar of the IAM JSON policy language")
_LONGEST = 2048
TAKEN = WantedRole("taken", profile="")


def refused(scene: AWSScene, name: str, policy: Mapping[str, Any] | str, **members: Any) -> str:
    """Return "accepted" or the refusal of a new role. A full stop at the end does not count."""
    return str(scene.new_role(f"iam-{name}", policy, **members)).rstrip(".")


class _Row(NamedTuple):
    """A trust policy that CreateRole is asked about."""

    name: str
    words: str

    def expects(self, answer: str, source: Source, policy: Mapping[str, Any] | str, *rests_on: str) -> AWSQuestion:
        """Return the question."""
        text = f"What does CreateRole say to a trust policy {self.words}?"
        ask: Ask = lambda scene: refused(scene, self.name, policy)  # noqa: E731
        return AWSQuestion(f"roles.{self.name}", text, answer, source, (*rests_on, _IAM), needing(ask))


def _principal(**principal: Any) -> dict[str, Any]:
    return trusting(statement(Principal=principal))


def _invalid_principal(kind: str, value: str) -> str:
    return f'{_MALFORMED}: Invalid principal in policy: "{kind}":"{value}"'


def _without(name: str) -> dict[str, Any]:
    return trusting({key: value for key, value in statement().items() if key != name})


_NOT_PRINCIPAL = trusting({**_without("Principal")["Statement"][0], "NotPrincipal": {"Service": SERVICE}})
# Of this account, so that the role is nobody else's while it is there.
_OWN_ACCOUNT = {"StringEquals": {"aws:PrincipalAccount": "<<account>>"}}
_EVERYONE = trusting(statement(_OWN_ACCOUNT, Principal={"AWS": "*"}))
_PRINCIPALS = (
    _Row("principal-star", 'with "Principal": "*"').expects(
        _invalid_principal("STAR", "*"), STAR, trusting(statement(Principal="*")), _PRINCIPAL
    ),
    _Row("not-principal", "with NotPrincipal").expects(
        f"{_MALFORMED}: Has prohibited field NotPrincipal", _AS_RESOURCE, _NOT_PRINCIPAL, _STATEMENT
    ),
    _Row("no-principal", "without a principal").expects(
        f"{_MALFORMED}: Missing required field Principal", IAM_WORDS, _without("Principal"), _STATEMENT
    ),
    _Row("service-star", 'with the principal "Service": "*"').expects(
        _invalid_principal("SERVICE", "*"), PRINCIPALS, _principal(Service="*"), _PRINCIPAL
    ),
    _Row("service-part", 'with the principal "Service": "rolesanywhere.*"').expects(
        _invalid_principal("SERVICE", "rolesanywhere.*"), PRINCIPALS, _principal(Service="rolesanywhere.*"), _PRINCIPAL
    ),
    _Row("unknown-service", 'with the principal "Service": "rolesanywhere.example.com"').expects(
        _invalid_principal("SERVICE", "rolesanywhere.example.com"),
        IAM_WORDS,
        _principal(Service="rolesanywhere.example.com"),
        _PRINCIPAL,
    ),
    _Row("aws-star", 'with the principal "AWS": "*"').expects(ACCEPTED, PRINCIPALS, _EVERYONE, _PRINCIPAL),
    _Row("federated-star", 'with the principal "Federated": "*"').expects(
        _invalid_principal("FEDERATED", "*"), PRINCIPALS, _principal(Federated="*"), _PRINCIPAL
    ),
    _Row("unknown-kind", "with a principal of an unknown kind").expects(
        _invalid_principal("NOBODY", "x"),
        choice("as of other principals that are not possible"),
        _principal(Nobody="x"),
        _PRINCIPAL,
    ),
)


def _condition(operator: str, key: str = "aws:PrincipalTag/x509Subject/CN", value: Any = "leaf") -> dict[str, Any]:
    return trusting(statement({operator: {key: value}}))


_CONDITIONS = (
    _Row("lower-case-operator", "with the operator stringequals").expects(
        f"{_MALFORMED}: Invalid Condition type : stringequals", _OF_OPERATORS, _condition("stringequals"), _CONDITION
    ),
    _Row("unknown-operator", "with the operator StringMatches").expects(
        f"{_MALFORMED}: Invalid Condition type : StringMatches", _AS_BUCKETS, _condition("StringMatches"), _CONDITION
    ),
    _Row("null-if-exists", "with the operator NullIfExists").expects(
        f"{_MALFORMED}: Invalid Condition type : NullIfExists",
        _OF_OPERATORS,
        _condition("NullIfExists", value="true"),
        _CONDITION,
    ),
    _Row("unknown-key", "with the key aws:NoSuchKey").expects(
        ACCEPTED, _STORED, _condition("StringEquals", "aws:NoSuchKey"), _CONDITION
    ),
    _Row("empty-values", "with an empty list of values").expects(
        ACCEPTED, _STORED, _condition("StringEquals", value=[]), _CONDITION
    ),
    _Row("number-for-text", "that compares a tag with a number").expects(
        ACCEPTED, _STORED, _condition("StringEquals", value=7), _CONDITION
    ),
)


def _actions(*actions: str) -> dict[str, Any]:
    return trusting(statement(None, actions))


_ACTIONS = (
    _Row("unknown-action", "with sts:TagSessions").expects(
        ACCEPTED, _STORED, _actions(*ACTIONS, "sts:TagSessions"), _STATEMENT
    ),
    _Row("sts-star", "with the action sts:*").expects(ACCEPTED, IAM_WORDS, _actions("sts:*"), _STATEMENT),
    _Row("star", "with the action *").expects(_STS_ONLY, IAM_WORDS, _actions("*"), _STATEMENT),
    _Row("other-service", "with the action s3:GetObject").expects(
        _STS_ONLY, IAM_WORDS, _actions("s3:GetObject"), _STATEMENT
    ),
    _Row("no-action", "without an action").expects(
        f"{_MALFORMED}: Missing required field Action", IAM_WORDS, _without("Action"), _STATEMENT
    ),
    _Row("resource", "with a resource").expects(
        f"{_MALFORMED}: Has prohibited field Resource", IAM_WORDS, trusting(statement(Resource="*")), _STATEMENT
    ),
    _Row("same-sid", "with a Sid twice").expects(
        f"{_MALFORMED}: Statement IDs (SID) in a single policy must be unique",
        IAM_WORDS,
        trusting(statement(Sid="A"), statement(Sid="A")),
        _FORM,
    ),
    _Row("version", "of the version 2024-01-01").expects(
        f"{_MALFORMED}: The policy must contain a valid version string",
        IAM_WORDS,
        {**trusting(), "Version": "2024-01-01"},
        _FORM,
    ),
    _Row("sid", "with a Sid that has a hyphen").expects(
        f"{_MALFORMED}: Statement IDs (SID) must be alpha-numeric. "
        "Check that your input satisfies the regular expression [0-9A-Za-z]*",
        IAM_WORDS,
        trusting(statement(Sid="a-b")),
        _STATEMENT,
    ),
    _Row("unknown-member", "with an unknown member").expects(
        f"{_MALFORMED}: Unknown field Comment", IAM_WORDS, {**trusting(), "Comment": "none"}, _FORM
    ),
    _Row("no-statement", "without statements").expects(
        f"{_MALFORMED}: Could not parse the policy: Statement is empty!",
        IAM_WORDS,
        {**trusting(), "Statement": []},
        _FORM,
    ),
    _Row("no-json", "that is not JSON").expects(
        f"{_MALFORMED}: This policy contains invalid Json", IAM_WORDS, "{", _FORM
    ),
)


def _judged(name: str, words: str, expected: str, policy: Mapping[str, Any]) -> AWSQuestion:
    """Return a question whose answer has no words, as nobody quotes them."""
    text = f"Does CreateRole refuse a trust policy {words}?"
    ask: Ask = lambda scene: scene.new_role(f"iam-{name}", policy).code or ACCEPTED  # noqa: E731
    return AWSQuestion(f"roles.{name}", text, expected, _GRAMMAR, (_STATEMENT, _IAM), needing(ask))


_FORMS = (
    _judged("effect", 'with the effect "allow"', _MALFORMED, trusting(statement(Effect="allow"))),
    _judged("empty-principal", "with a principal of no kind", _MALFORMED, _principal()),
    _judged("empty-actions", "with an empty list of actions", _MALFORMED, _actions()),
    _judged(
        "not-action",
        "with NotAction",
        ACCEPTED,
        trusting({**_without("Action")["Statement"][0], "NotAction": "sts:GetFederationToken"}),
    ),
    _judged("both-actions", "with Action and NotAction", _MALFORMED, trusting(statement(NotAction="sts:TagSession"))),
    _judged("aws-pattern", "with a pattern of accounts", _MALFORMED, _principal(AWS="arn:<<partition>>:iam::*:root")),
    _judged("version-2008", "of the version 2008-10-17", ACCEPTED, {**trusting(), "Version": "2008-10-17"}),
)


def _of_length(length: int, spaces: int = 0) -> Ask:
    """Return what makes a role with a trust policy of so many characters, and spaces that should not count."""

    def ask(scene: AWSScene) -> str:
        policy = scene.filled(trusting(statement({"StringEquals": {"aws:PrincipalTag/x509Subject/CN": "x"}})))
        missing = length - len("".join(policy.split()))
        return refused(scene, f"{length}-{spaces}", policy.replace('"x"', f'"{"x" * (missing + 1)}"') + " " * spaces)

    return ask


def _limited(name: str, words: str, expected: str, source: Source, ask: Ask, *rests_on: str) -> AWSQuestion:
    return AWSQuestion(
        f"roles.{name}", f"What does CreateRole say {words}?", expected, source, (*rests_on, _IAM), needing(ask)
    )


def _taken(change: Any) -> Ask:
    def ask(scene: AWSScene) -> str:
        name = change(scene.named(TAKEN.name)).removeprefix(f"{scene.prefix}-")
        return str(scene.new_role(name, trusting())).rstrip(".")

    return ask


def _default_duration(scene: AWSScene) -> str:
    if problem := scene.new_role("iam-default-duration", trusting()).code:
        return problem
    found = scene.calls.call("iam", "get_role", RoleName=scene.named("iam-default-duration"))
    return found.code or str(found.response["Role"]["MaxSessionDuration"])


def _updated(scene: AWSScene) -> str:
    policy = scene.filled(_NOT_PRINCIPAL)
    answer = scene.calls.call(
        "iam", "update_assume_role_policy", RoleName=scene.named(TAKEN.name), PolicyDocument=policy
    )
    return str(answer).rstrip(".")


_ROLES = (
    _limited("2048", "to a trust policy of 2,048 characters", ACCEPTED, IAM_QUOTAS, _of_length(_LONGEST), _LENGTH),
    _limited(
        "2048-and-spaces",
        "to a trust policy of 2,048 characters and 500 spaces",
        ACCEPTED,
        IAM_QUOTAS,
        _of_length(_LONGEST, 500),
        _LENGTH,
    ),
    _limited(
        "2049",
        "to a trust policy of 2,049 characters",
        f"LimitExceeded: Cannot exceed quota for ACLSizePerRole: {_LONGEST}",
        IAM_WORDS,
        _of_length(_LONGEST + 1),
        _LENGTH,
        "docs/how-to/aws.md#the-trust-policy",
    ),
    AWSRow("roles.same-name", "What does CreateRole say to a name that is taken?", needs=(TAKEN,)).expects(
        "EntityAlreadyExists: Role with name (prefix)-taken already exists",
        IAM_WORDS,
        _taken(lambda name: name),
        "hwsigner/emulator/iam.py: IamService.create_role",
        _IAM,
    ),
    AWSRow(
        "roles.same-name-in-capitals",
        "What does CreateRole say to a name that is taken in other letters?",
        needs=(TAKEN,),
    ).expects(
        "EntityAlreadyExists: Role with name (prefix)-TAKEN already exists",
        IAM_API,
        _taken(lambda name: name.replace("taken", "TAKEN")),
        "hwsigner/emulator/iam.py: IamService.create_role",
        _IAM,
    ),
    AWSRow(
        "roles.update", "What does UpdateAssumeRolePolicy say to a trust policy with NotPrincipal?", needs=(TAKEN,)
    ).expects(
        f"{_MALFORMED}: Has prohibited field NotPrincipal",
        _AS_RESOURCE,
        _updated,
        "hwsigner/emulator/iam.py: IamService.update_assume_role_policy",
        _IAM,
    ),
    _limited(
        "duration",
        "to a MaxSessionDuration of 43201",
        "ValidationError: 1 validation error detected: Value '43201' at 'maxSessionDuration' failed to satisfy "
        "constraint: Member must have value less than or equal to 43200",
        IAM_WORDS,
        lambda scene: refused(scene, "duration", trusting(), MaxSessionDuration=43201),
        "hwsigner/emulator/iam_parameters.py: _check_number",
    ),
    AWSRow("roles.missing", "What does GetRole say of a role that does not exist?", needs=()).expects(
        "NoSuchEntity: The role with name (prefix)-missing cannot be found",
        IAM_WORDS,
        lambda scene: str(scene.calls.call("iam", "get_role", RoleName=scene.named("missing"))).rstrip("."),
        "hwsigner/emulator/iam.py: IamService._role",
        _IAM,
    ),
    AWSRow(
        "roles.default-duration", "What is the MaxSessionDuration of a role that was made without one?", needs=()
    ).expects("3600", IAM_API, _default_duration, "hwsigner/emulator/iam.py: IamService.create_role", _IAM),
)

QUESTIONS = (*_PRINCIPALS, *_CONDITIONS, *_ACTIONS, *_FORMS, *_ROLES)
