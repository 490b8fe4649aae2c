"""The command line: `hwsigner COMMAND …`. Each command is a module, imported only when it runs."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwsigner._cli import process
from hwsigner._pins import sources as pin_sources
from hwsigner._system import memory, notices
from hwsigner.errors import HwsignerError, HwsignerWarning, NoProfileError, UsageError, place_of, suggestion

if TYPE_CHECKING:
    from hwsigner._cli.parser import Arguments, CommandModule, Parser

COMMANDS = {
    "credential-process": "hwsigner._cli.credential_process",
    "serve": "hwsigner._cli.serve",
    "exec": "hwsigner._cli.exec",
    "update": "hwsigner._cli.update",
    "agent": "hwsigner._cli.agent",
    "sign-string": "hwsigner._cli.sign_string",
    "read-certificate-data": "hwsigner._cli.read_certificate_data",
    "list": "hwsigner._cli.list",
    "status": "hwsigner._cli.status",
    "whoami": "hwsigner._cli.whoami",
    "console": "hwsigner._cli.console",
    "doctor": "hwsigner._cli.doctor",
    "keygen": "hwsigner._cli.keygen",
    "csr": "hwsigner._cli.csr",
    "install-certificate": "hwsigner._cli.install_certificate",
    "enroll": "hwsigner._cli.enroll",
    "renew": "hwsigner._cli.renew",
    "show": "hwsigner._cli.show",
    "delete": "hwsigner._cli.delete",
    "attest": "hwsigner._cli.attest",
    "verify-attestation": "hwsigner._cli.verify_attestation",
    "registrar": "hwsigner._cli.registrar.serve",
    "registrar allow": "hwsigner._cli.registrar.allow",
    "registrar remove": "hwsigner._cli.registrar.remove",
    "registrar list": "hwsigner._cli.registrar.list",
    "registrar rotate-keys": "hwsigner._cli.registrar.rotate_keys",
    "aws principal-tags": "hwsigner._cli.aws.principal_tags",
    "aws trust-policy": "hwsigner._cli.aws.trust_policy",
    "aws template": "hwsigner._cli.aws.template",
    "aws setup": "hwsigner._cli.aws.setup",
    "aws check": "hwsigner._cli.aws.check",
    "aws revoke": "hwsigner._cli.aws.revoke",
    "profile": "hwsigner._cli.profile",
    "migrate": "hwsigner._cli.migrate",
    "retire": "hwsigner._cli.retire",
    "systemd": "hwsigner._cli.systemd",
    "launchd": "hwsigner._cli.launchd",
    "completion": "hwsigner._cli.completion",
    "emulator": "hwsigner._cli.emulator",
    "version": "hwsigner._cli.version",
}
_GROUPS = {name.partition(" ")[0] for name in COMMANDS if " " in name}
_INTERRUPTED = 130
_OUR_OWN = ("", "hwsigner")  # What an ImportError names if it is a fault of ours.
_READER_LEFT = 141  # As of a program that SIGPIPE ends.
# Errors of writing to stdout. Errors of other files become HwsignerErrors where they are opened.
_OUTPUT_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def entry_point() -> int:
    """Run a command, as `main` does, in a process of its own, which other programs can't read."""
    memory.forbid_dumps()
    # Collecting garbage would cost a process of 100 ms some 10 ms. Commands that stay enable it.
    gc.disable()
    statuses: list[int] = []
    atexit.register(_leave, statuses)
    statuses.append(main())
    return statuses[0]


def _leave(statuses: Sequence[int]) -> None:
    """End the process without tearing down its modules, which takes 3 ms. The other exit handlers have run."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    if statuses:
        os._exit(statuses[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Errors go to stderr, one line each.

    Args:
        arguments: the command and its flags; None for those of this process.

    Returns:
        The exit status: 0 done, 1 any other failure, 2 usage, 3 key or PIN, 4 certificate, 5 the service refused,
        6 the service was not reached, 7 agent or lock, 130 interrupted, 141 the reader of the output has gone.
    """
    pin_sources.forget()
    pin_sources.take_environment_pin()
    process.report_to(None)
    try:
        if sys.stdout is None:
            raise HwsignerError("stdout is closed", "Leave it open for the command's output")
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # For a path that the locale has no characters for.
        status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return status
    except (HwsignerError, HwsignerWarning) as error:
        process.report(str(error))
        process.discard_frames(error.__context__)  # Of an interrupt whose place the error takes.
        return error.exit_status
    except KeyboardInterrupt as interruption:
        process.discard_frames(interruption)
        return _INTERRUPTED
    except BrokenPipeError:  # As in `hwsigner list | head -1`: the reader has seen enough, and expects no error.
        process.abandon_stdout()
        return _READER_LEFT
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OUTPUT_ERRORS and error.filename is None:
            process.abandon_stdout()
            process.report(f"can't write to stdout: {error.strerror}. Check where the output goes")
        elif isinstance(error, FileNotFoundError) and _is_working_folder_gone():
            process.report("the working folder was deleted. Change to another folder")
        elif isinstance(error, ImportError) and (library := (error.name or "").partition(".")[0]) not in _OUR_OWN:
            hint = "Install hwsigner in a virtual environment of its own, as hwsigner help install says"
            problem = f"the Python library {library} is missing or too old: {error.msg}"
            process.report(str(HwsignerError(problem, hint)))
        else:
            # No traceback: it could show a secret.
            process.report(f"internal error: {place_of(error)}. Please report it")
        return 1


def _is_working_folder_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _run(arguments: Sequence[str]) -> int:
    name, rest = _split(arguments)
    if name in ("--help", "-h", "help"):
        _print_help(_split(rest)[0] if name == "help" and rest else None, alone=not arguments)
        return 0
    if name == "--version":
        name = "version"
    if name in _GROUPS - COMMANDS.keys() and rest[:1] in ([], ["--help"], ["-h"]):
        from hwsigner._cli.help import overview_of

        print(overview_of(name, COMMANDS))
        return 0
    if name not in COMMANDS or (name in _GROUPS and rest and not rest[0].startswith("-")):
        raise _unknown(name, rest)
    command, parser = command_parser(name)
    try:
        given = parser.parse(rest)
    except SystemExit:
        return 0  # --help has been printed.
    notices.set_notifier(notices.show_on_terminal, process.ExitOnInterrupt(_INTERRUPTED))
    # credential-process asks the agent before it reads config.toml.
    if parser.run_before_profile and parser.run_before_profile(given):
        return 0
    try:
        completed = parser.complete(given)
    except NoProfileError:
        if parser.run_without_profile and parser.run_without_profile(given):
            return 0
        raise
    return _run_completed(command, completed)


def command_parser(name: str) -> tuple[CommandModule, Parser]:
    """Return the module of a command and the parser of its arguments."""
    from hwsigner._cli.parser import Parser

    command: CommandModule = importlib.import_module(COMMANDS[name])
    parser = Parser(name, command.HELP)
    command.add_arguments(parser)
    return command, parser


def _unknown(name: str, rest: Sequence[str]) -> UsageError:
    """Return the error for a command that there is not. `rest` may be the second word of one of a group."""
    is_group = name in _GROUPS
    # What follows `=` may be a password.
    word = (f"{name} {rest[0]}" if is_group and rest else name).partition("=")[0]
    if word.startswith("-"):
        hint = suggestion(word, ("--help", "--version"), "Write the command first: hwsigner COMMAND [flags]")
        return UsageError(f"{word} is not a command", hint)
    known = [each for each in COMMANDS if each.startswith(f"{name} ")] if is_group else [*COMMANDS, *_GROUPS]
    listed = f"hwsigner {name} --help" if is_group else "hwsigner --help"
    return UsageError(f"unknown command {word!r}", suggestion(word, known, f"See {listed}"))


def _split(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the command's name, of one or two words, and the rest. Without any arguments, the command is --help."""
    if not arguments:
        return "--help", []
    two = " ".join(arguments[:2])
    return (two, arguments[2:]) if two in COMMANDS else (arguments[0], arguments[1:])


def _run_completed(command: CommandModule, parsed: Arguments) -> int:
    from hwsigner._config.settings import warn_of_secrets

    notices.silence(on=not parsed.settings.debug)
    process.let_ask(parsed.settings)
    with warnings.catch_warnings():
        _show_warnings(strict=parsed.settings.strict)
        warn_of_secrets(parsed.settings, given={flag.name for flag, _ in parsed.given}, exposed=parsed.exposed)
        return command.run(parsed)


def _print_help(name: str | None, *, alone: bool) -> None:
    """Print a command's flags and the page of its name; or the commands, or what to do next if `alone`."""
    from hwsigner._cli.help import next_steps, overview
    from hwsigner._cli.pages import names, names_without, page, page_of

    if name in (None, "--help", "-h"):
        print(next_steps(os.environ) if alone else overview(COMMANDS))
        return
    if name in COMMANDS or name in _GROUPS:
        _run([*name.split(), "--help"])
    elif name not in names():
        known = sorted({*COMMANDS, *names_without(COMMANDS)})
        raise UsageError(f"no help about {name[:40]!r}", suggestion(name, known, f"Use one of {', '.join(known)}"))
    if page_of(name) in names():
        print(page(page_of(name)))


def _show_warnings(*, strict: bool) -> None:
    # Warnings of libraries are for developers.
    warnings.simplefilter("ignore")
    warnings.simplefilter("error" if strict else "always", HwsignerWarning)
    warnings.showwarning = lambda message, *_: process.report(f"warning: {message}")
