"""Questions: whom whole trust policies let in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from hwsigner.trial.questions import NotAskedError, Source, choice
from trial_aws.anchors import TWO
from trial_aws.authority import CertificateShape
from trial_aws.plan import AWSQuestion, needing
from trial_aws.probes import LET_IN, REFUSED, TAG_KEY, Probe, ProbeTable, Reading, in_words
from trial_aws.scene import AWSScene, RefusedInAdvanceError
from trial_aws.sessions import AskedSession
from trial_aws.sources import GLOBAL_KEYS, OPERATORS, PRINCIPALS, STS_ACTIONS, TRUST_MODEL, VARIABLES
from trial_aws.wanted import ACTIONS, OPEN, Wanted, WantedRole, statement, trusting

_WRONG = "docs/how-to/aws.md#wrong-it-keeps-out-what-it-should-let-in"
_OPEN = "docs/how-to/aws.md#open-it-lets-in-more-than-it-names"
_EMULATOR = "docs/how-to/emulator.md#trust-policies"
_POLICY = "hwsigner/trust_policy/__init__.py: TrustPolicy"
_PRINCIPAL = "hwsigner/trust_policy/__init__.py: _is_for_service"
_ASSUME, _TAG, _SET = ACTIONS
_SERVICE = "rolesanywhere.amazonaws.com"
_OU = f"{TAG_KEY}x509Subject/OU"
_SHAPE = CertificateShape((("CN", "web"), ("OU", "a")))


def _let_in(role: str, scene: AWSScene) -> str:
    try:
        return in_words(scene.session(scene.leaf(_SHAPE), AskedSession(role)))
    except RefusedInAdvanceError as error:
        return f"IAM refuses the policy: {error.message.split(': ')[1]}"


def _policy(
    name: str, text: str, policy: Mapping[str, Any], expected: str, source: Source, rests_on: Sequence[str]
) -> AWSQuestion:
    role = WantedRole(f"trust-{name}", policy)
    return AWSQuestion(
        f"trust.{name}", text, expected, source, tuple(rests_on), needing(partial(_let_in, role.name), role)
    )


def _shared(
    name: str, text: str, expected: str, source: Source, rests_on: tuple[str, ...], *statements: Mapping[str, Any]
) -> Probe:
    """Return a question about a policy that IAM takes, which shares a role with others."""
    readings = (Reading(LET_IN, statements=statements),)
    return Probe(f"trust.{name}", text, expected, source, rests_on, readings, (("OU", "a"),))


def _actions(name: str, text: str, expected: str, source: Source, *actions: str) -> Probe:
    return _shared(f"action-{name}", text, expected, source, (_WRONG, _POLICY), statement(None, actions))


def _principal(name: str, text: str, principal: object, expected: str, source: Source) -> Probe:
    # Nobody else gets in, even by {"AWS": "*"}.
    found = statement({"ArnEquals": {"aws:SourceArn": "<<anchor:main>>"}}, Principal=principal)
    return _shared(f"principal-{name}", text, expected, source, (_EMULATOR, _PRINCIPAL), found)


_ACTIONS = [
    _actions(
        "no-assume", "Does a policy without sts:AssumeRole let a certificate in?", REFUSED, TRUST_MODEL, _TAG, _SET
    ),
    _actions(
        "no-tag", "Does a policy without sts:TagSession let a certificate in?", REFUSED, TRUST_MODEL, _ASSUME, _SET
    ),
    _actions(
        "no-set",
        "Does a policy without sts:SetSourceIdentity let a certificate in?",
        REFUSED,
        TRUST_MODEL,
        _ASSUME,
        _TAG,
    ),
    _actions(
        "star",
        "Does a policy with the action sts:* let a certificate in?",
        LET_IN,
        choice("IAM's actions may have wildcards"),
        "sts:*",
    ),
    _actions(
        "pattern",
        "Does a policy with sts:AssumeRol?, sts:Tag* and sts:Set* let a certificate in?",
        LET_IN,
        choice("IAM's actions may have wildcards"),
        *("sts:AssumeRol?", "sts:Tag*", "sts:Set*"),
    ),
    _actions(
        "case",
        "Does a policy with the actions in other letters, such as STS:assumerole, let a certificate in?",
        LET_IN,
        choice("IAM's actions are not case-sensitive"),
        *("STS:assumerole", "sts:tagsession", "sts:setsourceidentity"),
    ),
    _shared(
        "action-deny-tag",
        "Does a policy that denies sts:TagSession let a certificate in?",
        REFUSED,
        OPERATORS,
        (_EMULATOR, _POLICY),
        *(statement(), statement(None, (_TAG,), Effect="Deny")),
    ),
    _shared(
        "source-identity-at-once",
        "Does sts:SourceIdentity in one statement for all three actions let a certificate in?",
        REFUSED,
        STS_ACTIONS,
        ("docs/how-to/aws.md#keys-by-action", "hwsigner/trust_policy/conditions.py: ACTION_KEYS"),
        statement({"StringEquals": {"sts:SourceIdentity": "CN=trust-source-identity-at-once"}}),
    ),
    _shared(
        "arn-star",
        'Does ArnLike aws:SourceArn "*" let a certificate in?',
        LET_IN,
        choice("AWS does not document it, and this is the worst case"),
        (_OPEN, "hwsigner/trust_policy/conditions.py: _arn"),
        statement({"ArnLike": {"aws:SourceArn": "*"}}),
    ),
    _shared(
        "variable-dollar",
        "Does StringNotEquals with $(aws:PrincipalTag/x509Subject/OU}, which is no variable, let a certificate in?",
        LET_IN,
        VARIABLES,
        (_OPEN, "hwsigner/trust_policy/conditions.py: _Pattern"),
        statement({"StringNotEquals": {_OU: "$(aws:PrincipalTag/x509Subject/OU}"}}),
    ),
]
_PRINCIPALS = [
    _principal(
        "other-service",
        "Is Roles Anywhere let in by sts.amazonaws.com?",
        {"Service": "sts.amazonaws.com"},
        REFUSED,
        TRUST_MODEL,
    ),
    _principal(
        "two-services",
        "Is Roles Anywhere let in if it is one of two services?",
        {"Service": ["ec2.amazonaws.com", _SERVICE]},
        LET_IN,
        PRINCIPALS,
    ),
    _principal(
        "everyone",
        'Is Roles Anywhere let in by {"AWS": "*"}?',
        {"AWS": "*"},
        LET_IN,
        choice("everyone includes services; what IAM makes of it is the worst case"),
    ),
    _principal(
        "account",
        "Is Roles Anywhere let in by a policy that names the account?",
        {"AWS": "arn:<<partition>>:iam::<<account>>:root"},
        REFUSED,
        PRINCIPALS,
    ),
    _principal(
        "both",
        "Is Roles Anywhere let in if it is named beside the account?",
        {"AWS": "<<account>>", "Service": _SERVICE},
        LET_IN,
        PRINCIPALS,
    ),
]
_DOCUMENTS = [
    _policy(
        "action-unknown",
        "Does a policy with the action sts:TagSessions, which there is not, beside the three let a certificate in?",
        trusting(statement(None, (*ACTIONS, "sts:TagSessions"))),
        REFUSED,
        choice("IAM stores it, and the emulator does not judge what it does not know"),
        (_WRONG, _POLICY),
    ),
    _policy(
        "arn-short",
        "Does ArnLike aws:SourceArn with a pattern of less than six parts let a certificate in?",
        trusting(statement({"ArnLike": {"aws:SourceArn": "arn:*:trust-anchor/*"}})),
        REFUSED,
        choice("the six parts are compared one by one"),
        (_EMULATOR, "hwsigner/trust_policy/conditions.py: _arn"),
    ),
    _policy(
        "source-ip",
        "Does aws:SourceIp of any address let a certificate in?",
        trusting(statement({"IpAddress": {"aws:SourceIp": ["0.0.0.0/0", "::/0"]}})),
        REFUSED,
        choice("whose address it would be is not documented, so it is not judged"),
        (_EMULATOR, "hwsigner/trust_policy/conditions.py: OPERATORS"),
    ),
    _policy(
        "version-2008",
        "Are variables of a policy of Version 2008-10-17 compared letter by letter?",
        {**trusting(statement({"StringEquals": {_OU: "${aws:PrincipalTag/x509Subject/OU}"}})), "Version": "2008-10-17"},
        REFUSED,
        VARIABLES,
        (_EMULATOR, _POLICY),
    ),
    _policy(
        "no-version",
        "Is the Version 2008-10-17 if a policy has none?",
        {"Statement": trusting(statement({"StringEquals": {_OU: "${aws:PrincipalTag/x509Subject/OU}"}}))["Statement"]},
        REFUSED,
        VARIABLES,
        (_EMULATOR, _POLICY),
    ),
]


_ALIASES = "docs/how-to/emulator.md#the-control-plane"
_MEANING = "docs/how-to/aws.md#what-each-condition-means"
_SERVICE_OF_SESSIONS = "hwsigner/emulator/sessions.py: SessionService"


def _only_by(name: str, anchor: str) -> WantedRole:
    return WantedRole(f"trust-by-{name}", trusting(statement({"ArnEquals": {"aws:SourceArn": anchor}})))


_BY_ID = _only_by("id", "<<anchor:main>>")
_BY_ALIAS = _only_by("alias", "arn:<<partition>>:rolesanywhere:<<region>>:<<account>>:alias/trust-anchor/<<prefix>>-a")
_BY_ACCOUNT = WantedRole(
    "trust-by-account", trusting(statement({"StringEquals": {"aws:SourceAccount": "<<account>>"}}))
)
_BY_VARIABLE = WantedRole("trust-by-variable", trusting(statement({"StringEquals": {"aws:SourceArn": f"${{{_OU}}}"}})))


def _by_alias(role: str, scene: AWSScene) -> str:
    """Ask for a session by the alias of the trust anchor."""
    anchor, alias = scene.arn("anchor", "main"), scene.named("a")
    members = {"trustAnchorId": anchor.rpartition("/")[2], "aliasName": alias}
    changed = scene.calls.call("rolesanywhere", "update_trust_anchor", **members)
    if changed.code:
        raise NotAskedError(f"UpdateTrustAnchor was refused: {changed.code}")
    arns = scene.arn("profile", "main"), scene.arn("role", role), changed.response["trustAnchor"]["aliasArn"]
    return in_words(scene.send(scene.leaf(_SHAPE), AskedSession(role), arns))


def _by_another(role: str, scene: AWSScene) -> str:
    """Ask for a session by another trust anchor with the same CA."""
    return in_words(scene.session(scene.leaf(_SHAPE), AskedSession(role, anchor=TWO.name)))


def _by_variable(scene: AWSScene) -> str:
    """Ask for a session with a certificate whose OU is the trust anchor's ARN."""
    shape = CertificateShape((("CN", "web"), ("OU", scene.arn("anchor", "main"))))
    return in_words(scene.session(scene.leaf(shape), AskedSession(_BY_VARIABLE.name)))


def _anchor(
    name: str, text: str, expected: str, source: Source, ask: Callable[[AWSScene], str], *needs: Wanted
) -> AWSQuestion:
    rests_on = _OPEN, _MEANING, _ALIASES, _SERVICE_OF_SESSIONS
    return AWSQuestion(f"trust.{name}", text, expected, source, rests_on, needing(ask, *needs))


_ANCHORS = [
    _anchor(
        "any-anchor",
        "Does a policy without aws:SourceArn let in a certificate by each trust anchor of the account?",
        LET_IN,
        TRUST_MODEL,
        partial(_by_another, OPEN.name),
        *(OPEN, TWO),
    ),
    _anchor(
        "other-anchor",
        "Does aws:SourceArn of one trust anchor let in a certificate by another one?",
        REFUSED,
        TRUST_MODEL,
        partial(_by_another, _BY_ID.name),
        *(_BY_ID, TWO),
    ),
    _anchor(
        "account",
        "Does aws:SourceAccount of the account let in a certificate by each trust anchor of the account?",
        LET_IN,
        GLOBAL_KEYS,
        partial(_by_another, _BY_ACCOUNT.name),
        *(_BY_ACCOUNT, TWO),
    ),
    _anchor(
        "arn-variable",
        "Does aws:SourceArn ${aws:PrincipalTag/x509Subject/OU} let in a certificate whose OU is that ARN?",
        LET_IN,
        VARIABLES,
        _by_variable,
        _BY_VARIABLE,
    ),
    _anchor(
        "alias",
        "Does aws:SourceArn with the trust anchor's ID let in a request that names its alias?",
        LET_IN,
        choice("aws:SourceArn is the ARN with the ID"),
        partial(_by_alias, _BY_ID.name),
        _BY_ID,
    ),
    _anchor(
        "alias-in-policy",
        "Does aws:SourceArn with the trust anchor's alias let in a request that names the alias?",
        REFUSED,
        TRUST_MODEL,
        partial(_by_alias, _BY_ALIAS.name),
        _BY_ALIAS,
    ),
]

QUESTIONS: list[AWSQuestion] = [
    *ProbeTable("trust", [*_ACTIONS, *_PRINCIPALS]).questions,
    *_DOCUMENTS,
    *_ANCHORS,
]
