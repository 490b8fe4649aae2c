"""What is wrong with a policy of `serve --pods` and the profiles that it names, as far as their files show it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from hwsigner._config import settings
from hwsigner._config.profiles import profiles, profiles_of, user_file
from hwsigner._serving.pods.pod_policy import ANY, find_faults, read_pod_policy
from hwsigner.errors import CertificateError, ConfigError, HwsignerError, SigningKeyError, suggestion


def check_pods(path: str) -> int:
    """Print what is wrong with a policy and its profiles, a line each. The status is 1 if anything is."""
    faults = faults_of(path)
    for fault in faults:
        print(fault)
    if not faults:
        print(f"{path}: nothing is wrong. Not judged: certificates, keys, the cluster and AWS")
    return 1 if faults else 0


def faults_of(path: str) -> list[HwsignerError]:
    """Return what is wrong with a policy, or else with the profiles that it names.

    They are those of a config.toml in the same folder, if there is one, and otherwise those of this user.
    """
    try:
        return [*find_faults(path)] or [*_faults_of_profiles(path)]
    except ConfigError as error:
        return [error]


def session_names(path: str | None) -> dict[str, str]:
    """Return for each profile the name of a session that `serve --pods` asks for; none without a good policy."""
    names: dict[str, str] = {}
    node = os.environ.get("NODE_NAME", "node")
    with suppress(ConfigError):
        for entry, profile in read_pod_policy(path, node).accounts.items() if path else ():
            namespace, _, account = entry.replace(ANY, "any").partition("/")
            names.setdefault(profile, f"{namespace}.{account.replace('.', '_')}.{node}"[:64])
    return names


def policy_beside_config() -> str | None:
    """Return the path of pods.toml in the folder of config.toml, or else in the system's; None without one."""
    paths = (os.path.join(folder, "pods.toml") for folder in (os.path.dirname(user_file(os.environ)), "/etc/hwsigner"))
    return next(filter(os.path.exists, paths), None)


def _faults_of_profiles(path: str) -> Iterator[HwsignerError]:
    beside = os.path.join(os.path.dirname(path), "config.toml")
    known = profiles_of(beside) if os.path.exists(beside) else profiles(os.environ)
    accounts = read_pod_policy(path, "node").accounts
    if not accounts:
        hint = 'Write "namespace/serviceaccount" = "profile" below [accounts]'
        yield ConfigError(f"{path}: [accounts] names no service account, so no Pod gets credentials", hint)
    for entry, name in {profile: (entry, profile) for entry, profile in accounts.items()}.values():
        if name not in known:
            hint = suggestion(name, known, f"Add [profile.{name[:64]}] to config.toml, or correct the name")
            yield ConfigError(f"{path}: {entry} has the profile {name[:64]!r}, which config.toml has not", hint)
            continue
        try:
            values = settings.of_profile(known[name])
            settings.session_request(values)
            settings.service_for_daemon(values)
            with suppress(CertificateError, SigningKeyError):  # They are on the node.
                settings.identity_source(values)
        except HwsignerError as error:
            yield type(error)(f"profile {name!r}: {error.message}", error.hint)
