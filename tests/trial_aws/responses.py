"""Questions about the shapes of CreateSession's responses, and whose credentials they have."""

from __future__ import annotations

from typing import Any

from hwsigner.trial.questions import document
from trial_aws.asking import Ask
from trial_aws.plan import AWSQuestion, AWSRow
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.sources import SESSION_API

_REFUSALS = "hwsigner/emulator/refusals.py: json_error"
_ISSUE = "hwsigner/emulator/sessions.py: SessionService._issue"
_CHECKS = "docs/how-to/emulator.md#what-it-checks"


def _row(name: str, text: str) -> AWSRow:
    return AWSRow(f"requests.{name}", text, (_CHECKS,))


def _shape(**members: Any) -> Ask:
    """Return what asks where a response has the type of its error, and which members its body has."""

    def ask(scene: AWSScene) -> str:
        answer = scene.session(scene.leaf(), AskedSession(**members))
        return f"{answer.header or answer.status}; {', '.join(answer.members)}"

    return ask


def _members(scene: AWSScene) -> str:
    answer = scene.session(scene.leaf())
    return ", ".join(answer.session_members) if answer.ok else str(answer)


def _packed(scene: AWSScene) -> str:
    answer = scene.session(scene.leaf())
    return "a percentage" if answer.ok and 0 <= answer.packed_policy_size <= 100 else str(answer)


def _caller(scene: AWSScene) -> str:
    session = scene.session(scene.leaf())
    if not session.ok:
        return str(session)
    found = scene.follow_up(session, "get_caller_identity")
    if found.code:
        return str(found)
    return "the ARN of the assumed role" if found.response["Arn"] == session.assumed_role_arn else "another ARN"


def _key_kind(scene: AWSScene) -> str:
    answer = scene.session(scene.leaf())
    if not answer.ok:
        return str(answer)
    key = answer.credentials[0]
    return f"{'as temporary ones' if key.startswith('ASIA') else 'otherwise'}, {len(key)} characters"


_LIKE_OTHERS = document("AWS JSON protocols: the type of an error is in the header x-amzn-ErrorType")
QUESTIONS = (
    _row("shape-201", "Which status and members has the response with a session?").expects(
        "201; credentialSet, subjectArn", SESSION_API, _shape(), _ISSUE
    ),
    _row("shape-session", "Which members has the session in the response?").expects(
        "assumedRoleUser, credentials, packedPolicySize, roleArn, sourceIdentity", SESSION_API, _members, _ISSUE
    ),
    _row(
        "shape-400", "Where is the error's type in a response with status 400, and which members are in its body?"
    ).expects("x-amzn-ErrorType; message", _LIKE_OTHERS, _shape(duration=899), _REFUSALS),
    _row(
        "shape-403", "Where is the error's type in a response with status 403, and which members are in its body?"
    ).expects("x-amzn-ErrorType; message", _LIKE_OTHERS, _shape(chain=()), _REFUSALS),
    _row(
        "shape-404", "Where is the error's type in a response with status 404, and which members are in its body?"
    ).expects(
        "x-amzn-ErrorType; message",
        _LIKE_OTHERS,
        _shape(change=lambda request: request._replace(path=f"{request.path}/")),
        _REFUSALS,
    ),
    _row("packed-policy", "Is packedPolicySize a percentage?").expects("a percentage", SESSION_API, _packed, _ISSUE),
    AWSQuestion(
        "sts.caller",
        "Whose ARN does GetCallerIdentity return for a session's credentials?",
        "the ARN of the assumed role",
        document("STS API Reference, GetCallerIdentity"),
        ("docs/how-to/emulator.md#sts",),
        _caller,
    ),
    _row("expiration", "Which form has the expiration of a session, with 0 for each digit?").expects(
        "0000-00-00T00:00:00Z",
        SESSION_API,
        lambda scene: (answer := scene.session(scene.leaf())).expiration or str(answer),
        _ISSUE,
    ),
    _row("key-kind", "How does a session's access key ID begin, and how long is it?").expects(
        "as temporary ones, 20 characters",
        document("IAM User Guide: IAM identifiers: unique ID prefixes"),
        _key_kind,
        "hwsigner/emulator/vault.py: Vault.issue",
    ),
)
