"""Questions: which keys the requests of the three actions have, and with which values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hwsigner.trial.questions import Source, choice
from trial_aws.plan import AWSQuestion
from trial_aws.probes import LET_IN, REFUSED, Condition, Probe, ProbeTable, Reading
from trial_aws.sources import GLOBAL_KEYS, PROPAGATION, SESSION_TAGS, STS_ACTIONS, STS_KEYS, TRUST_MODEL
from trial_aws.wanted import ACTIONS, WantedProfile, statement

_BY_ACTION = "docs/how-to/aws.md#keys-by-action"
_ACTION_KEYS = "hwsigner/trust_policy/conditions.py: ACTION_KEYS"
_CONTEXT = "hwsigner/trust_policy/__init__.py: request_context"
_UNKNOWN = "docs/how-to/emulator.md#trust-policies"
_ASSUME, _TAG, _SET = ACTIONS
_PATTERNS = (ACTIONS, (), (_ASSUME,), (_ASSUME, _TAG), (_ASSUME, _SET), (_TAG, _SET), (_TAG,), (_SET,))


def _key(name: str, key: str, actions: tuple[str, ...], source: Source) -> Probe:
    """Return a question about a key: which of the actions have it."""
    others = sorted(_PATTERNS, key=lambda pattern: pattern != actions)
    return Probe(
        f"keys.{name}",
        f"Which of the three actions have the key {key}?",
        _in_words(actions),
        source,
        (_BY_ACTION, _ACTION_KEYS),
        tuple(_having(key, pattern) for pattern in others),
        names=(("OU", "a"),),
        otherwise="none of the patterns",
        profile="propagating" if "OriginIdentity" in key else "",
    )


def _having(key: str, actions: tuple[str, ...]) -> Reading:
    """Return the reading that these actions have a key, and the others lack it."""
    there, missing = ({"Null": {key: null}} for null in ("false", "true"))
    parts = (there, actions), (missing, tuple(each for each in ACTIONS if each not in actions))
    return Reading(_in_words(actions), statements=tuple(statement(*part) for part in parts if part[1]))


def _in_words(actions: tuple[str, ...]) -> str:
    return {0: "none", len(ACTIONS): "all three"}.get(len(actions), " and ".join(actions))


_OTHER_SOURCE = choice(
    "the identity comes from a certificate, and STS's reference has the key for web identities and SAML"
)
_KEYS = [
    _key("principal-tag", "aws:PrincipalTag/x509Subject/OU", ACTIONS, TRUST_MODEL),
    _key("request-tag", "aws:RequestTag/x509Subject/OU", (_ASSUME, _TAG), SESSION_TAGS),
    _key("tag-keys", "aws:TagKeys", (_ASSUME, _TAG), SESSION_TAGS),
    _key("source-arn", "aws:SourceArn", ACTIONS, TRUST_MODEL),
    _key("source-account", "aws:SourceAccount", ACTIONS, GLOBAL_KEYS),
    _key("source-identity", "sts:SourceIdentity", (_ASSUME, _SET), STS_ACTIONS),
    _key("session-name", "sts:RoleSessionName", (_ASSUME,), STS_KEYS),
    _key("is-service", "aws:PrincipalIsAWSService", ACTIONS, GLOBAL_KEYS),
    _key("service-name", "aws:PrincipalServiceName", ACTIONS, GLOBAL_KEYS),
    _key("time", "aws:CurrentTime", ACTIONS, GLOBAL_KEYS),
    _key("epoch-time", "aws:EpochTime", ACTIONS, GLOBAL_KEYS),
    _key("origin-subject", "aws:OriginIdentity/Subject", ACTIONS, PROPAGATION),
    _key("origin-type", "aws:OriginIdentity/SubjectType", ACTIONS, PROPAGATION),
    _key("origin-issuer", "aws:OriginIdentity/Issuer", (), _OTHER_SOURCE),
    _key("origin-provider", "aws:OriginIdentity/FederatedProviderArn", (), _OTHER_SOURCE),
]


def _value(name: str, what: str, condition: Condition, source: Source, **more: Any) -> Probe:
    """Return a question about a key's value in a request for sts:AssumeRole."""
    made = Probe(f"keys.value-{name}", f"Is {what}?", "yes", source, (_UNKNOWN, _CONTEXT), (Reading("yes", condition),))
    return replace(made, otherwise="no", names=(("OU", "a"),), **more)


_VALUES = [
    _value(
        "source-account",
        "aws:SourceAccount the account of the trust anchor",
        {"StringEquals": {"aws:SourceAccount": "<<account>>"}},
        GLOBAL_KEYS,
    ),
    _value(
        "is-service", "aws:PrincipalIsAWSService true", {"Bool": {"aws:PrincipalIsAWSService": "true"}}, GLOBAL_KEYS
    ),
    _value(
        "service-name",
        "aws:PrincipalServiceName rolesanywhere.amazonaws.com",
        {"StringEquals": {"aws:PrincipalServiceName": "rolesanywhere.amazonaws.com"}},
        GLOBAL_KEYS,
    ),
    _value(
        "time",
        "aws:CurrentTime between 2026 and 2126",
        {
            "DateGreaterThan": {"aws:CurrentTime": "2026-01-01T00:00:00Z"},
            "DateLessThan": {"aws:CurrentTime": "2126-01-01T00:00:00Z"},
        },
        GLOBAL_KEYS,
    ),
    _value(
        "epoch-time",
        "aws:EpochTime a number of seconds since 1970",
        {"NumericGreaterThan": {"aws:EpochTime": "1767225600"}},
        GLOBAL_KEYS,
    ),
    _value(
        "request-tag",
        "aws:RequestTag/x509Subject/OU the OU",
        {"StringEquals": {"aws:RequestTag/x509Subject/OU": "a"}},
        SESSION_TAGS,
    ),
    _value(
        "tag-keys",
        "x509Subject/OU one of aws:TagKeys",
        {"ForAnyValue:StringEquals": {"aws:TagKeys": "x509Subject/OU"}},
        SESSION_TAGS,
    ),
    _value(
        "all-tag-keys",
        "each of aws:TagKeys one of x509Subject/*, x509Issuer/* and x509SAN/*",
        {"ForAllValues:StringLike": {"aws:TagKeys": ["x509Subject/*", "x509Issuer/*", "x509SAN/*"]}},
        TRUST_MODEL,
    ),
    _value(
        "source-identity",
        "sts:SourceIdentity CN= and the CN",
        {"StringEquals": {"sts:SourceIdentity": "CN=keys-value-source-identity"}},
        TRUST_MODEL,
    ),
    _value(
        "session-name",
        "sts:RoleSessionName the name that the client gave",
        {"StringEquals": {"sts:RoleSessionName": "web"}},
        STS_KEYS,
        profile="named",
        session_name="web",
    ),
    _value(
        "origin-subject",
        "aws:OriginIdentity/Subject the CN",
        {"StringEquals": {"aws:OriginIdentity/Subject": "keys-value-origin-subject"}},
        PROPAGATION,
        profile="propagating",
    ),
    _value(
        "origin-type",
        "aws:OriginIdentity/SubjectType what the profile says",
        {"StringEquals": {"aws:OriginIdentity/SubjectType": "workload"}},
        PROPAGATION,
        profile="propagating",
    ),
]
_TIP = "docs/how-to/emulator.md#the-control-plane", "hwsigner/emulator/sessions.py: _origin_identity"
_WITH_PROPAGATION = [
    Probe(
        "keys.origin-without-set-context",
        "Is a session with trusted identity propagation given out if the trust policy does not allow sts:SetContext?",
        LET_IN,
        choice("AWS does not document that the action is needed"),
        _TIP,
        (Reading(LET_IN, {}),),
        profile="propagating",
    ),
    Probe(
        "keys.origin-lacking",
        "Is a session given out if the certificate lacks the CN that trusted identity propagation takes?",
        REFUSED,
        choice("without an identity there is nothing to propagate"),
        _TIP,
        (Reading(LET_IN, {}),),
        known_by="O",
        profile="propagating",
    ),
]
_PROPAGATION = {"status": "ENABLED", "subjectType": "workload"}
_PROFILES = [
    WantedProfile("named", members={"acceptRoleSessionName": True}),
    WantedProfile("propagating", members={"tipConfiguration": _PROPAGATION}),
]
QUESTIONS: list[AWSQuestion] = ProbeTable("keys", [*_KEYS, *_VALUES, *_WITH_PROPAGATION], _PROFILES).questions
