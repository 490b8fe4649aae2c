"""`hwsigner retire NAME`: revoke the certificate of a profile, delete its key and remove the profile."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwsigner.cli import options
from hwsigner.cli.asking import ask
from hwsigner.cli.aws.arguments import read_leaf
from hwsigner.cli.aws.revoking import CA, EXISTING_SESSIONS, REVOCATION, prepare
from hwsigner.cli.parser import Arguments, CommandModule, Parser
from hwsigner.cli.process import print_outcome, report
from hwsigner.config.flags import OUTPUT, switch
from hwsigner.config.profiles import Profile, profile, profiles, remove_profile
from hwsigner.config.settings import Settings, of_profile
from hwsigner.errors import CertificateError, HwsignerError, KeyNotFoundError, SigningKeyError, UsageError, printable
from hwsigner.identity.certificate import Certificate
from hwsigner.key.management import delete_key
from hwsigner.uri import KeyURI

HELP = "revoke a certificate, delete its key and its profile"

_FLAGS = (
    switch("revoke", "also revoke a certificate of AWS Private CA; others need --ca-key and --ca"),
    switch("keep-key", "keep the key, such as one that hwsigner can't delete"),
    switch("yes", "do not ask before each step; needed without a terminal"),
)
_KEY_FLAGS = ("private-key", "certificate")


class _SeenError(HwsignerError):
    """Ends a deletion that is only asked what it would delete."""

    def __init__(self, doomed: Sequence[str]) -> None:
        super().__init__("nothing was deleted")
        self.doomed = tuple(doomed)


@dataclass(frozen=True)
class _Step:
    """A step that ends something for good.

    Attributes:
        verb: what it does, as in `revoke` and `revoked`.
        lines: what it would do, a line each.
        run: does it, and returns what was done, a line each.
    """

    verb: str
    lines: Sequence[str]
    run: Callable[[], Sequence[str]]


@dataclass
class _Retirement:
    """What is to be done, what is so already, and what the user should know: sentences."""

    steps: list[_Step] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def add_arguments(parser: Parser) -> None:
    """Add the profile's name and the flags."""
    parser.add_argument("name", metavar="NAME", help="profile of config.toml")
    parser.add_flags(CA, _FLAGS, OUTPUT, REVOCATION)


def run(arguments: Arguments) -> int:
    """Show all that would be gone, then ask for each step and do it. With JSON on stdout, this goes to stderr."""
    found = profile(arguments.name, os.environ)
    if not os.access(os.path.dirname(found.file), os.W_OK):
        problem = f"you can't change {found.file}, which has profile {found.name!r}"
        hint = "Run it as the owner. If its file system is read-only here, run it where it is not"
        raise HwsignerError(problem, hint)
    plan = _plan(arguments, found)
    shown = [f"  {line}" for step in plan.steps for line in step.lines]
    done: list[str] = []

    def show(so_far: str, *lines: str) -> None:
        report(_lines(*lines)) if arguments.json else print_outcome(so_far, _lines(*lines))

    show("nothing was changed", f"Profile {found.name!r}:", *plan.done, *shown, *plan.notes)
    for step in plan.steps:
        if not arguments.yes:
            lines = ["Next step:", *(f"  {line}" for line in step.lines)]
            ask(lines, f"Type yes to {step.verb} it", nothing=f"nothing was {step.verb}d")
        now = step.run()
        show(now[0], *now)
        done += now
    if arguments.json:
        data = {"profile": found.name, "done": done, "doneBefore": plan.done, "notes": plan.notes}
        print_outcome(f"profile {found.name!r} is retired", json.dumps(data, indent=2))
    return 0


def _plan(arguments: Arguments, found: Profile) -> _Retirement:
    own, plan = of_profile(found), _Retirement()
    uri = own.private_key or own.certificate
    if not uri:
        first = "" if own.cert_selector is None else "hwsigner delete KEY-URI, then "  # The key is on a token.
        raise UsageError(f"profile {found.name!r} names no key", f"Run {first}hwsigner profile remove {found.name}")
    delete = None if arguments.keep_key else _plan_deletion(plan, own, uri)
    _plan_revocation(plan, arguments, own, key_is_there=bool(delete or arguments.keep_key))
    plan.steps += [step for step in (delete, _removal(found)) if step]
    if arguments.keep_key:
        plan.notes.append(f"The key {options.key_uri(own, uri).name} stays")
    else:
        plan.notes += _others_with(uri, found)
    plan.notes.append(f"~/.aws/config stays as it is: remove a section there that names profile {found.name!r}")
    plan.notes.append(f"A running agent closes the profile by itself. {EXISTING_SESSIONS}")
    return plan


def _lines(*lines: str) -> str:
    return "\n".join(map(printable, lines))


def _plan_deletion(plan: _Retirement, own: Settings, text: str) -> _Step | None:
    """Return the step that deletes the key, or None if it is gone."""
    uri = options.key_uri(own, text)
    pins = options.pin_source(own, uri)
    try:
        delete_key(uri, _only_look, pins, allow_modules=True)
    except _SeenError as seen:
        doomed = seen.doomed
    except SigningKeyError as error:
        if isinstance(error, KeyNotFoundError) and not _may_be_there(uri):
            plan.done.append(f"the key is gone already: {error.message}")
            return None
        error.hint = f"{error.hint}. Or keep the key with --keep-key"
        raise

    def delete() -> Sequence[str]:
        gone = delete_key(uri, lambda now: _check_named(now, doomed), pins, allow_modules=True)
        return [f"done: delete {line}" for line in gone]

    return _Step("delete", [f"delete {line}" for line in doomed], delete)


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


def _plan_revocation(plan: _Retirement, arguments: Arguments, own: Settings, *, key_is_there: bool) -> None:
    """Add the step that revokes the certificate, or a note about who can do it."""
    wanted = bool(arguments.ca_key or arguments.ca or arguments.revoke)
    try:
        leaf = read_leaf(own, own.certificate or own.private_key or "")
    except CertificateError as error:
        if wanted and key_is_there:
            raise
        hint = "If it is not revoked yet, use hwsigner aws revoke --serial"
        plan.notes.append(f"The certificate can't be read: {error.message}. {hint}")
        return
    arn = own.trust_anchor_arn or ""
    if not wanted:
        plan.notes.append(_for_an_administrator(leaf, arn))
        return
    prepared = prepare(arguments, arn, [leaf])
    plan.done += prepared.done
    plan.notes += [note for note in prepared.notes if note != EXISTING_SESSIONS]
    if prepared.steps:
        plan.steps.append(_Step("revoke", prepared.steps, lambda: prepared.carry_out().lines))


def _for_an_administrator(leaf: Certificate, arn: str) -> str:
    end = f"{leaf.x509.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    command = f"hwsigner aws revoke --serial 0x{leaf.x509.serial_number:x} --trust-anchor-arn {arn or 'ARN'}"
    flags = "--ca-key KEY-URI --ca CA.pem (both omitted for AWS Private CA)"
    return f"This does not revoke {leaf.subject}, which expires on {end}. An administrator can: {command} {flags}"


def _removal(found: Profile) -> _Step:
    def remove() -> Sequence[str]:
        now = profiles(os.environ).get(found.name)
        if now and (now.file, now.values) != (found.file, found.values):
            raise HwsignerError(f"profile {found.name!r} has changed since it was shown", "Run the command again")
        remove_profile(found.name, os.environ)
        return [f"done: {line}"]

    line = f"remove [profile.{found.name}] from {found.file}"
    return _Step("remove", [line], remove)


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


if TYPE_CHECKING:
    import hwsigner.cli.retire

    _: CommandModule = hwsigner.cli.retire
