"""The command line: `hwsigner COMMAND …`. One module a command, imported when it runs."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwsigner.cli.process import abandon_stdout, tell
from hwsigner.errors import HwsignerError, HwsignerWarning, UsageError
from hwsigner.pins import sources as pin_sources
from hwsigner.system import notices
from hwsigner.system import stderr as chatter

if TYPE_CHECKING:
    import argparse
    from types import ModuleType

COMMANDS = {
    "credential-process": "hwsigner.cli.credential_process",
    "serve": "hwsigner.cli.serve",
    "exec": "hwsigner.cli.exec",
    "update": "hwsigner.cli.update",
    "agent": "hwsigner.cli.agent",
    "sign-string": "hwsigner.cli.sign_string",
    "read-certificate-data": "hwsigner.cli.read_certificate_data",
    "list": "hwsigner.cli.list",
    "profile": "hwsigner.cli.profile",
    "systemd": "hwsigner.cli.systemd",
    "emulator": "hwsigner.cli.emulator",
    "version": "hwsigner.cli.version",
}
_INTERRUPTED = 130
# What a write to stdout fails with; other files' errors are wrapped where they are opened.
_OUTPUT_ERRORS = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def entry_point() -> int:
    """Run a command as the whole of a process; see `main`."""
    # A process of a tenth of a second gains nothing from collecting garbage, and loses some 15 ms, most at its end.
    gc.disable()
    status = main()
    gc.freeze()
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; errors go to stderr, one line each.

    0 done · 1 any other failure · 2 usage · 3 key or PIN · 4 certificate · 5 the service refused · 6 the service could
    not be reached · 7 agent or lock · 130 interrupted.
    """
    _forbid_core_dumps()
    pin_sources.forget()
    pin_sources.take_environment_pin()
    try:
        if sys.stdout is None:
            raise HwsignerError("stdout is closed", "Leave it open: what a command prints goes there")
        status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return status
    except (HwsignerError, HwsignerWarning) as error:
        tell(str(error))
        return error.exit_status
    except KeyboardInterrupt as interruption:
        from hwsigner.cli.process import clear_up

        clear_up(interruption)
        return _INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OUTPUT_ERRORS and error.filename is None:
            abandon_stdout()
            tell(f"can't write to stdout: {error.strerror}. Look where it leads to")
        else:
            # The last resort: a traceback could show a secret.
            tell(f"internal error: {_place(error)}. Please report it")
        return 1


def _run(arguments: Sequence[str]) -> int:
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("--help", "-h", "help"):
        print(_help())
        return 0
    if name == "--version":
        name = "version"
    from hwsigner.cli.parser import Parser, near

    if name not in COMMANDS:
        # Without what follows `=`, which may be a password.
        word = name.partition("=")[0]
        raise UsageError(f"there is no command {word!r}", near(word, COMMANDS, f"Commands: {', '.join(COMMANDS)}"))
    command = importlib.import_module(COMMANDS[name])
    parser = Parser(name, command.HELP)
    command.add_arguments(parser)
    try:
        given = parser.parse(rest)
    except SystemExit:
        return 0  # --help has been printed.
    # A command may be done before config.toml is read.
    status: int | None = command.run_given(given) if hasattr(command, "run_given") else None
    return _run_completed(command, parser.complete(given)) if status is None else status


def _run_completed(command: ModuleType, parsed: argparse.Namespace) -> int:
    from hwsigner.cli.options import warn_of_secrets
    from hwsigner.pins.terminal import tell_person

    chatter.silence(on=not getattr(parsed, "debug", False))
    notices.tell_by(tell_person, interrupted=_INTERRUPTED)
    with warnings.catch_warnings():
        _show_warnings(strict=getattr(parsed, "strict", False))
        warn_of_secrets(parsed)
        status: int = command.run(parsed)
    return status


def _help() -> str:
    rows = [f"  {name:<22} {importlib.import_module(module).HELP}" for name, module in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hwsigner COMMAND [flags]",
            "",
            "AWS credentials from keys that never leave the hardware.",
            "",
            *rows,
            "",
            "hwsigner COMMAND --help shows a command's flags.",
        ]
    )


def _show_warnings(*, strict: bool) -> None:
    # The warnings of libraries are for those who write programs with them.
    warnings.simplefilter("ignore")
    warnings.simplefilter("error" if strict else "always", HwsignerWarning)
    warnings.showwarning = lambda message, *_: tell(f"warning: {message}")


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    where = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{where}"


def _forbid_core_dumps() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
