"""What asks whom whole trust policies let in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from trial_aws.anchors import TWO, by_alias
from trial_aws.authority import CertificateShape
from trial_aws.plan import Ask, needing
from trial_aws.probes import LET_IN, TAG_KEY, Condition, Probe, ProbeTable, Reading, in_words
from trial_aws.scene import AWSScene, RefusedInAdvanceError
from trial_aws.sessions import AskedSession
from trial_aws.wanted import ACTIONS, OPEN, WantedRole, statement, trusting

_ASSUME, _TAG, _SET = ACTIONS
_OU = f"{TAG_KEY}x509Subject/OU"
_OF_OU = {"StringEquals": {_OU: "${aws:PrincipalTag/x509Subject/OU}"}}
_SHAPE = CertificateShape((("CN", "web"), ("OU", "a")))


def _shared(*statements: Mapping[str, Any]) -> Probe:
    """Return what asks about a policy that IAM takes, which shares a role with others."""
    return Probe((Reading(LET_IN, statements=statements),), (("OU", "a"),))


def _principal(principal: Mapping[str, Any]) -> Probe:
    # Nobody else gets in, even by {"AWS": "*"}.
    return _shared(statement({"ArnEquals": {"aws:SourceArn": "<<anchor:main>>"}}, Principal=principal))


_SHARED = {
    "action-no-assume": _shared(statement(None, (_TAG, _SET))),
    "action-no-tag": _shared(statement(None, (_ASSUME, _SET))),
    "action-no-set": _shared(statement(None, (_ASSUME, _TAG))),
    "action-star": _shared(statement(None, ("sts:*",))),
    "source-identity-at-once": _shared(
        statement({"StringEquals": {"sts:SourceIdentity": "CN=trust-source-identity-at-once"}})
    ),
    "arn-star": _shared(statement({"ArnLike": {"aws:SourceArn": "*"}})),
    "principal-other-service": _principal({"Service": "sts.amazonaws.com"}),
    "principal-everyone": _principal({"AWS": "*"}),
}


def _let_in(role: str, scene: AWSScene) -> str:
    try:
        return in_words(scene.session(scene.leaf(_SHAPE), AskedSession(role)))
    except RefusedInAdvanceError as error:
        return f"IAM refuses the policy: {error.message.split(': ')[1]}"


def _policy(name: str, policy: Mapping[str, Any]) -> Ask:
    role = WantedRole(f"trust-{name}", policy)
    return needing(partial(_let_in, role.name), role)


def _only_by(name: str, condition: Condition) -> WantedRole:
    return WantedRole(f"trust-by-{name}", trusting(statement(condition)))


_BY_ID = _only_by("id", {"ArnEquals": {"aws:SourceArn": "<<anchor:main>>"}})
_ALIAS = "arn:<<partition>>:rolesanywhere:<<region>>:<<account>>:alias/trust-anchor/<<prefix>>-main-a"
_BY_ALIAS = _only_by("alias", {"ArnEquals": {"aws:SourceArn": _ALIAS}})
_BY_ACCOUNT = _only_by("account", {"StringEquals": {"aws:SourceAccount": "<<account>>"}})
_BY_VARIABLE = _only_by("variable", {"StringEquals": {"aws:SourceArn": f"${{{_OU}}}"}})


def _by_alias(role: WantedRole) -> Ask:
    """Return what asks for a session by the alias of the trust anchor."""
    return needing(lambda scene: in_words(by_alias(scene, scene.leaf(_SHAPE), "main", role.name)), role)


def _by_another(role: WantedRole) -> Ask:
    """Return what asks for a session by another trust anchor with the same CA."""
    asked = AskedSession(role.name, anchor=TWO.name)
    return needing(lambda scene: in_words(scene.session(scene.leaf(_SHAPE), asked)), role, TWO)


def _by_variable(scene: AWSScene) -> str:
    """Ask for a session with a certificate whose OU is the trust anchor's ARN."""
    shape = CertificateShape((("CN", "web"), ("OU", scene.arn("anchor", "main"))))
    return in_words(scene.session(scene.leaf(shape), AskedSession(_BY_VARIABLE.name)))


ASKS: dict[str, Ask] = {
    **ProbeTable("trust", _SHARED).asks,
    "trust.action-unknown": _policy("action-unknown", trusting(statement(None, (*ACTIONS, "sts:TagSessions")))),
    "trust.no-version": _policy("no-version", {"Statement": [statement(_OF_OU)]}),
    "trust.any-anchor": _by_another(OPEN),
    "trust.other-anchor": _by_another(_BY_ID),
    "trust.account": _by_another(_BY_ACCOUNT),
    "trust.arn-variable": needing(_by_variable, _BY_VARIABLE),
    "trust.alias": _by_alias(_BY_ID),
    "trust.alias-in-policy": _by_alias(_BY_ALIAS),
}
