"""What argparse is for: it parses the arguments that are not flags, and writes the help."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any, NoReturn

from hwsigner.errors import UsageError


class Positionals(argparse.ArgumentParser):
    """argparse's parser of a command's arguments that are not flags.

    `arguments` has what `add_argument` takes for each of them.
    """

    def __init__(self, prog: str, hint: str, arguments: Iterable[tuple[tuple[str, ...], dict[str, Any]]]) -> None:
        super().__init__(prog, allow_abbrev=False, add_help=False)
        group = self.add_argument_group("Arguments")
        self.positionals = [group.add_argument(*names, **settings) for names, settings in arguments]
        self._hint = hint

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message as a UsageError."""
        _, is_missing, names = message.partition("the following arguments are required: ")
        if is_missing:
            usage = " ".join([self.prog, *(str(each.metavar) for each in self.positionals)])
            raise UsageError(f"{names} {'are' if ', ' in names else 'is'} missing", f"Write {usage}")
        raise UsageError(message, self._hint)
