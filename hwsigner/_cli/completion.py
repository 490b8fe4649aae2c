"""`hwsigner completion`: a script with which a shell completes commands, flags, files and the names of profiles."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from hwsigner._cli import COMMANDS, command_parser
from hwsigner._cli.flag_groups import help_of
from hwsigner._cli.help import ABOUT
from hwsigner._cli.pages import names
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config.flags import Flag
from hwsigner.errors import HwsignerError, UsageError, install_command, suggestion

HELP = "print a script for Tab completion in your shell"

_SHELLS = ("bash", "zsh", "fish")
_FILES = ("FILE", "PATH", "CERT", "KEY", "KEY-URI", "PROGRAM")
_WHERE = """\
In the shell's start file:
  ~/.bashrc                   eval "$(hwsigner completion bash)"
  ~/.zshrc, below compinit, if it is there
                              eval "$(hwsigner completion zsh)"
  ~/.config/fish/config.fish  hwsigner completion fish | source

Or in a file of its own, with which the shell starts faster:
  bash  ~/.local/share/bash-completion/completions/hwsigner
  zsh   _hwsigner, in a folder of $fpath
  fish  ~/.config/fish/completions/hwsigner.fish"""
# One name a line, and none with characters that a shell may act on. BSD's sed has no name for a tab.
_NAMES = "%s profile list 2>/dev/null | sed -n 's/^\\([A-Za-z0-9][A-Za-z0-9._@-]*\\)[[:blank:]].*/\\1/p'"
# What registers the script, which not everyone's zsh has loaded: on macOS, none has by default.
_COMPINIT = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }"
_FUNCTIONS = {
    "bash": '_hwsigner_profiles() {\n  compgen -W "$(%s)" -- "$1"\n}',
    "zsh": '_hwsigner_profiles() {\n  local -a found=(${(f)"$(%s)"})\n  compadd "$@" -a found\n}',
    "fish": "function _hwsigner_profiles\n  %s\nend",
}


def add_arguments(parser: Parser) -> None:
    """Add the shell, and say below the help what to do with the script."""
    parser.epilog = _WHERE
    parser.add_argument("shell", metavar="|".join(_SHELLS), help="the shell")


def run(arguments: Arguments) -> int:
    """Print the script. It asks `hwsigner profile list` for names when a key is pressed, and never looks at a token."""
    shell = arguments.shell
    if shell not in _SHELLS:
        problem = f"there is no completion for {shell[:40]!r}"
        raise UsageError(problem, suggestion(shell, _SHELLS, f"Use one of {', '.join(_SHELLS)}"))
    try:
        import shtab
    except ImportError as error:
        problem = f"hwsigner completion needs {error.name}"
        raise HwsignerError(problem, f"Run {install_command('completion')}") from error
    command = _NAMES % shlex.quote(_program())
    completions = {
        "profiles": {
            **dict.fromkeys(("bash", "zsh"), "_hwsigner_profiles"),
            "fish": "(_hwsigner_profiles)",
            "preamble": {name: function % command for name, function in _FUNCTIONS.items()},
        },
        "files": shtab.FILE,
        "folders": shtab.DIRECTORY,
    }
    script = shtab.complete(_tree(completions), shell)
    print(script.replace("\n", f"\n{_COMPINIT}\n", 1) if shell == "zsh" else script)  # Below its `#compdef`.
    return 0


def _program() -> str:
    """Return how to run this program: by its name, if that finds it, or by its path."""
    path = os.path.abspath(sys.argv[0])
    found = shutil.which("hwsigner")
    is_found = found is not None and os.path.samefile(path, found)
    return "hwsigner" if is_found or os.path.basename(path) != "hwsigner" else path


def _tree(completions: Mapping[str, Any]) -> argparse.ArgumentParser:
    """Return a parser of all commands, whose values know what completes them. It is not for parsing."""
    root = argparse.ArgumentParser("hwsigner", description=ABOUT)
    groups = {"": root.add_subparsers()}
    nodes: dict[str, argparse.ArgumentParser] = {}
    for name in sorted(COMMANDS):
        group, _, last = name.rpartition(" ")
        if group not in groups:
            node = nodes[group] if group in nodes else groups[""].add_parser(group, help=f"commands of {group}")
            groups[group] = node.add_subparsers(prog=f"hwsigner {group}")
        command, parser = command_parser(name)
        nodes[name] = groups[group].add_parser(last, help=command.HELP, description=command.HELP, add_help=False)
        _add_arguments(nodes[name], parser, completions)
    about = groups[""].add_parser("help", help="print a command's flags, or a page of the docs", add_help=False)
    about.add_argument("page", choices=sorted({*(name.partition(" ")[0] for name in COMMANDS), *names()}))
    return root


def _add_arguments(node: argparse.ArgumentParser, parser: Parser, completions: Mapping[str, Any]) -> None:
    """Add a command's arguments to its node of the tree."""
    for found in parser.positionals:
        metavar = str(found.metavar or found.dest)
        choices = metavar.split("|") if "|" in metavar else None
        added = node.add_argument(found.dest, metavar=metavar, nargs=found.nargs, choices=choices, help=found.help)
        kind = "profiles" if found.dest in ("name", "names") else "files" if choices is None else ""
        _complete(added, completions.get(kind))
    for flag in parser.flags:
        settings: dict[str, Any] = {"action": "store_true"}
        if flag.metavar:
            settings = {"metavar": flag.metavar, "choices": getattr(flag.convert, "choices", None)}
        added = node.add_argument(f"--{flag.name}", help=help_of(flag).replace("%", "%%"), **settings)
        _complete(added, completions.get(_kind(flag)))
    node.add_argument("--help", action="store_true", help="show this command's help")


def _kind(flag: Flag) -> str:
    """Return what completes a flag's value: profiles, files, folders or nothing."""
    # The --profile of `update`, which has a default, is a section of an AWS file.
    if flag.names_profile or (flag.name == "profile" and flag.default is None):
        return "profiles"
    return "folders" if flag.metavar == "DIR" else "files" if flag.metavar in _FILES else ""


def _complete(action: argparse.Action, completion: object) -> None:
    """Say how shtab completes a value."""
    if completion is not None:
        action.complete = completion  # type: ignore[attr-defined]
