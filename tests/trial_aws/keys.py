"""What asks which keys the requests of the three actions have."""

from __future__ import annotations

from trial_aws.plan import Ask
from trial_aws.probes import LET_IN, Probe, ProbeTable, Reading
from trial_aws.wanted import ACTIONS, WantedProfile, statement

_ASSUME, _TAG, _SET = ACTIONS
_PATTERNS = (ACTIONS, (), (_ASSUME,), (_ASSUME, _TAG), (_ASSUME, _SET), (_TAG, _SET), (_TAG,), (_SET,))


def _key(key: str, expected: tuple[str, ...] = ACTIONS, profile: str = "") -> Probe:
    """Return what tells apart which of the actions have a key. The expected ones are asked about first."""
    patterns = sorted(_PATTERNS, key=lambda pattern: pattern != expected)
    readings = tuple(_having(key, pattern) for pattern in patterns)
    return Probe(readings, (("OU", "a"),), otherwise="none of the patterns", profile=profile)


def _having(key: str, actions: tuple[str, ...]) -> Reading:
    """Return the reading that these actions have a key, and the others lack it."""
    there, missing = ({"Null": {key: null}} for null in ("false", "true"))
    parts = (there, actions), (missing, tuple(each for each in ACTIONS if each not in actions))
    words = {0: "none", len(ACTIONS): "all three"}.get(len(actions), " and ".join(actions))
    return Reading(words, statements=tuple(statement(*part) for part in parts if part[1]))


_IS_CN = Reading("yes", {"StringEquals": {"sts:SourceIdentity": "CN=keys-value-source-identity"}})
_PROPAGATING = "propagating"
_PROBES = {
    "principal-tag": _key("aws:PrincipalTag/x509Subject/OU"),
    "request-tag": _key("aws:RequestTag/x509Subject/OU", (_ASSUME, _TAG)),
    "tag-keys": _key("aws:TagKeys", (_ASSUME, _TAG)),
    "source-arn": _key("aws:SourceArn"),
    "source-identity": _key("sts:SourceIdentity", (_ASSUME, _SET)),
    "session-name": _key("sts:RoleSessionName", (_ASSUME,)),
    "origin-subject": _key("aws:OriginIdentity/Subject", profile=_PROPAGATING),
    "value-source-identity": Probe((_IS_CN,), otherwise="no"),
    "origin-without-set-context": Probe((Reading(LET_IN),), profile=_PROPAGATING),
}
_PROPAGATION = {"status": "ENABLED", "subjectType": "workload"}
_PROFILES = (WantedProfile(_PROPAGATING, members={"tipConfiguration": _PROPAGATION}),)
ASKS: dict[str, Ask] = ProbeTable("keys", _PROBES, _PROFILES).asks
