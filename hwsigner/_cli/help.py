"""The help about hwsigner: the list of all commands, and what to do next."""

from __future__ import annotations

import importlib.util
import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from hwsigner._cli.pages import names_without
from hwsigner.errors import HwsignerError, printable

ABOUT = "Temporary AWS credentials from a private key in a TPM, HSM, smart card, YubiKey or file."

_WIDTH = 80
_SECTIONS = {
    "Credentials": ("credential-process", "exec", "console", "agent", "serve", "update"),
    "Profiles": ("profile", "migrate", "enroll", "renew", "retire"),
    "Inspect and troubleshoot": ("status", "doctor", "whoami", "list", "show"),
    "Keys and certificates": ("keygen", "csr", "install-certificate", "delete", "attest", "verify-attestation"),
    "Trust anchor, role and profile in AWS": (
        *("aws setup", "aws check", "aws revoke", "aws trust-policy", "aws template", "aws principal-tags"),
    ),
    "A registrar for many machines": (
        *("registrar", "registrar allow", "registrar remove", "registrar list", "registrar rotate-keys"),
    ),
}
_OTHERS = "Other commands"
_HELP = re.compile(r'^HELP = "(.+)"$', re.MULTILINE)
_FIRST_STEPS = {
    "hwsigner enroll --help": "make a key, have it certified, write its profile",
    "hwsigner profile add --help": "write a profile for a key that you have",
    "hwsigner help tpm-server": "try it without hardware and AWS, step by step",
}


def sections(commands: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of commands by the title of their section."""
    titles = {name: title for title, listed in _SECTIONS.items() for name in listed}
    found: dict[str, list[str]] = {title: [] for title in (*_SECTIONS, _OTHERS)}
    for name in sorted(commands, key=lambda name: list(titles).index(name) if name in titles else len(titles)):
        found[titles.get(name, _OTHERS)].append(name)
    return {title: listed for title, listed in found.items() if listed}


def overview(commands: Mapping[str, str]) -> str:
    """Return the list of all commands."""
    lines = ["usage: hwsigner COMMAND [flags]", "", *textwrap.wrap(ABOUT, _WIDTH), ""]
    for title, listed in sections(commands).items():
        lines += [f"{title}:", *_rows({name: commands[name] for name in listed}), ""]
    pages = f"hwsigner help PAGE prints another page: {', '.join(names_without(commands))}"
    lines.append("hwsigner COMMAND --help lists its flags. hwsigner help COMMAND explains it.")
    return "\n".join([*lines, *textwrap.wrap(pages, _WIDTH, break_on_hyphens=False)])


def overview_of(group: str, commands: Mapping[str, str]) -> str:
    """Return the list of the commands whose first word is a group's."""
    listed = {name: module for name, module in commands.items() if name.startswith(f"{group} ")}
    return "\n".join([f"usage: hwsigner {group} COMMAND [flags]", "", *_rows(listed)])


def _rows(commands: Mapping[str, str]) -> Iterator[str]:
    for name, module in commands.items():
        yield f"  {name:<22} {_help(module)}"


def _help(module: str) -> str:
    """Return a command's HELP, read from its file: importing all commands would take 0.1 s."""
    spec = importlib.util.find_spec(module)
    source = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
    found = _HELP.search(source)
    return found[1] if found else ""


def next_steps(environ: Mapping[str, str]) -> str:
    """Return what `hwsigner` alone prints: what it is, and commands that fit the profiles that there are."""
    from hwsigner._config.profiles import profiles

    try:
        known = sorted(profiles(environ))
        state = f"Profiles: {', '.join(known)}." if known else "There is no profile yet."
        steps = _steps_with(known, environ.get("HWSIGNER_PROFILE", "")) if known else _FIRST_STEPS
    except HwsignerError as error:
        state, steps = str(error), {"hwsigner help config": "explains config.toml"}
    width = max(map(len, steps))
    rows = [printable(f"  {command:<{width}}  {what}") for command, what in steps.items()]
    paragraphs = [textwrap.fill(text, _WIDTH, break_on_hyphens=False) for text in (ABOUT, printable(state))]
    return "\n".join([*(f"{text}\n" for text in paragraphs), "Next:", *rows, "", "hwsigner --help lists all commands."])


def _steps_with(known: Sequence[str], preferred: str) -> dict[str, str]:
    name = shlex.quote(preferred if preferred in known else known[0])
    return {
        "hwsigner status": "shows key, certificate and session of each",
        "hwsigner doctor": "finds what is wrong, and says how to fix it",
        f"hwsigner exec {name} -- aws s3 ls": "runs a command with credentials",
    }
