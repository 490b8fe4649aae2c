"""Write the man pages, made from the parser: `python packaging/man_pages.py FOLDER`.

One page is about hwsigner, `hwsigner.1`, one about each command, such as `hwsigner-aws-check.1`, and one about the
program `hwsigner-credentials`. The date is that of SOURCE_DATE_EPOCH, or today. The language is that of man(7) and
groff_man(7).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from hwsigner import __version__
from hwsigner._cli import COMMANDS, command_parser
from hwsigner._cli.flag_groups import EXAMPLES, flag_groups, help_of, usage_of
from hwsigner._cli.help import ABOUT, sections
from hwsigner._cli.pages import names, page_of
from hwsigner._cli.parser import Parser
from hwsigner._config.flags import Flag

_DESCRIPTION = (
    "hwsigner is a client for AWS IAM Roles Anywhere.",
    "It signs with the key of an X.509 certificate, and gives credentials to the AWS CLI and SDKs.",
    "Without a command, it says what to do next.",
    "Each of the commands below has a page, such as hwsigner-exec(1).",
)
_STATUSES = {
    "0": "done",
    "1": "any other failure; doctor and aws check exit with it also if they found something",
    "2": "usage: a flag, an argument, a key URI, an ARN, an environment variable or config.toml is wrong",
    "3": "the key or its PIN",
    "4": "the certificate",
    "5": "the service, another AWS API or an issuer refused, or its response is invalid",
    "6": "the service, another AWS API or an issuer could not be reached",
    "7": "the agent, the audit log, or another process that holds a lock",
    "130": "interrupted (Ctrl-C)",
    "141": "the reader of stdout has gone",
}
_VARIABLES = {
    "HWSIGNER_PROFILE": "the default of --profile",
    "HWSIGNER_PIN": "the key's PIN",
    "HWSIGNER_PINENTRY": "the program that asks for a PIN",
    "HWSIGNER_AGENT": "none: no agent is asked or started; asked: no agent is asked",
    "TPM2_TCTI": "how to reach the TPM",
    "AWS_ENDPOINT_URL_ROLESANYWHERE": "the URL of the service",
    "NO_COLOR": "if it is not empty, no output has colours",
}
_FILES = {
    "~/.config/hwsigner/config.toml": "your profiles",
    "/etc/hwsigner/config.toml": "the system's profiles",
    "/run/user/UID/hwsigner/agent.sock": "the socket of your agent",
}

_CLIENT = (
    "This small program asks the agent of hwsigner for AWS credentials, and prints them for credential_process.",
    "It asks the user's agent, and then the system's.",
    "With other flags, or without an agent that knows the profile, it becomes hwsigner credential-process.",
    "That is in the same folder, and takes the same flags.",
    "If the agent needs a PIN and there is a terminal, that program asks for it.",
)
_CLIENT_TABLES = {
    "EXIT STATUS": {"0": "done", "1": "any other failure", "2 to 7": "as in hwsigner(1)"},
    "ENVIRONMENT": {
        "HWSIGNER_AGENT": "none: no agent is asked",
        "XDG_RUNTIME_DIR": "the folder of your runtime files (default: /run/user/UID)",
    },
    "FILES": {
        "/run/user/UID/hwsigner/agent.sock": "the socket of your agent",
        "/run/hwsigner/agent.sock": "the socket of the system's agent",
    },
}
_CLIENT_EXAMPLE = (
    "[profile web]",
    "region = eu-central-1",
    "credential_process = /usr/bin/hwsigner-credentials --profile web",
)


def pages() -> Iterator[tuple[str, str]]:
    """Yield the name of each file, and its content."""
    yield "hwsigner.1", _page("hwsigner", ABOUT, _about())
    for name in COMMANDS:
        command, parser = command_parser(name)
        yield f"{_title(name)}.1", _page(_title(name), command.HELP, _about_command(name, parser))
    yield "hwsigner-credentials.1", _page("hwsigner-credentials", "print credentials from the agent", _about_client())


def _page(title: str, what: str, lines: Iterable[str]) -> str:
    moment = datetime.fromtimestamp(float(os.environ.get("SOURCE_DATE_EPOCH") or time.time()), UTC)
    header = f'.TH {_text(title.upper())} 1 {moment:%Y-%m-%d} "hwsigner {__version__}" "User Commands"'
    summary = what.rstrip(".")
    name = f"{_text(title)} \\- {_text(summary[:1].lower() + summary[1:])}"
    return "\n".join([header, ".ad l", ".nh", ".SH NAME", name, *lines, ""])


def _about() -> Iterator[str]:
    yield from (".SH SYNOPSIS", ".B hwsigner", ".I COMMAND", ".RI [ flags ]", ".SH DESCRIPTION")
    yield from map(_text, _DESCRIPTION)
    yield ".SH COMMANDS"
    for title, listed in sections(COMMANDS).items():
        yield f".SS {_text(title)}"
        for name in listed:
            yield from (".TP", f".B {_text(name)}", _text(command_parser(name)[0].HELP))
    for heading, table in (("EXIT STATUS", _STATUSES), ("ENVIRONMENT", _VARIABLES), ("FILES", _FILES)):
        yield f".SH {heading}"
        for term, meaning in table.items():
            yield from (".TP", f".B {_text(term)}", _text(meaning))
    yield ".SH SEE ALSO"
    yield _text(f"hwsigner help PAGE prints a page: {', '.join(names())}.")


def _about_command(name: str, parser: Parser) -> Iterator[str]:
    usage = usage_of(parser.prog, parser.usage, parser.flags, parser.positionals).removeprefix(f"{parser.prog} ")
    yield from (".SH SYNOPSIS", f".B {_text(parser.prog)}", _text(usage))
    yield from (".SH DESCRIPTION", _text(str(parser.description)))
    yield _text(f"More is printed by hwsigner help {_page_of(name)}.")
    if parser.positionals:
        yield ".SH ARGUMENTS"
        for action in parser.positionals:
            yield from (".TP", f".I {_text(str(action.metavar or action.dest))}", _text(str(action.help)))
    yield ".SH OPTIONS"
    for title, flags in flag_groups(parser.flags).items():
        yield f".SS {_text(title)}"
        for flag in flags:
            yield from (".TP", _flag(flag), _text(help_of(flag)))
    yield from (".TP", '.BR \\-h ", " \\-\\-help', "show a summary of these")
    if parser.epilog:
        yield from (".SH NOTES", ".EX", *map(_text, parser.epilog.splitlines()), ".EE")
    yield from (".SH EXAMPLE", ".EX", *map(_text, EXAMPLES[name].splitlines()), ".EE")
    yield from (".SH SEE ALSO", _reference("hwsigner"))


def _about_client() -> Iterator[str]:
    """The page of the program in C."""
    yield from (".SH SYNOPSIS", ".B hwsigner\\-credentials", ".RB [ \\-\\-profile", ".IR NAME ]", ".SH DESCRIPTION")
    yield from map(_text, _CLIENT)
    yield from (
        ".SH OPTIONS",
        ".TP",
        '.BI \\-\\-profile " NAME"',
        _text("the profile of config.toml (default: default)"),
    )
    for heading in ("EXIT STATUS", "ENVIRONMENT", "FILES"):
        yield f".SH {heading}"
        for term, meaning in _CLIENT_TABLES[heading].items():
            yield from (".TP", f".B {_text(term)}", _text(meaning))
    yield from (".SH EXAMPLE", _text("In ~/.aws/config:"), ".PP", ".EX", *map(_text, _CLIENT_EXAMPLE), ".EE")
    yield from (".SH SEE ALSO", ".BR hwsigner\\-agent (1),", _reference("hwsigner-credential-process"))


def _page_of(name: str) -> str:
    """Return what `hwsigner help` needs to print the page about a command."""
    first = name.partition(" ")[0]
    return name if page_of(name) in names() else first if first in names() else "commands"


def _title(name: str) -> str:
    return f"hwsigner-{name.replace(' ', '-')}"


def _reference(title: str) -> str:
    return f".BR {_text(title)} (1)"


def _flag(flag: Flag) -> str:
    name = _text(f"--{flag.name}")
    return f'.BI {name} " {_text(flag.metavar)}"' if flag.metavar else f".B {name}"


def _text(text: str) -> str:
    """Return text such that it is shown as it is."""
    special = {"\\": "\\e", "-": "\\-", "^": "\\(ha", "~": "\\(ti", "`": "\\(ga", "'": "\\(aq", '"': "\\(dq"}
    shown = "".join(special.get(c, c if c.isascii() else f"\\[u{ord(c):04X}]") for c in text)
    return f"\\&{shown}" if shown.startswith(".") else shown


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in pages():
        (folder / file).write_text(content, "ascii")
