"""The course of an examination: which checks are made, in which order, and how long each takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, ParamSpec

from hwsigner._config.monitoring import read_monitoring
from hwsigner._config.profiles import Profile, is_system_file_hidden, profile, profiles, unread_files, user_file
from hwsigner._system.support import HAS_SYSTEMD
from hwsigner.doctor import machine, sdks
from hwsigner.doctor.profile_checks import (
    ProfileState,
    check_certificate,
    check_connection,
    check_issuer,
    check_renewal,
    check_request,
    read,
    warnings_as_findings,
)
from hwsigner.errors import ConfigError, HwsignerError, NoProfileError, UsageError, place_of
from hwsigner.findings import Finding, local

if TYPE_CHECKING:
    from hwsigner._pins import AskPin

_P = ParamSpec("_P")

# A session may be possible all the same.
_HARMLESS = {
    local.SETTING_UNSAFE,
    local.SETTING_UNUSED,
    local.CERTIFICATE_NOT_RENEWED,
    local.ISSUER_INVALID,
    local.RENEWAL_FAILED,
    local.CHAIN_ORDER,
    local.CHAIN_GAP,
    local.NAME_EMPTY,
}
_BY_CLOCK = {local.CERTIFICATE_EXPIRED, local.CERTIFICATE_NOT_YET_VALID}  # A wrong clock may be why.


@dataclass(frozen=True)
class Checks:
    """What to check beyond what this machine shows without a PIN. By default, nothing is sent.

    Attributes:
        online: whether to use each key, with its PIN, and to ask for a session.
        prompts: returns what asks the user for a PIN that no other place gives, for the `pinentry` of a profile.
        policy: a trust policy in JSON, for the certificates of the profiles.
        aws: whether to compare the profiles with what AWS has, by read-only calls. Not done if a policy is given.
        aws_profile: the profile of the AWS SDKs' files for that, with an administrator's credentials.
        aws_endpoint: the URL of the AWS APIs for that; None for those that the SDKs choose.
        pods_faults: what is wrong with the policy of `serve --pods`.
        session_names: by profile, the name of the session to ask for and to look for in AWS, as `serve --pods` does.
        check_command: checks the flags of a `credential_process` line, and raises a UsageError; None to check none.
    """

    online: bool = False
    prompts: Callable[[str | None], Sequence[AskPin]] = lambda _: ()
    policy: bytes | None = None
    aws: bool = False
    aws_profile: str | None = None
    aws_endpoint: str | None = None
    check_command: Callable[[Sequence[str]], None] | None = None
    pods_faults: Sequence[HwsignerError] = ()
    session_names: Mapping[str, str] = field(default_factory=dict)


class Examination(NamedTuple):
    """The names of the profiles that were checked, what was found, and facts of each profile, by their names."""

    profiles: list[str]
    findings: list[Finding]
    facts: dict[str, dict[str, str]]


class Course(NamedTuple):
    """What was found, the state of each profile as far as it could be read, which may be secret, and the seconds of
    each check that is not about a profile.
    """

    examination: Examination
    states: Sequence[ProfileState]
    seconds: Mapping[str, float]


@dataclass
class _Checked:
    """What checks found, and how many seconds each took."""

    findings: list[Finding]
    seconds: dict[str, float]

    def run(self, what: str, check: Callable[_P, Iterable[Finding]], *args: _P.args, **options: _P.kwargs) -> None:
        """Add what a check finds. If it fails, that is a finding too: the others must not be lost."""
        begin = time.monotonic()
        try:
            self.findings.extend(check(*args, **options))
        except HwsignerError as error:
            failed = f"the check of {what} failed: {error.message}"
            self.findings.append(local.CHECK_FAILED.found(failed, error.hint))
        except Exception as error:  # Its message could have a secret.
            self.findings.append(local.CHECK_FAILED.found(f"the check of {what} failed: {place_of(error)}"))
        self.seconds[what] = round(time.monotonic() - begin, 3)


def examine(
    name: str | None = None, environ: Mapping[str, str] = os.environ, checks: Checks | None = None
) -> Examination:
    """Check profiles, certificates, keys, the files of the AWS SDKs and the machine.

    Args:
        name: the profile of config.toml; None for all.
        environ: the environment.
        checks: what to check beyond that.

    Raises:
        NoProfileError: there is no profile of this name.
    """
    return examine_and_time(name, environ, checks).examination


def examine_and_time(
    name: str | None = None, environ: Mapping[str, str] = os.environ, checks: Checks | None = None
) -> Course:
    """Return what `examine` does, with what was read and how long it took. Raises as that does."""
    checks = checks or Checks()
    checked, findings = _profiles(name, environ)
    done = _Checked(findings, {})
    if not findings:
        done.run("the monitoring", _check_monitoring, environ)
    if not checked and not findings and not is_system_file_hidden():
        findings.append(local.PROFILE_NONE.found("there are no profiles in config.toml"))
    for file in unread_files(environ):
        findings.append(local.PROFILES_IGNORED.found(f"{file} is not read, because there is {user_file(environ)}"))
    of_system = _of_system()
    done.run("the profiles' names", _check_names, checked, of_system)
    done.run("the environment", sdks.check_variables, environ)
    done.run("the SDKs' files", sdks.check_files, environ, checks.check_command)
    done.run("the agents", machine.check_agents, environ, {each.name for each in checked}, of_system)
    if HAS_SYSTEMD:
        done.run("the units", machine.check_units, environ)
    findings += [local.PODS_INVALID.found_by(fault) for fault in checks.pods_faults]
    states = [ProfileState(each, environ, datetime.now(UTC)) for each in checked]
    for state in states:
        findings += [one.about(state.profile.name) for one in _of_profile(state, checks)]
    if not checked and checks.policy is not None:
        from hwsigner.doctor.aws import check_policy

        done.run("the trust policy", check_policy, None, checks.policy)
    facts = {state.profile.name: state.facts for state in states}
    return Course(Examination([*facts], list(dict.fromkeys(findings)), facts), states, done.seconds)


def _profiles(name: str | None, environ: Mapping[str, str]) -> tuple[list[Profile], list[Finding]]:
    """Return the profiles to check, and a finding if config.toml can't be read."""
    try:
        return [profile(name, environ)] if name else list(profiles(environ).values()), []
    except NoProfileError:
        raise  # A misspelt name is not a mistake of the set-up.
    except ConfigError as error:
        return [], [local.PROFILES_UNREADABLE.found_by(error)]


def _check_monitoring(environ: Mapping[str, str]) -> Iterator[Finding]:
    with warnings_as_findings(local.SETTING_UNUSED) as unused:
        try:
            read_monitoring(environ)
        except UsageError as error:
            yield local.MONITORING_INVALID.found_by(error)
    yield from unused


def _of_system() -> dict[str, Profile]:
    """Return the profiles of the system's file; none if it can't be used, which is a finding of its own."""
    with suppress(ConfigError):
        return profiles({}, system=True)
    return {}


def _check_names(checked: Sequence[Profile], of_system: Mapping[str, Profile]) -> Iterator[Finding]:
    """Yield the profiles of this user whose names the system's agent has for other profiles."""
    for each in checked:
        other = of_system.get(each.name)
        if other and "allow-users" in other.values and other.values != each.values:
            found = f"{each.file} and {other.file} have different profiles of this name"
            yield local.PROFILE_TWICE.found(found).about(each.name)


def _of_profile(state: ProfileState, checks: Checks) -> list[Finding]:
    done = _Checked([], state.seconds)
    done.run("the profile", read, state)
    if name := checks.session_names.get(state.profile.name):
        state.settings.role_session_name = name
    before = len(done.findings)
    done.run("the ARNs", check_request, state)
    has_wrong_arns = len(done.findings) > before
    done.run("the certificate", check_certificate, state)
    done.run("the issuer", check_issuer, state)
    done.run("the renewal", check_renewal, state)
    done.run("the connection", check_connection, state)
    done.run("the key", machine.check_key, state)
    done.run("the hybrid node", machine.check_hybrid_node, state)
    grave = {one.mistake for one in done.findings} - _HARMLESS
    if checks.policy is not None:
        from hwsigner.doctor.aws import check_policy

        done.run("the trust policy", check_policy, state, checks.policy)
    elif checks.aws and not has_wrong_arns:
        from hwsigner.doctor.aws import check_account

        done.run("AWS", check_account, state, checks.aws_profile, checks.aws_endpoint)
    if checks.online and grave <= _BY_CLOCK:  # A PIN or a session is not spent on what can't succeed.
        from hwsigner.doctor import service

        state.settings.prompts = checks.prompts
        done.run("the session", service.check_online, state, clock_only=bool(grave))
    return done.findings
