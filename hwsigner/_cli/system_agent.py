"""From the units to an agent that gives users credentials: what `hwsigner systemd install --allow-user` does then."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence

from hwsigner._agent.client import command, system_address, wait_for_system_agent
from hwsigner._agent.protocol import AgentRequest, Verb
from hwsigner._config import profiles as config
from hwsigner._config.flags import ARNS, profile_values
from hwsigner._config.profiles import Profile, change_profile, profile, profiles
from hwsigner._config.sharing import hidden_files, share
from hwsigner._system.processes import credential_process
from hwsigner._system.users import find_gid, find_uid
from hwsigner.errors import AgentError, ConfigError, UsageError


def check_users(users: Sequence[str]) -> None:
    """Check that this machine has the users, and with @ the groups, that an agent is to serve."""
    for user in users:
        kind, found = ("group", find_gid(user[1:])) if user.startswith("@") else ("user", find_uid(user))
        if found is None:
            add = f"{kind}add --system {shlex.quote(user.removeprefix('@'))}"
            raise UsageError(f"this machine has no {kind} {user.removeprefix('@')[:40]!r}", f"Make it first: {add}")


def find_profile(name: str | None) -> Profile:
    """Return the system's profile of a name, or its only one, if it names a certificate and the ARNs."""
    found = profiles(os.environ, system=True)
    if not name and len(found) != 1:
        problem = f"{config.SYSTEM_FILE} has {'several profiles' if found else 'no profile'}"
        make = "Write one with hwsigner enroll NAME --system, or hwsigner aws setup --system"
        raise ConfigError(problem, f"Add --profile with one of {', '.join(sorted(found))}" if found else make)
    one = profile(name or next(iter(found)), os.environ, system=True)
    profile_values(one, {})  # An invalid one can't be used.
    if not {"certificate", "cert-selector"} & one.values.keys():
        fix = f"Run hwsigner install-certificate CERTIFICATE KEY-URI --profile {one.name} --system"
        raise ConfigError(f"profile {one.name!r} names no certificate", fix)
    if missing := [arn for arn in ARNS if arn not in one.values]:
        flags = " ".join(f"--{arn} ARN" for arn in missing)
        problem = f"profile {one.name!r} has no {', '.join(missing)}"
        raise ConfigError(problem, f"Run hwsigner profile edit {one.name} --system {flags}")
    return one


def serve_users(found: Profile, users: Sequence[str]) -> list[str]:
    """Let the system's agent serve users with a profile, once its units are there, and have it create a session.

    A user with @ is a group. Returns what to do next, a line each.
    """
    allowed = profile_values(found, {}).get("allow_users") or []
    change_profile(found.name, {"allow-users": list(dict.fromkeys([*allowed, *users]))}, os.environ, system=True)
    share(found.values)
    for path, fix in hidden_files(found.values):
        raise ConfigError(f"the system's agent can't read {path}", fix)
    # If it does not start, it answers with the reason.
    subprocess.run(["systemctl", "start", "hwsigner-agent.service"], capture_output=True)
    try:
        given = wait_for_system_agent(found.name)
    except AgentError:  # It may be of an attempt before something was put right.
        given = None
    if given is None:
        command(system_address(), AgentRequest(Verb.REFRESH, found.name))
    return _following(found)


def _following(found: Profile) -> list[str]:
    anchor = str(found.values["trust-anchor-arn"]).split(":")
    region = str(found.values.get("region") or anchor[3])
    lines = [
        "The agent gives credentials. Write into the AWS config of these users:",
        f"[profile {found.name}]",
        f"region = {region}",
        f"credential_process = {credential_process(found.name)}",
    ]
    if found.values.get("issuer") or found.values.get("issuer-command"):
        lines.append(f"Have the certificate renewed with: systemctl enable --now hwsigner-renew@{found.name}.timer")
    return lines
