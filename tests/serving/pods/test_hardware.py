"""`serve --pods` with a key in a TPM: one connection and one attempt for all accounts."""

from __future__ import annotations

import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import certs
from hwsigner._config.profiles import add_profile
from serving.pods.pod_stage import serve_pods
from serving.stage import Stage
from softhsm.tpm import SoftTPM

# A TPM that lost its power may count a wrong auth value, too.
pytestmark = pytest.mark.usefixtures("any_auth_values")

BOTH = '[accounts]\n"team-a/*" = "chip"\n"team-b/*" = "other"\n"team-c/*" = "web"\n'


def _add_profiles(
    stage: Stage, tpm: SoftTPM, ca: certs.Authority, key: Path, *, auth: str = "", given: str = ""
) -> None:
    """Add two profiles with one key of a TPM, whose auth value they may have."""
    leaf = stage.folder / "chip.pem"
    leaf.write_bytes(certs.pem(certs.issue(ca, tpm.public_key(key, auth))))
    values = {**stage.values(), "certificate": str(leaf), "private-key": tpm.uri(key)}
    for name in ("chip", "other"):
        more = {"session-duration": 900} if name == "other" else {}
        add_profile(name, {**values, **more, **({"tpm-key-password": given} if given else {})}, stage.environ())


def _tries(tpm: SoftTPM) -> int:
    environ = {"PATH": "/usr/bin:/bin", **tpm.env}
    done = subprocess.run(
        ["tpm2_getcap", "properties-variable"], env=environ, capture_output=True, text=True, check=True
    )
    [line] = [one for one in done.stdout.splitlines() if one.startswith("TPM2_PT_LOCKOUT_COUNTER")]
    return int(line.split()[1], 16)


def test_accounts_of_two_profiles_share_the_chip_also_after_its_power_was_cut(
    pod_stage: Stage, swtpm: SoftTPM, ca: certs.Authority
) -> None:
    key = pod_stage.folder / "chip.key"
    swtpm.create_key_file(key, "EC:P-256")
    _add_profiles(pod_stage, swtpm, ca, key)
    accounts = [f"team-{team}/account-{number}" for number in range(10) for team in "ab"]
    with serve_pods(pod_stage, BOTH) as pods:
        with ThreadPoolExecutor(len(accounts)) as pool:
            found = list(pool.map(pods.credentials, accounts))
        assert len({one["AccessKeyId"] for one in found}) == len(accounts)
        swtpm.cut_power()
        assert [pods.credentials(one) for one in accounts] == found
        pods.until_status("team-a/new", 200)
        pods.until_status("team-b/new", 200)
        assert pods.process.end(signal.SIGTERM) == 0


def test_wrong_auth_value_is_sent_once_for_all_accounts_of_both_profiles(
    pod_stage: Stage, swtpm: SoftTPM, ca: certs.Authority
) -> None:
    key = pod_stage.folder / "chip.key"
    swtpm.create_key_file(key, "EC:P-256", "right")
    _add_profiles(pod_stage, swtpm, ca, key, auth="right", given="wrong")
    before = _tries(swtpm)
    with serve_pods(pod_stage, BOTH) as pods:
        for account in ("team-a/one", "team-b/one", "team-a/two", "team-b/two", "team-a/one"):
            assert pods.refusal(account)[0] == 503
        pods.write_policy(BOTH.replace("team-a", "team-d"))
        pods.until_status("team-a/one", 403)
        assert pods.refusal("team-d/one")[0] == 503
        pods.credentials("team-c/web")  # Another key.
        assert pods.process.end(signal.SIGTERM) == 0
    assert _tries(swtpm) == before + 1
