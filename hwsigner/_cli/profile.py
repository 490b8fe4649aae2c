"""`hwsigner profile add|edit|show|remove|list`: the profiles of config.toml."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from hwsigner._aws.config_lines import edit_config_file
from hwsigner._aws.region import check_known_arns, check_region, parse_then_role
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome
from hwsigner._cli.without_secrets import warn_of_exposed, without_secret
from hwsigner._config.flags import (
    AGENT,
    ENROLMENT,
    IDENTITY,
    OUTPUT,
    SESSION,
    SYSTEM,
    URIS,
    Flag,
    check_readable_again,
    places,
    switch,
)
from hwsigner._config.profiles import (
    Profile,
    add_profile,
    change_profile,
    check_name,
    profile,
    profiles,
    remove_profile,
)
from hwsigner._config.sharing import check_writable, share
from hwsigner._system.processes import credential_process
from hwsigner._uri import KeyURI, in_full_if_there
from hwsigner.errors import HwsignerWarning, UnsafeKeyWarning, UsageError, printable, suggestion

HELP = "add, edit, show, remove and list profiles"

_ACTIONS = ("add", "edit", "show", "remove", "list")
_SYNONYMS = {"create": "add", "new": "add", "set": "edit", "update": "edit", "get": "show", "delete": "remove"}
_COLUMNS = ("PROFILE", "FILE", "ACCOUNT", "ROLE", "REGION", "KEY", "CERTIFICATE", "RENEWAL", "PROBLEM")
_FLAGS = (
    SYSTEM,
    switch("replace", "add: replace a profile of that name"),
    Flag("unset", "edit: remove this flag; repeatable", "FLAG", many=True),
    Flag(
        "then-role",
        "add, edit: role that this profile's role assumes, such as one of another account: writes profiles for both "
        "into ~/.aws/config; repeatable",
        "ARN",
        many=True,
    ),
)


def add_arguments(parser: Parser) -> None:
    """Add the action, the profile's name, and the flags that a profile can contain."""
    parser.add_argument("action", metavar="|".join(_ACTIONS), help="what to do; add and edit take the flags below")
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of the profile; list takes none")
    parser.add_flags(_FLAGS, IDENTITY, SESSION, AGENT, ENROLMENT, OUTPUT)


def run(arguments: Arguments) -> int:
    """Add, change, show or remove a profile, or list all."""
    action, name = arguments.action, arguments.name
    if action not in _ACTIONS:
        hint = suggestion(_SYNONYMS.get(action, action), _ACTIONS, f"Use one of {', '.join(_ACTIONS)}")
        raise UsageError(f"profile has no action {action[:40]!r}", hint)
    takes_flags = action in ("add", "edit")
    unfit = _values(arguments) or arguments.then_role
    if (unfit and not takes_flags) or (arguments.unset and action != "edit"):
        raise UsageError(f"profile {action} takes no other arguments", f"Write hwsigner profile {action}")
    if action == "list":
        return _list(arguments, name)
    if name is None:
        flags = " <flags>" if takes_flags else ""
        raise UsageError("no profile name was given", f"Write hwsigner profile {action} NAME{flags}")
    check_name(name)
    if arguments.system and action != "show":
        check_writable()
    if takes_flags:
        return _write(arguments, name)
    if action == "show":
        return _show(profile(name, os.environ, system=arguments.system), as_json=arguments.json)
    file = profile(name, os.environ, system=arguments.system).file  # An error names those that there are.
    remove_profile(name, os.environ, system=arguments.system)
    change = f"removed [profile.{name}]. Its key and certificate stay: hwsigner retire deletes them too"
    return _print_change(arguments, [f"{file}: {change}"], name=name, file=file)


def _values(arguments: Arguments) -> dict[str, Any]:
    """Return what the flags give for the profile, as TOML has it; None for an empty text."""
    own = {flag.name for flag in (*_FLAGS, *OUTPUT)}
    given = [(flag, value) for flag, value in arguments.given if flag.name not in own]
    return {flag.name: value if value is None else flag.toml(value) for flag, value in given}


def _write(arguments: Arguments, name: str) -> int:
    values = {flag: value for flag, value in _values(arguments).items() if value is not None}
    check_readable_again(values)
    if arguments.action == "edit" and (empty := [flag for flag, value in _values(arguments).items() if value is None]):
        problem = f"--{empty[0]} is empty, and edit would not change it"
        raise UsageError(problem, f"Give it a value, or remove it: hwsigner profile edit {name} --unset {empty[0]}")
    if not (values or arguments.unset or (arguments.then_role and arguments.action == "edit")):
        problem = f"profile {name!r} would be empty" if arguments.action == "add" else "no change was given"
        raise UsageError(problem, "Add flags, such as --certificate FILE: hwsigner profile --help lists them")
    values |= {flag: in_full_if_there(values[flag]) for flag in URIS if flag in values}
    edited = profiles(os.environ, system=arguments.system).get(name) if arguments.action == "edit" else None
    known = {**(edited.values if edited else {}), **dict.fromkeys(_without_dashes(arguments.unset)), **values}
    roles = _roles(name, arguments.then_role, str(known.get("role-arn") or ""))
    if roles:
        _edit_sdks(name, roles, known, write=False)  # What can't be written is an error before anything changes.
    try:
        file = _edit(arguments, name, values) if arguments.action == "edit" else _add(arguments, name, values)
    except UnicodeEncodeError:
        # Not chained: the exception contains the values, which may be secret.
        raise UsageError("a value is not text, so config.toml can't contain it", "Use UTF-8 text") from None
    if arguments.system:
        share(profile(name, os.environ, system=True).values)
    warn_of_exposed([profile(name, os.environ, system=arguments.system)])
    _warn_of_relative_paths(values)
    change = [f"{file}: [profile.{name}]"]
    if not roles:
        return _print_change(arguments, change, name=name, file=file)
    sdks = _edit_sdks(name, roles, known)
    change += [f"{sdks}: [profile {each}] assumes {arn}" for each, arn in roles.items()]
    return _print_change(arguments, change, name=name, file=file, awsConfig=sdks, roles=roles)


def _warn_of_relative_paths(values: Mapping[str, Any]) -> None:
    for flag, place in places(values):
        file = KeyURI.parse(place).file
        if file and not file.startswith("/"):
            problem = f"--{flag} is {file}, which is not in this folder, and would be looked for in any other"
            warnings.warn(HwsignerWarning(problem, "Give the full path of the file"), stacklevel=1)


def _roles(name: str, arns: Sequence[str], own: str) -> dict[str, str]:
    """Return the roles that a profile leads on to, by the name of the SDKs' profile that assumes each."""
    roles: dict[str, str] = {}
    for text in arns:
        arn = parse_then_role(text, own)
        each = re.sub(r"[^\w.@-]", "-", f"{name}-{arn.account}-{arn.resource.rpartition('/')[2]}", flags=re.ASCII)
        if roles.setdefault(each, text) != text:
            raise UsageError(f"two roles would be [profile {each}]", "Write one of them into ~/.aws/config by hand")
    return roles


def _edit_sdks(name: str, roles: Mapping[str, str], known: Mapping[str, Any], *, write: bool = True) -> str:
    """Check that the SDKs' config file can get the profiles, or write it; return its path."""
    anchor = str(known.get("trust-anchor-arn") or "").split(":")
    region = str(known.get("region") or (anchor[3] if len(anchor) > 3 else ""))
    if region:
        check_region(region)
    return edit_config_file(name, credential_process(name), region=region, roles=roles, write=write)


def _print_change(arguments: Arguments, change: Sequence[str], **data: object) -> int:
    """Print what was written, where."""
    text = json.dumps(data, indent=2) if arguments.json else "\n".join(change)
    print_outcome(f"{data['file']} was changed", text)
    return 0


def _add(arguments: Arguments, name: str, values: dict[str, Any]) -> str:
    check_known_arns(values)
    return add_profile(name, values, os.environ, replace=arguments.replace, system=arguments.system)


def _edit(arguments: Arguments, name: str, values: dict[str, Any]) -> str:
    found = profile(name, os.environ, system=arguments.system)
    removed = _without_dashes(arguments.unset)
    for flag in removed:
        if flag not in found.values:
            problem = f"profile {name!r} has no {flag}"
            raise UsageError(problem, suggestion(flag, found.values, f"It has {', '.join(found.values)}"))
        if flag in values:
            raise UsageError(f"--{flag} is set and unset", "Leave out one of the two")
    check_known_arns({flag: value for flag, value in {**found.values, **values}.items() if flag not in removed})
    return change_profile(name, {**values, **dict.fromkeys(removed)}, os.environ, system=arguments.system)


def _without_dashes(flags: Sequence[str]) -> list[str]:
    return [flag.removeprefix("--") for flag in flags]


def _show(found: Profile, *, as_json: bool) -> int:
    if as_json:
        values = {key: without_secret(key, value) for key, value in found.values.items()}
        print(json.dumps({"name": found.name, "file": found.file, "values": values}, indent=2, default=str))
        return 0
    print(f"# {printable(found.file)}")
    for key, value in found.values.items():
        shown = without_secret(key, value)
        text = json.dumps(shown, ensure_ascii=False, default=str)
        print(printable(f"{key} = {text}{'' if shown == value else ' (a secret is not shown)'}"))
    return 0


def _list(arguments: Arguments, name: str | None) -> int:
    if name is not None:
        raise UsageError("profile list takes no other arguments", "Write hwsigner profile list")
    from hwsigner._cli.status import ABOUT_KEYS, data_of, print_rows, summary_of

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsafeKeyWarning)  # The commands that use a profile say it.
        found = sorted(profiles(os.environ, system=arguments.system).items())
        rows = [summary_of(one, tokens=False) for _, one in found]
    if arguments.json:
        print(json.dumps({"profiles": [data_of(row) for row in rows]}, indent=2))
    else:
        print_rows(rows, _COLUMNS, (("PROFILE", "ACCOUNT", "ROLE", "REGION"), ABOUT_KEYS, ("PROFILE", "FILE")))
    return 0
