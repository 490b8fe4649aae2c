"""The question about an AWS Private CA."""

from __future__ import annotations

from pathlib import Path

from certs import make_ca
from hwsigner.emulator import Emulator
from hwsigner.errors import UsageError
from hwsigner.trial import TrialReport, Verdict
from trial.aws_trials import Flags, resources
from trial_aws.calls import TrialPace
from trial_aws.life import try_all

ARN = "arn:aws:acm-pca:eu-central-1:123456789012:certificate-authority/11111111-1111-4111-8111-111111111111"


def _verdicts(folder: Path) -> dict[str, tuple[Verdict, str]]:
    (path,) = folder.glob("*.json")
    return {each.id: (each.verdict, each.why) for each in TrialReport.from_json(path.read_text()).results}


def test_private_ca_is_asked_about_if_it_is_given(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path
) -> None:
    emulator.world.private_cas[ARN] = make_ca().certificate
    assert try_all(flags("--only", "private-ca.*", "--private-ca", ARN), pace) == 0
    assert {verdict for verdict, _ in _verdicts(tmp_path).values()} == {Verdict.EXPECTED}
    assert resources(emulator) == []


def test_private_ca_is_not_asked_about_and_no_trust_anchor_refers_to_one_if_none_is_given(
    emulator: Emulator, flags: Flags, pace: TrialPace, tmp_path: Path
) -> None:
    assert try_all(flags("--only", "private-ca.*"), pace) == UsageError.exit_status
    assert set(_verdicts(tmp_path).values()) == {(Verdict.NOT_ASKED, "it needs an AWS Private CA")}
    assert {each.action for each in emulator.requests} <= {
        *("sts:GetCallerIdentity", "iam:ListRoles", "rolesanywhere:ListCrls", "rolesanywhere:ListProfiles"),
        "rolesanywhere:ListTrustAnchors",
    }
