"""`hwsigner version`: print the version; with `--verbose`, also what hwsigner runs on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from hwsigner._version import __version__
from hwsigner.cli.parser import Parser
from hwsigner.config.flags import switch

HELP = "print the version"

_LIBRARIES = ("cryptography", "python-pkcs11", "tpm2-pytss", "requests")


def add_arguments(parser: Parser) -> None:
    """Add the flag."""
    parser.add_flags(
        [switch("verbose", "also show the canonicalisation in use and the versions of Python and libraries")]
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the version; with --verbose, also a line `NAME: VALUE` for each component."""
    print(__version__)
    if arguments.verbose:
        for line in _lines():
            print(line)
    return 0


def _lines() -> Iterator[str]:
    import platform

    from hwsigner.sigv4.canonical import describe_implementation

    yield f"canonicalisation: {describe_implementation()}"
    yield f"Python: {platform.python_version()}"
    for library in _LIBRARIES:
        yield f"{library}: {_version(library)}"


def _version(library: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"
