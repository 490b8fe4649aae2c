"""Questions: what a session of a role takes with it to the session of the next role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from hwsigner.trial.questions import NotAskedError, Source, choice, document
from trial_aws.authority import CertificateShape
from trial_aws.calls import CallAnswer
from trial_aws.plan import AWSQuestion, AWSRow, needing
from trial_aws.probes import LET_IN, TAG_KEY, in_words
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession, SessionAnswer
from trial_aws.sources import ASSUMED_ROLES, CHAINING, OPERATORS, SESSION_TAGS, STS_KEYS
from trial_aws.wanted import ACTIONS, WantedRole, trusting

_PAGE = "docs/how-to/aws.md#roles-of-other-accounts"
_EMULATOR = "docs/how-to/emulator.md#sts"
_ASSUMING = "hwsigner/emulator/assuming.py: Assumption"
_STS = "hwsigner/emulator/sts.py: StsService"
_ASSUME, _, _SET = ACTIONS
_BOTH = (_ASSUME, _SET)
_SHAPE = CertificateShape((("CN", "web"), ("OU", "a")))
_DENIED = "AccessDenied"


def _next_role(name: str, before: str, actions: tuple[str, ...] = _BOTH, **condition: Mapping[str, Any]) -> WantedRole:
    """Return a role that trusts another role of the trial."""
    head = {"Effect": "Allow", "Principal": {"AWS": f"<<role:{before}>>"}, "Action": list(actions)}
    policy = trusting({**head, "Condition": condition} if condition else head)
    return WantedRole(f"chain-{name}", policy, profile="", duration=7200)


_OF_TAG = {f"{TAG_KEY}x509Subject/OU": "a"}
# IAM takes a role as a principal only if it is there.
_FIRST = WantedRole("chain-first")
_SECOND = _next_role("second", _FIRST.name)
_NO_SET = _next_role("no-set", _FIRST.name, (_ASSUME,))
_IDENTIFIED = _next_role("identified", _FIRST.name, StringEquals={"aws:SourceIdentity": "CN=web"})
_OTHER = _next_role("other", _FIRST.name, StringEquals={"aws:SourceIdentity": "CN=other"})
_EXACT = _next_role("exact", _FIRST.name, StringEquals={"aws:SourceIdentity": "CN=*"})
_KNOWN = _next_role(
    "known",
    _FIRST.name,
    ArnEquals={"aws:PrincipalArn": f"<<role:{_FIRST.name}>>"},
    StringEquals={"aws:PrincipalAccount": "<<account>>", "sts:ExternalId": "trial"},
    StringLike={"sts:RoleSessionName": "tri*", "sts:SourceIdentity": "CN=*"},
)
_TAGGED = _next_role("tagged", _FIRST.name, StringEquals=_OF_TAG)
_THIRD = _next_role("third", _SECOND.name, StringEquals=_OF_TAG)
_IDENTIFIED_THIRD = _next_role("third-identified", _SECOND.name, StringEquals={"aws:SourceIdentity": "CN=web"})


def _assume(scene: AWSScene, session: SessionAnswer, role: str, seconds: int) -> CallAnswer:
    members = {"RoleArn": scene.arn("role", role), "RoleSessionName": "trial", "ExternalId": "trial"}
    return scene.follow_up(session, "assume_role", **members, DurationSeconds=seconds)


@lru_cache(maxsize=1)
def _first_session(scene: AWSScene) -> SessionAnswer:
    session = scene.session(scene.leaf(_SHAPE), AskedSession(_FIRST.name))
    if not session.ok:
        raise NotAskedError(f"the first role was refused: {in_words(session)}")
    return session


def _chained(roles: tuple[WantedRole, ...], seconds: int, scene: AWSScene) -> CallAnswer:
    """Assume the roles one after the other with a session of the first role, and return the last answer."""
    session = _first_session(scene)
    for number, role in enumerate(roles, 1):
        answer = _assume(scene, session, role.name, seconds)
        if answer.code or number == len(roles):
            break
        keys = answer.response["Credentials"]
        credentials = (keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
        session = replace(session, credentials=credentials)
    if answer.code and number < len(roles):
        raise NotAskedError(f"the role before the last was refused: {answer.code}")
    return answer


def _let_in(roles: tuple[WantedRole, ...], seconds: int, scene: AWSScene) -> str:
    return _chained(roles, seconds, scene).code or LET_IN


def _identity(scene: AWSScene) -> str:
    answer = _chained((_SECOND,), 900, scene)
    found = str(answer.response.get("SourceIdentity") or "none")
    return answer.code or {"CN=web": "CN= and the CN"}.get(found, "none" if found == "none" else "something else")


def _arn(scene: AWSScene) -> str:
    answer = _chained((_SECOND,), 900, scene)
    if answer.code:
        return answer.code
    head = f"arn:{scene.partition}:sts::{scene.account}:assumed-role/{scene.named(_SECOND.name)}/"
    known = {f"{head}trial": "assumed-role, the second role and the name that was asked for"}
    return known.get(answer.response["AssumedRoleUser"]["Arn"], "something else")


def _question(
    name: str, text: str, expected: str, source: Source, *roles: WantedRole, seconds: int = 900
) -> AWSQuestion:
    ask, rests_on = partial(_let_in, roles, seconds), (_PAGE, _EMULATOR, _ASSUMING)
    return AWSQuestion(f"chaining.{name}", text, expected, source, rests_on, needing(ask, _FIRST, *roles))


QUESTIONS: list[AWSQuestion] = [
    AWSRow(
        "chaining.source-identity",
        "What is the source identity of the session of a second role?",
        needs=(_FIRST, _SECOND),
    ).expects("CN= and the CN", ASSUMED_ROLES, _identity, _PAGE, _EMULATOR, _STS),
    AWSRow("chaining.arn", "What is the ARN of the session of a second role made of?", needs=(_FIRST, _SECOND)).expects(
        "assumed-role, the second role and the name that was asked for",
        document("IAM User Guide: IAM identifiers"),
        _arn,
        _EMULATOR,
        _STS,
    ),
    _question(
        "two-actions",
        "Is a second role of the same account assumed that allows sts:AssumeRole and sts:SetSourceIdentity?",
        LET_IN,
        choice("no tags are passed on, and a role that names the first one is enough"),
        _SECOND,
    ),
    _question(
        "no-set",
        "Is a second role assumed that does not allow sts:SetSourceIdentity?",
        _DENIED,
        ASSUMED_ROLES,
        _NO_SET,
    ),
    _question("hour", "Does a session of a second role last 3600 seconds?", LET_IN, CHAINING, _SECOND, seconds=3600),
    _question(
        "longer",
        "Does a session of a second role last 3601 seconds, if the role allows two hours?",
        "ValidationError",
        CHAINING,
        _SECOND,
        seconds=3601,
    ),
    _question(
        "condition", "Can a second role require the aws:SourceIdentity CN=web?", LET_IN, ASSUMED_ROLES, _IDENTIFIED
    ),
    _question(
        "other-condition",
        "Is a second role assumed that requires another aws:SourceIdentity?",
        _DENIED,
        ASSUMED_ROLES,
        _OTHER,
    ),
    _question(
        "wildcard", "Does StringEquals CN=* with aws:SourceIdentity let the first role in?", _DENIED, OPERATORS, _EXACT
    ),
    _question(
        "keys",
        "Can a second role require aws:PrincipalArn, aws:PrincipalAccount and the sts: keys of the request?",
        LET_IN,
        STS_KEYS,
        _KNOWN,
    ),
    _question(
        "third-identity",
        "Can a third role require the aws:SourceIdentity CN=web?",
        LET_IN,
        ASSUMED_ROLES,
        *(_SECOND, _IDENTIFIED_THIRD),
    ),
    _question(
        "tags", "Can a second role require the tag x509Subject/OU of the session?", LET_IN, SESSION_TAGS, _TAGGED
    ),
    _question(
        "transitive",
        "Can a third role require the tag x509Subject/OU of the first session?",
        _DENIED,
        choice("nothing says that the tags are transitive"),
        *(_SECOND, _THIRD),
    ),
]
