"""`serve --pods FILE --check`: what is wrong with a policy and config.toml, without a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scene import Outcome

ARNS = """[profile.web]
certificate = "/var/lib/hwsigner/node.crt"
private-key = "tpm2:path=/var/lib/hwsigner/node.tss2"
trust-anchor-arn = "arn:aws:rolesanywhere:us-east-1:123456789012:trust-anchor/a1a1a1a1-0000-4000-8000-000000000001"
profile-arn = "arn:aws:rolesanywhere:us-east-1:123456789012:profile/a1a1a1a1-0000-4000-8000-000000000002"
role-arn = "arn:aws:iam::123456789012:role/web"
"""
WEB = '[accounts]\n"team-a/web" = "web"\n'


def check(folder: Path, call: Callable[..., Outcome], policy: str, config: str = ARNS) -> tuple[int, list[str]]:
    """Return the status and the lines for two files in a folder."""
    (folder / "config.toml").write_text(config)
    path = folder / "pods.toml"
    path.write_text(policy)
    outcome = call("serve", "--pods", str(path), "--check")
    return outcome.status, [line.replace(f"{folder}/", "") for line in outcome.out.splitlines()]


def test_good_policy_is_one_line_that_says_what_was_not_judged(tmp_path: Path, call: Callable[..., Outcome]) -> None:
    said = "pods.toml: nothing is wrong. Not judged: certificates, keys, the cluster and AWS"
    assert check(tmp_path, call, WEB) == (0, [said])


@pytest.mark.parametrize(
    ("policy", "config", "faults"),
    [
        ("", ARNS, ["[accounts] is missing"]),
        ("[accounts]", ARNS, ["[accounts] names no service account, so no Pod gets credentials"]),
        (WEB.replace('"web"', '"wbe"'), ARNS, ["team-a/web has the profile 'wbe', which config.toml has not. Did you"]),
        (f'{WEB}"*/db" = "web"\n"A/b" = "web"\n', ARNS, ["lets every namespace in", "whose namespace Kubernetes"]),
        ("nonsense", ARNS, ["pods.toml"]),
        (WEB, ARNS.replace(":role/web", ":user/web"), ["profile 'web': "]),
        (WEB, ARNS + 'rolearn = "x"\n', ["rolearn"]),
        (WEB, "[profile.web", ["config.toml"]),
        ("session-per-pod = 1\noutage-seconds = true\n", ARNS, ["session-per-pod has", "outage-seconds has"]),
    ],
)
def test_each_fault_is_a_line(
    tmp_path: Path, call: Callable[..., Outcome], policy: str, config: str, faults: list[str]
) -> None:
    status, lines = check(tmp_path, call, policy, config)
    assert status == 1
    assert len(lines) >= len(faults)
    for fault in faults:
        assert any(fault in line for line in lines), lines


def test_check_without_pods_is_a_usage_error(call: Callable[..., Outcome]) -> None:
    assert call("serve", "--check").status == 2
