"""Questions about the simplest sessions, one of each kind."""

from __future__ import annotations

from hwsigner.trial.aws.authority import CertificateShape
from hwsigner.trial.aws.plan import AWSQuestion
from hwsigner.trial.aws.scene import AWSScene
from hwsigner.trial.aws.sessions import AskedSession
from hwsigner.trial.aws.wanted import statement, trusting
from hwsigner.trial.questions import Origin, Source

_GUIDE = "IAM Roles Anywhere User Guide"


def _simplest(scene: AWSScene) -> str:
    return str(scene.session(scene.leaf()))


def _default_name(scene: AWSScene) -> str:
    leaf = scene.leaf(CertificateShape(serial=0xABCDEF))
    answer = scene.session(leaf)
    forms = {"abcdef": "the serial number in lower-case hexadecimal", str(0xABCDEF): "the serial number in decimal"}
    return forms.get(answer.session_name, "something else") if answer.ok else str(answer)


def _without_intermediate(scene: AWSScene) -> str:
    return str(scene.session(scene.leaf(), AskedSession(chain=())))


def _everyone(scene: AWSScene) -> str:
    return scene.new_role("everyone", trusting(statement(Principal="*"))).code or "accepted"


def _caller(scene: AWSScene) -> str:
    session = scene.session(scene.leaf())
    if not session.ok:
        return str(session)
    found = scene.follow_up(session, "get_caller_identity")
    if found.code:
        return str(found)
    return "the ARN of the assumed role" if found.response["Arn"] == session.assumed_role_arn else "another ARN"


QUESTIONS: tuple[AWSQuestion, ...] = (
    AWSQuestion(
        id="sessions.simplest",
        text="Does a leaf of an intermediate CA below the trust anchor get a session?",
        expected="session",
        source=Source(Origin.DOCUMENT, f"{_GUIDE}, Authentication"),
        rests_on=("docs/how-to/emulator.md#what-it-checks",),
        ask=_simplest,
    ),
    AWSQuestion(
        id="sessions.default-name",
        text="What is the name of a session whose request names none?",
        expected="the serial number in lower-case hexadecimal",
        source=Source(Origin.DOCUMENT, f"{_GUIDE}, Authentication"),
        rests_on=("hwsigner/emulator/tags.py: default_session_name",),
        ask=_default_name,
    ),
    AWSQuestion(
        id="chains.no-intermediate",
        text="What does CreateSession say if the intermediate CA is missing from the request?",
        expected="403 AccessDeniedException: Untrusted signing certificate",
        source=Source(Origin.OBSERVATION, "users' reports of the vendor's client"),
        rests_on=("hwsigner/emulator/certificates.py: check_path",),
        ask=_without_intermediate,
    ),
    AWSQuestion(
        id="iam.principal-star",
        text='Does CreateRole take a trust policy with "Principal": "*"?',
        expected="MalformedPolicyDocument",
        source=Source(Origin.OBSERVATION, "aws-cdk issue 5732"),
        rests_on=("docs/how-to/emulator.md#iam", "hwsigner/emulator/iam_policies.py: read_policy"),
        ask=_everyone,
        needs=(),
    ),
    AWSQuestion(
        id="sts.caller",
        text="Whose ARN does GetCallerIdentity return for a session's credentials?",
        expected="the ARN of the assumed role",
        source=Source(Origin.DOCUMENT, "STS API Reference, GetCallerIdentity"),
        rests_on=("docs/how-to/emulator.md#sts",),
        ask=_caller,
    ),
)
