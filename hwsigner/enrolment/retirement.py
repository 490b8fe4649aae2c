"""Retiring a profile: its certificate is revoked, its key deleted, and the profile removed.

All that would be gone is known before anything is. What stops in the middle goes on with the next plan.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hwsigner._config import settings
from hwsigner._config.profiles import Profile, file_of_new, profiles, remove_profile
from hwsigner._config.settings import Prompts, Settings, of_profile
from hwsigner._system import launchd
from hwsigner._uri import KeyURI
from hwsigner.enrolment.pace import end_timer, is_timer_enabled
from hwsigner.errors import HwsignerError, KeyNotFoundError, SigningKeyError, UsageError
from hwsigner.key.management import KeyAccess, delete_key

_KEY_FLAGS = ("private-key", "certificate")


class _SeenError(HwsignerError):
    """Ends a deletion that is only asked what it would delete."""

    def __init__(self, doomed: Sequence[str]) -> None:
        super().__init__("nothing was deleted")
        self.doomed = tuple(doomed)


@dataclass(frozen=True)
class RetirementStep:
    """A step that ends something for good.

    `verb` is as in `revoke` and `revoked`. `lines` says what it would do; `run` does it, and returns what was done.
    """

    verb: str
    lines: Sequence[str]
    run: Callable[[], Sequence[str]]


@dataclass
class Retirement:
    """What is to be done, what is so already, and what the user should know: sentences."""

    steps: list[RetirementStep] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_retirement(
    found: Profile,
    plan_revocation: Callable[[Settings, bool], Retirement],
    prompts: Prompts = Settings.prompts,
    *,
    keep_key: bool = False,
) -> Retirement:
    """Return what retires a profile. Nothing is changed.

    `plan_revocation` returns what revokes its certificate, by its settings and whether its key is there.
    """
    if not os.access(os.path.dirname(found.file), os.W_OK):
        problem = f"you can't change {found.file}, which has profile {found.name!r}"
        hint = "Run it as the owner. If its file system is read-only here, run it where it is not"
        raise HwsignerError(problem, hint)
    own, plan = of_profile(found), Retirement()
    place = own.private_key or own.certificate
    if not place:
        first = "" if own.cert_selector is None else "hwsigner delete KEY-URI, then "  # The key is on a token.
        raise UsageError(f"profile {found.name!r} names no key", f"Run {first}hwsigner profile remove {found.name}")
    own.prompts = prompts
    uri = settings.argument_uri(own, place)
    pins = settings.pin_source(own, uri)
    delete = None if keep_key else _plan_deletion(plan, KeyAccess(uri, pins, allow_modules=True))
    revocation = plan_revocation(own, bool(delete or keep_key))
    plan.done += revocation.done
    plan.notes += revocation.notes
    plan.steps += [*_end_of_timer(plan, found), *revocation.steps, *([delete] if delete else ()), _removal(found)]
    plan.notes += [f"The key {uri.name} stays"] if keep_key else _others_with(place, found)
    plan.notes.append(f"~/.aws/config stays as it is: remove a section there that names profile {found.name!r}")
    return plan


def _plan_deletion(plan: Retirement, access: KeyAccess) -> RetirementStep | None:
    """Return the step that deletes the key, or None if it is gone."""
    uri, pins = access.uri, access.pins
    try:
        delete_key(uri, _only_look, pins, allow_modules=access.allow_modules)
    except _SeenError as seen:
        doomed = seen.doomed
    except SigningKeyError as error:
        if isinstance(error, KeyNotFoundError) and not _may_be_there(uri):
            plan.done.append(f"the key is gone already: {error.message}")
            return None
        error.hint = f"{error.hint}. Or keep the key with --keep-key"
        raise

    def delete() -> Sequence[str]:
        gone = delete_key(uri, lambda now: _check_named(now, doomed), pins, allow_modules=access.allow_modules)
        return [f"done: delete {line}" for line in gone]

    return RetirementStep("delete", [f"delete {line}" for line in doomed], delete)


def _may_be_there(uri: KeyURI) -> bool:
    """Return whether a key that was not found may be in a file that is there, or in a folder that can't be read."""
    if "path" not in uri.path:
        return False
    try:
        os.lstat(uri.file)
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def _only_look(doomed: Sequence[str]) -> None:
    raise _SeenError(doomed)


def _check_named(now: Sequence[str], named: Sequence[str]) -> None:
    if extra := [line for line in now if line not in named]:
        raise HwsignerError(f"{extra[0]} would be deleted too, which was not there before", "Run the command again")


def _end_of_timer(plan: Retirement, found: Profile) -> list[RetirementStep]:
    """Return the step that ends the profile's renewal timer, if there is one: it would fail for ever."""
    system = found.file == file_of_new(os.environ, system=True)
    if not is_timer_enabled(found.name, system=system):
        return []
    if launchd.is_here():
        plan.notes.append(f"launchd still starts the renewal: run hwsigner launchd uninstall renew {found.name}")
        return []

    def disable() -> Sequence[str]:
        end_timer(found.name, system=system)
        return [f"done: {line}"]

    line = f"disable the timer hwsigner-renew@{found.name}.timer"
    return [RetirementStep("disable", [line], disable)]


def _removal(found: Profile) -> RetirementStep:
    def remove() -> Sequence[str]:
        now = profiles(os.environ).get(found.name)
        if now and (now.file, now.values) != (found.file, found.values):
            raise HwsignerError(f"profile {found.name!r} has changed since it was shown", "Run the command again")
        remove_profile(found.name, os.environ)
        return [f"done: {line}"]

    line = f"remove [profile.{found.name}] from {found.file}"
    return RetirementStep("remove", [line], remove)


def _others_with(uri: str, retired: Profile) -> list[str]:
    """Return notes about the other profiles that name the same key."""
    return [
        f"Profile {name!r} names the same key, and will not work any more"
        for name, other in sorted(profiles(os.environ).items())
        if name != retired.name and any(_is_same_key(uri, other.values.get(flag)) for flag in _KEY_FLAGS)
    ]


def _is_same_key(text: str, other: object) -> bool:
    """Return whether two values of a profile are the same, or paths of the same file."""
    try:
        return text == other or (isinstance(other, str) and os.path.samefile(text, other))
    except (OSError, ValueError):
        return False
