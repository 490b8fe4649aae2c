"""Each command runs in this process, quickly, and does the least that it can do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hwsigner.trust_policy.writing import write_trust_policy
from scene import Outcome

Call = Callable[..., Outcome]
_ANCHOR = "arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9aa"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CONFIG_HOME", "STATE_HOME", "RUNTIME_DIR"):
        monkeypatch.setenv(f"XDG_{name}", str(tmp_path))


def test_doctor_says_that_there_are_no_profiles(call: Call) -> None:
    findings = json.loads(call("doctor", "--json").out)["findings"]
    assert "profile-none" in {each["id"] for each in findings}


def test_aws_check_finds_nothing_in_a_sound_policy(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(write_trust_policy({"x509Subject/CN": ["bamboo-01"]}, trust_anchor=_ANCHOR)))
    assert call("aws", "check", "--policy", file).status == 0
