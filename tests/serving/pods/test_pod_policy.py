"""The policy of service accounts: what it says, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsigner._serving.pods.pod_policy import PodPolicy, read_pod_policy
from hwsigner._serving.pods.verification import VerificationSettings
from hwsigner.errors import ConfigError

NODE = "node1"
SETTINGS = VerificationSettings(("hwsigner",), NODE)


def _read(folder: Path, text: str) -> PodPolicy:
    path = folder / "pods.toml"
    path.write_text(text)
    return read_pod_policy(str(path), NODE)


def _problem(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        _read(folder, text)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{folder}/pods.toml: ")


def test_empty_policy_lets_no_account_in(tmp_path: Path) -> None:
    policy = _read(tmp_path, "[accounts]")
    assert policy == PodPolicy(SETTINGS, {}, session_per_pod=False)
    assert policy.profile_of("default", "default") is None


def test_policy_has_all_its_settings(tmp_path: Path) -> None:
    lines = [
        'audiences = ["hwsigner", "pods.eks.amazonaws.com"]',
        "allow-any-namespace = true",
        "session-per-pod = true",
        'verify = "keys"',
        'issuer = "https://kubernetes.default.svc.cluster.local"',
        'keys-file = "/etc/hwsigner/jwks.json"',
        "allow-incomplete-ca = true",
        "outage-seconds = 0",
        "[accounts]",
        '"*/*" = "any"',
    ]
    assert _read(tmp_path, "\n".join(lines)) == PodPolicy(
        VerificationSettings(
            ("hwsigner", "pods.eks.amazonaws.com"),
            NODE,
            "keys",
            "https://kubernetes.default.svc.cluster.local",
            "/etc/hwsigner/jwks.json",
            allow_incomplete_ca=True,
            outage_seconds=0,
        ),
        {"*/*": "any"},
        session_per_pod=True,
    )


def test_most_exact_entry_counts(tmp_path: Path) -> None:
    entries = {"team-a/web": "1", "team-a/*": "2", "*/web": "3", "*/*": "4"}
    text = "".join(f'"{entry}" = "{profile}"\n' for entry, profile in entries.items())
    policy = _read(tmp_path, f"allow-any-namespace = true\n[accounts]\n{text}")
    asked = [("team-a", "web"), ("team-a", "db"), ("team-b", "web"), ("team-b", "db")]
    assert [policy.profile_of(*one) for one in asked] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("account", [("team-a", "we"), ("team", "a-web"), ("team-a", "web.x"), ("web", "team-a")])
def test_account_that_no_entry_names_has_no_profile(tmp_path: Path, account: tuple[str, str]) -> None:
    policy = _read(tmp_path, '[accounts]\n"team-a/web" = "web"\n"team-b/*" = "batch"\n')
    assert policy.profile_of(*account) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("audience = ['x']", "the key 'audience' is unknown. Did you mean audiences?"),
        ("zz = 1", "the key 'zz' is unknown. Write accounts below the line [accounts], as \"n"),
        ("audiences = 'hwsigner'", "audiences has the wrong type. Write a list of strings"),
        ("session-per-pod = 1", "session-per-pod has the wrong type. Write true or false"),
        ("accounts = 'x'", "accounts has the wrong type. Write a table"),
        ("audiences = []", 'audiences is not a list of strings. Write audiences = ["hwsigner"]'),
        ("audiences = ['']", "audiences is not a list of strings"),
        ("audiences = [1]", "audiences is not a list of strings"),
        ("verify = 'both'", 'verify is \'both\'. Write verify = "review" or "keys"'),
        ("verify = 'keys'", 'verify = "keys" needs the issuer. Write issuer ='),
        ("outage-seconds = 3601", "outage-seconds is 3601. Write a number from 0 to 3600"),
        ("outage-seconds = -1", "outage-seconds is -1"),
        ("outage-seconds = '300'", "outage-seconds has the wrong type. Write a number"),
        ("outage-seconds = true", "outage-seconds has the wrong type"),
        ("issuer = ''", "issuer is empty. Give it a value"),
        ("keys-file = '/x'", 'keys-file is only for verify = "keys"'),
        (
            "[accounts]\nweb = 'web'",
            '[accounts] has \'web\', which names no service account. Write "namespace/serviceaccount" = "profile"',
        ),
        ("[accounts]\nteam-a.web = 'web'", "[accounts] has 'team-a', which names no service account"),
        ("[accounts]\nsession-per-pod = true", "[accounts] has 'session-per-pod', which is a setting. Write it above"),
        ("", "[accounts] is missing. Write [accounts]"),
        ("# comment\nsession-per-pod = true", "[accounts] is missing"),
        ("audiences = ['a', ' b']", "' b' begins or ends with a blank"),
        ("issuer = 'https://a '", "'https://a ' begins or ends with a blank"),
        ("[accounts]\n'a/b' = 1", '[accounts] has \'a/b\' without a profile. Write "a/b" = "profile"'),
        ("[accounts]\n'a/b' = ''", "[accounts] has 'a/b' without a profile"),
        (
            "[accounts]\n'*/b' = 'web'",
            "[accounts] has '*/b', which lets every namespace in. Name the namespace, or set",
        ),
        ("[accounts]\n'*/*' = 'web'", "[accounts] has '*/*', which lets every namespace in"),
        ("[accounts]\n'A/b' = 'web'", "[accounts] has 'A/b', whose namespace Kubernetes would refuse. Write up to 63"),
        ("[accounts]\n'a.b/c' = 'web'", "[accounts] has 'a.b/c', whose namespace Kubernetes would refuse"),
        (
            f"[accounts]\n'{'a' * 64}/c' = 'web'",
            f"[accounts] has '{'a' * 64}/c', whose namespace Kubernetes would refuse",
        ),
        ("[accounts]\n'a-*/c' = 'web'", "[accounts] has 'a-*/c', whose namespace Kubernetes would refuse"),
        ("[accounts]\n'a/b-*' = 'web'", "[accounts] has 'a/b-*', whose service account Kubernetes would refuse"),
        ("[accounts]\n'a/b/c' = 'web'", "[accounts] has 'a/b/c', whose service account Kubernetes would refuse"),
        ("[accounts]\n'a/b_c' = 'web'", "[accounts] has 'a/b_c', whose service account Kubernetes would refuse"),
        ("[accounts]\n'a/' = 'web'", "[accounts] has 'a/', whose service account Kubernetes would refuse"),
        ("[accounts]\n'a/b\\n' = 'web'", "[accounts] has 'a/b\\\\n', whose service account Kubernetes would refuse"),
    ],
)
def test_bad_policy_is_refused_with_what_to_write(tmp_path: Path, text: str, problem: str) -> None:
    assert _problem(tmp_path, text).startswith(problem)


def test_entry_without_its_quotes_is_refused_with_what_to_write(tmp_path: Path) -> None:
    problem = _problem(tmp_path, "[accounts]\nteam-a/web = 'web'")
    assert problem.endswith(
        'line 2, column 7. Write "namespace/serviceaccount" = "profile" with all four quotes, and each key once'
    )


def test_policy_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pods.toml"
    path.write_text("")
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="other"):
        read_pod_policy(str(path), NODE)
