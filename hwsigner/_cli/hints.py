"""What to do about arguments that a command does not take. Imported only once there is one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hwsigner._config.settings import is_profile
from hwsigner.errors import UsageError, suggestion


def unknown_flag(name: str, flags: Sequence[str], *, usage: str, hint: str) -> UsageError:
    """Return the error for a flag that there is not. Its value is not quoted: it may be a misspelt password flag."""
    bare = name.lstrip("-")
    known = flags if len(bare) > 1 else ()
    parts = [flag for flag in known if flag.startswith(bare)] or [flag for flag in known if flag.endswith(f"-{bare}")]
    if name == "--version":
        hint = "Run hwsigner version"
    elif name == "--profile" and re.search(r"\bNAME\b", usage):
        hint = f"Write {usage}"
    elif parts:
        hint = f"Did you mean --{parts[0]}?"
    else:
        hint = suggestion(name, [f"--{flag}" for flag in (*flags, "help")], hint)
    return UsageError(f"unknown flag {name}", hint)


def unexpected(rest: Sequence[str], flags: Sequence[str], naming: Sequence[str], *, hint: str) -> UsageError:
    """Return the error for arguments that are too many. They are not quoted: one may be the half of a password.

    `naming` are the names of the flags that name a profile.
    """
    problem = "unexpected argument" if len(rest) == 1 else f"{len(rest)} unexpected arguments"
    key, equals, _ = rest[0].partition("=")
    if naming:
        certificate = ", and for a certificate --certificate" if "certificate" in flags else ""
        hint = f"To name a profile, use {' or '.join(f'--{flag}' for flag in naming)}{certificate}"
    if rest[0] in ("true", "false"):
        problem, hint = f"unexpected argument {rest[0]}", f"A flag takes it after an equals sign: --FLAG={rest[0]}"
    elif equals and key in flags:
        hint = f"Write --{key}=…"
    elif equals and key.upper() == "CN" and "subject" in flags:
        hint = "Write --subject CN=…"
    elif len(rest) == 1 and is_profile(rest[0]):
        problem = f"unexpected argument {rest[0]}, which is a profile"
        hint = f"Write --{naming[0]} {rest[0]}" if naming else f"Write hwsigner show --profile {rest[0]}"
    return UsageError(problem, hint)
