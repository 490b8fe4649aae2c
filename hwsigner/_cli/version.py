"""`hwsigner version`: print the version; with `--verbose`, also what hwsigner runs on."""

from __future__ import annotations

import json
from typing import Any

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config.flags import OUTPUT, switch
from hwsigner._version import __version__

HELP = "print the version"

_LIBRARIES = ("cryptography", "python-pkcs11", "tpm2-pytss", "requests")


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(
        [switch("verbose", "also show the canonicalisation in use and the versions of Python and libraries")], OUTPUT
    )


def run(arguments: Arguments) -> int:
    """Print the version; with --verbose, also a line `NAME: VALUE` for each component; or all as JSON."""
    if arguments.json:
        print(json.dumps({"version": __version__, **_components()}, indent=2))
        return 0
    print(__version__)
    if arguments.verbose:
        found = _components()
        print(f"canonicalisation: {found['canonicalisation']}")
        print(f"Python: {found['python']}")
        for library, version in found["libraries"].items():
            print(f"{library}: {version or 'not installed'}")
    return 0


def _components() -> dict[str, Any]:
    import platform

    from hwsigner.sigv4.canonical import describe_implementation

    return {
        "canonicalisation": describe_implementation(),
        "python": platform.python_version(),
        "libraries": {library: _version(library) for library in _LIBRARIES},
    }


def _version(library: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
