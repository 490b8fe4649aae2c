"""`hwsigner.doctor.examine`, as a program calls it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

import certs
from hwsigner.doctor import Checks, examine
from hwsigner.errors import NoProfileError, UsageError
from hwsigner.findings import local
from patients import Patient


def test_sound_profile_has_no_findings_and_nothing_is_printed(
    patient: Patient, capfd: pytest.CaptureFixture[str]
) -> None:
    names, findings, _ = examine("web")
    assert (names, findings) == (["web"], [])
    assert capfd.readouterr() == ("", "")


def test_finding_has_the_profile_and_its_mistake(patient: Patient) -> None:
    patient.issue(certs.Shape(digital_signature=False))
    (found,) = examine().findings
    assert (found.profile, found.mistake, found.level) == ("web", local.CERTIFICATE_KEY_USAGE, "wrong")


def test_unknown_profile_is_an_error(patient: Patient) -> None:
    with pytest.raises(NoProfileError):
        examine("no-such")


def test_environment_is_the_one_that_is_given(patient: Patient) -> None:
    (found,) = examine("web", {**os.environ, "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE"}).findings
    assert found.mistake is local.ENVIRONMENT_KEYS


def test_flags_of_a_credential_process_are_checked_by_the_caller_s_function(patient: Patient) -> None:
    lines: list[list[str]] = []

    def refuse(flags: Sequence[str]) -> None:
        lines.append([*flags])
        raise UsageError("unknown flag --profil", "Write --profile")

    assert examine("web").findings == []
    (found,) = examine("web", checks=Checks(check_command=refuse)).findings
    assert (found.mistake, found.fix, lines) == (local.PROCESS_COMMAND, "Write --profile", [["--profile", "web"]])


def test_policy_is_reviewed_without_a_profile(patient: Patient) -> None:
    (patient.folder / "config" / "hwsigner" / "config.toml").unlink()
    patient.aws_config("")
    found = examine(checks=Checks(policy=b"[]")).findings
    assert {each.id for each in found} == {"profile-none", "not-a-policy"}
