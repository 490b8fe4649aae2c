"""Questions to AWS about certificates, requests and refusals: emulators that answer otherwise are found."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from hwsigner._aws.apis import ServiceClients
from hwsigner._aws.create_session import find_service
from hwsigner.emulator import Emulator, Fault, World, certificates
from hwsigner.emulator.differences import Difference
from hwsigner.emulator.iam import _ACTIONS
from hwsigner.emulator.refusals import json_response
from hwsigner.trial.questions import NotAskedError
from trial.aws_trials import KEY, FakeTime
from trial_aws.authority import TrialCA
from trial_aws.calls import TrialPace
from trial_aws.making import make_all
from trial_aws.plan import plan_of
from trial_aws.questions import QUESTIONS
from trial_aws.scene import AWSScene

pytestmark = pytest.mark.slow

BY_ID = {each.id: each for each in QUESTIONS}
SESSION, DENIED = "session", "403 AccessDeniedException"
INSUFFICIENT = f"{DENIED}: Untrusted certificate. Insufficient certificate"
UNTRUSTED, BAD_SIGNATURE = f"{DENIED}: Untrusted signing certificate", f"{DENIED}: Invalid signature"
INVALID = "400 ValidationException"


class Asked:
    """A trial's scene with what the questions need, and the emulator that it asks."""

    def __init__(self, emulator: Emulator, scene: AWSScene) -> None:
        self.emulator = emulator
        self.scene = scene

    def __call__(self, question: str) -> str:
        return str(BY_ID[question].ask(self.scene))


@pytest.fixture(scope="module")
def made() -> Iterator[Asked]:
    time = FakeTime()
    pace = TrialPace(clock=time.clock, sleep=time.sleep)
    with pytest.MonkeyPatch.context() as patch, Emulator(World()) as emulator:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY[0])
        patch.setenv("AWS_SECRET_ACCESS_KEY", KEY[1])
        emulator.add_credentials(*KEY)
        clients = ServiceClients("eu-central-1", endpoint=emulator.url, before_send=pace)
        scene = AWSScene(clients, find_service("eu-central-1", endpoint=emulator.url), ca=TrialCA(), pace=pace)
        make_all(scene, plan_of(QUESTIONS))
        yield Asked(emulator, scene)


@pytest.fixture
def ask(made: Asked) -> Iterator[Asked]:
    yield made
    made.emulator.world.differing, made.emulator.world.role_delay, made.scene.rates = set(), 0, False


FOUND = {
    Difference.LEAF_IN_CHAIN: (
        "chains.leaf-first",
        f"{INVALID}: X-Amz-X509-Chain holds the certificate of X-Amz-X509 itself, and not as its first",
    ),
    Difference.ROOT_IN_CHAIN: ("chains.root-last", SESSION),
    Difference.CLIENT_AUTH: ("leaves.server-auth", INSUFFICIENT),
    Difference.RSA_1024: ("leaves.rsa-1024", SESSION),
    Difference.EMPTY_SUBJECT: ("leaves.empty-subject", SESSION),
    Difference.OTHER_WORDS: ("leaves.no-key-usage", f"{DENIED}: Certificate not accepted"),
    Difference.NAME_CONSTRAINTS: ("chains.name-constraints", UNTRUSTED),
    Difference.EXPIRED_CRL: ("revocation.expired-list", SESSION),
    Difference.THREE_CAS: ("control.anchor-three", "accepted"),
    Difference.LONGER_SKEW: ("clock.too-far-behind", SESSION),
    Difference.DURATION_REFUSED: ("durations.over-profile", INVALID),
    Difference.DISABLED_NOT_FOUND: (
        "anchors.disabled-profile",
        "404 ResourceNotFoundException: Profile (arn) not found",
    ),
    Difference.SESSION_NAME_IGNORED: ("anchors.session-name", SESSION),
    Difference.STATUS_200: ("requests.shape-201", "200; credentialSet, subjectArn"),
    Difference.MAPPINGS_MERGED: ("control.mapping-replaced", "*, CN, OU"),
    Difference.PRINCIPAL_STAR: ("roles.principal-star", "accepted"),
    Difference.OPERATOR_CASE: ("roles.lower-case-operator", "accepted"),
}


@pytest.mark.parametrize("difference", FOUND)
def test_difference_is_found_with_the_other_answer(ask: Asked, difference: Difference) -> None:
    question, answer = FOUND[difference]
    ask.emulator.world.differing = {difference}
    assert ask(question) == answer
    assert answer != BY_ID[question].expected


def _in_body(kind: str, status: int, message: str) -> Any:
    return json_response(status, {"__type": kind, "message": message})


_STRONG = (*certificates._STRONG_HASHES, hashes.SHA3_256)
_STILL = {**_ACTIONS, "UpdateAssumeRolePolicy": _ACTIONS["UpdateAssumeRolePolicy"]._replace(run=lambda *_: None)}


def _is_short(certificate: x509.Certificate, _: object) -> bool:
    key = certificate.public_key()
    return not isinstance(key, rsa.RSAPublicKey) or key.key_size <= 4096


CHANGES: list[tuple[str, Any, str, str]] = [
    ("certificates._STRONG_HASHES", _STRONG, "leaves.sha3-256", SESSION),
    ("certificates._leaf_problem", lambda *_: "", "leaves.ca-true", SESSION),
    ("sessions.by_arn", dict.get, "anchors.alias", f"{DENIED}: Specified Trust Anchor wasn't found"),
    ("certificates.check_revocation", lambda *_: None, "revocation.revoked", SESSION),
    (
        "certificates.check_revocation",
        lambda *_: None,
        "revocation.running",
        "running sessions: valid; new ones: session",
    ),
    (
        "certificates.check_revocation",
        lambda *_: None,
        "revocation.disabled-list",
        "disabled: session; enabled: session",
    ),
    ("control.crls.MAX_CRLS", 1, "revocation.third", "the second: ValidationException; the third: ValidationException"),
    ("sessions._check_scope", lambda *_: None, "requests.serial-in-hex", SESSION),
    ("sessions.certificates.verifies", lambda *_: True, "requests.equals-twice", SESSION),
    ("refusals.json_error", _in_body, "requests.shape-403", "__type; __type, message"),
    ("signature.MAX_SKEW", timedelta(minutes=1), "clock.ahead", BAD_SIGNATURE),
    ("sessions._duration", lambda *_: timedelta(hours=2), "durations.over-role", "7200 seconds"),
    ("iam_policies.MAX_LENGTH", 4096, "roles.2049", "accepted"),
    ("control.anchors.anchor_problem", lambda _: "", "control.anchor-leaf", "accepted"),
    ("control.profiles._check", lambda _: None, "control.profile-other-account", "accepted"),
    ("iam._ACTIONS", _STILL, "delays.shut", "not within 19 seconds"),
]


@pytest.mark.parametrize(("place", "other", "question", "answer"), CHANGES)
def test_changed_emulator_is_found(
    ask: Asked, monkeypatch: pytest.MonkeyPatch, place: str, other: Any, question: str, answer: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"hwsigner.emulator.{place}", other)
        assert ask(question) == answer
    assert answer != BY_ID[question].expected


def test_role_that_stays_invisible_is_found(ask: Asked) -> None:
    ask.emulator.world.role_delay = 600
    assert ask("delays.new-role") == "not within 19 seconds"


class TestOnlyOfAws:
    @pytest.fixture(autouse=True)
    def as_if_aws(self, ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(AWSScene, "is_aws", True)
        ask.scene.rates = True

    def test_too_many_requests_are_found(self, ask: Asked) -> None:
        ask.emulator.misbehave(Fault("throttle", times=3))
        assert ask("rates.sessions") == "429 ThrottlingException"

    def test_limit_that_is_not_there_is_found(self, ask: Asked) -> None:
        before = len(ask.emulator.requests)
        assert ask("rates.sessions") == "none is refused"
        assert len(ask.emulator.requests) - before == 30

    @pytest.mark.parametrize(
        ("question", "flags"),
        [
            ("hosts.fips", (True, False)),
            ("hosts.dual-stack", (False, True)),
            ("hosts.fips-dual-stack", (True, True)),
        ],
    )
    def test_other_host_is_asked(
        self, ask: Asked, monkeypatch: pytest.MonkeyPatch, question: str, flags: tuple[bool, bool]
    ) -> None:
        asked: list[tuple[bool, bool]] = []

        def find(region: str, *, fips: bool, dual_stack: bool, environ: dict[str, str]) -> Any:
            asked.append((fips, dual_stack))
            assert [name for name in environ if "ENDPOINT" in name] == []
            return find_service(region, endpoint=ask.emulator.url, environ={})

        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setattr("trial_aws.waiting.find_service", find)
        assert ask(question) == SESSION
        assert asked == [flags]

    def test_region_without_a_fips_host_is_not_asked(self, ask: Asked) -> None:
        with pytest.raises(NotAskedError, match="region eu-central-1 has no FIPS endpoint"):
            ask("hosts.fips")
