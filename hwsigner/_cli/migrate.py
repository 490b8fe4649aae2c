"""`hwsigner migrate`: from other programs for IAM Roles Anywhere, and from access keys, to profiles."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from hwsigner._aws.config_file import config_path, credentials_path
from hwsigner._aws.config_lines import profile_of_section, with_credential_process
from hwsigner._cli.confirmation import confirm
from hwsigner._cli.migration import HelperCall, Translation, access_keys, find_calls, translate
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome, report
from hwsigner._cli.without_secrets import warn_of_exposed, without_secret
from hwsigner._config.flags import switch
from hwsigner._config.profiles import add_profile, file_of_new, profiles
from hwsigner._system.files import MAX_BYTES, edit_file
from hwsigner._system.processes import credential_process, own_command
from hwsigner.errors import ConfigError, HwsignerError, UsageError, printable_lines

HELP = "move here from aws_signing_helper and access keys"

_KEYS_ADVICE = (
    "An access key works until you delete it, wherever it was copied to. Replace it: hwsigner help migrate. The SDKs "
    "prefer it to a credential_process of the same profile"
)


class _Process(NamedTuple):
    """A profile of the SDKs, its `credential_process` and the new one."""

    profile: str
    old: str
    new: str


class _Migration:
    """What a migration would write, what the user must write, and what can't be translated."""

    def __init__(self) -> None:
        self.profiles: dict[str, dict[str, Any]] = {}
        # By the SDKs' config file.
        self.processes: dict[str, list[_Process]] = {}
        self.lines: list[str] = []
        self.by_hand: list[str] = []
        self.keys: list[str] = []
        self.problems: list[str] = []

    def name_for(self, wanted: str, values: Mapping[str, Any]) -> str:
        """Return the profile that has these values, which may be a new one."""
        written = {name: found.values for name, found in profiles(os.environ).items()}
        known = {**written, **self.profiles}
        same = [name for name, others in known.items() if others == values]
        # The user may have added other settings to the one that an earlier run wrote.
        if wanted in same or (not same and wanted in written and values.items() <= written[wanted].items()):
            return wanted
        if not same:
            names = [wanted, *(f"{wanted}-{number}" for number in range(2, len(known) + 3))]
            same = [name for name in names if name not in known]
            self.profiles[same[0]] = dict(values)
        return same[0]


def add_arguments(parser: Parser) -> None:
    """Add the files and the flag."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="config file of the SDKs, systemd unit, crontab or script (default: ~/.aws/config and ~/.aws/credentials)",
    )
    parser.add_flags((switch("yes", "write without asking"),))


def run(arguments: Arguments) -> int:
    """Show what would be written, ask, and write it: profiles first. Return 1 if something can't be translated."""
    plan = _Migration()
    for path, data in _read(arguments.files).items():
        plan.keys += access_keys(path, data)
        try:
            _add_calls(plan, path, data)
        except ConfigError as error:
            plan.problems.append(str(error))
    changes = plan.lines + _profile_lines(plan)
    shown = [*changes, *plan.by_hand, *plan.keys, *([_KEYS_ADVICE] if plan.keys else [])]
    if shown:
        print_outcome("nothing was changed", printable_lines(shown))
    for problem in plan.problems:
        report(problem)
    if changes:
        if not arguments.yes:
            confirm([], "Type yes to write this", nothing="nothing was written")
        _write(plan)
    if not (shown or plan.problems):
        print("Nothing to migrate: no call of another program, and no access key")
    return 1 if plan.problems else 0


def _read(files: list[str]) -> dict[str, bytes]:
    """Return the content of the files, or of those of the SDKs that are there."""
    own = [config_path(os.environ), credentials_path(os.environ)]
    chosen = files or [path for path in own if os.path.exists(path)]
    if not chosen:
        raise UsageError(f"there is neither {own[0]} nor {own[1]}", "Name the files to read")
    found = {}
    for path in map(os.path.abspath, chosen):
        try:
            with open(path, "rb") as file:
                found[path] = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"can't read {path}: {error.strerror}", "Name a file that you may read") from error
        if len(found[path]) > MAX_BYTES:
            raise ConfigError(f"{path} is longer than 16 MiB", "Name a config file, unit, crontab or script")
    return found


def _add_calls(plan: _Migration, path: str, data: bytes) -> None:
    for call in find_calls(path, data):
        try:
            found = translate(call)
            if call.process:
                data = _add_process(plan, call, found, path, data)
            else:
                _add_line(plan, call, found)
        except HwsignerError as error:
            plan.problems.append(f"{call.place}: {error}")


def _add_process(plan: _Migration, call: HelperCall, found: Translation, path: str, data: bytes) -> bytes:
    """Add a `credential_process`, and return the file's content with the new one."""
    if os.stat(path).st_uid != os.geteuid():
        raise UsageError("another user owns this file", "Run this as that user")
    profile, old = profile_of_section(call.section), call.process or ""
    with_credential_process(data, profile, "hwsigner", path=path, replaced=old)  # It may refuse.
    process = _Process(profile, old, credential_process(plan.name_for(found.name, found.values)))
    plan.processes.setdefault(path, []).append(process)
    plan.lines += [f"{call.place}: [{call.section}]", f"  credential_process = {process.new}"]
    return _with_processes(data, path, [process])


def _with_processes(data: bytes, path: str, processes: Sequence[_Process]) -> bytes:
    """Return the content of a config file of the SDKs with the new commands."""
    for profile, old, new in processes:
        data = with_credential_process(data, profile, new, path=path, replaced=old)
    return data


def _add_line(plan: _Migration, call: HelperCall, found: Translation) -> None:
    name = plan.name_for(found.name, found.values)
    command = own_command(*found.command, name, *found.flags)
    plan.by_hand += [f"{call.place}: write this yourself, in place of {call.program} and its flags:", f"  {command}"]
    if found.command[0] == "serve":
        plan.by_hand.append("  It answers root and its own user. Add --allow-user NAME for each other one")


def _profile_lines(plan: _Migration) -> list[str]:
    """Return the profiles as they will be in config.toml, without secrets."""
    lines, file = [], file_of_new(os.environ, system=False)
    for name, values in plan.profiles.items():
        lines.append(f"{file}: [profile.{name}]")
        for key, value in values.items():
            shown = json.dumps(without_secret(key, value), ensure_ascii=False)
            lines.append(f"  {key} = {shown}")
    return lines


def _write(plan: _Migration) -> None:
    for name, values in plan.profiles.items():
        add_profile(name, values, os.environ)
    file = file_of_new(os.environ, system=False)
    warn_of_exposed(profiles(os.environ)[name] for name in plan.profiles)
    for path, processes in plan.processes.items():
        try:
            edit_file(path, partial(_with_processes, path=path, processes=processes))
        except HwsignerError as error:
            raise type(error)(f"{file} has the profiles, but {error.message}", error.hint) from error
    written = [*plan.processes, *([file] if plan.profiles else [])]
    print_outcome(
        f"{' and '.join(written)} were changed", f"Written: {', '.join(written)}. Check it with hwsigner doctor"
    )
