"""Mistakes in the line of a `credential_process`, which no shell reads."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence

from hwsigner.cli import credential_process
from hwsigner.cli.parser import Parser
from hwsigner.config import settings
from hwsigner.config.profiles import is_system_file_hidden
from hwsigner.errors import ConfigError, NoProfileError, UsageError
from hwsigner.findings import Finding, local

_SHIMS = ("/shims/", "/.pyenv/bin/", "/.rbenv/bin/")
_COMMAND = "credential-process"


def check(line: str, where: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is wrong with the line in a section of a file."""
    if "\\" in line:
        yield local.PROCESS_BACKSLASH.found(f"credential_process in {where} has a backslash")
        return
    try:
        words = shlex.split(line)
    except ValueError:
        words = []
    if not words:
        yield local.PROCESS_MISSING.found(f"credential_process in {where} is empty, or a quote is not closed")
        return
    if any(word.startswith("~") or "=~" in word for word in words):
        yield local.PROCESS_TILDE.found(f"credential_process in {where} has a word with ~")
    if "$" in line:
        yield local.PROCESS_VARIABLE.found(f"credential_process in {where} has a $")
    program = words[0]
    if not program.startswith(("~", "$")):
        yield from _check_program(program, where)
    yield from _check_command(words, where, environ)


def _check_program(program: str, where: str) -> Iterator[Finding]:
    found = shutil.which(program)
    if "/" in program and not os.path.isabs(program):
        yield local.PROCESS_MISSING.found(f"{program}, which credential_process in {where} runs, is a relative path")
    elif found is None:
        text = f"{program}, which credential_process in {where} runs, is not there or not executable"
        yield local.PROCESS_MISSING.found(text)
    elif any(part in found for part in _SHIMS):
        text = f"{found}, which credential_process in {where} runs, is a version manager's shim"
        yield local.PROCESS_SHIM.found(text)


def _check_command(words: Sequence[str], where: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield whether a command line of hwsigner itself is wrong. Others are not known here."""
    name, *rest = words
    if os.path.basename(name) == "hwsigner-credentials":
        rest = [_COMMAND, *(rest or ["--profile", "default"])]
    elif os.path.basename(name) != "hwsigner" or rest[:1] == ["exec"]:
        return
    if rest[:1] != [_COMMAND]:
        text = f"credential_process in {where} runs hwsigner without the command {_COMMAND}"
        yield local.PROCESS_COMMAND.found(text, f"Write {name} {_COMMAND} --profile NAME")
    elif not {"-h", "--help"} & {*rest}:
        parser = Parser(_COMMAND, "")
        credential_process.add_arguments(parser)
        try:
            completed = parser.complete(parser.parse(rest[1:]), environ)
            if not (completed.profile or completed.config_profile):
                settings.service(completed.settings, environ)
        except NoProfileError as error:
            if not is_system_file_hidden():
                yield local.PROCESS_COMMAND.found(f"credential_process in {where}: {error.message}", error.hint)
        except ConfigError:
            pass  # It is a finding about that profile.
        except UsageError as error:
            yield local.PROCESS_COMMAND.found(f"credential_process in {where}: {error.message}", error.hint)
