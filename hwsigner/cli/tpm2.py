"""`hwsigner tpm2 encode`: write the key file of a TPM, from the parts that tpm2-tools leave in files."""

from __future__ import annotations

import argparse

from hwsigner.cli.parser import Parser
from hwsigner.errors import UsageError
from hwsigner.flags import IDENTITY, Flag, switch
from hwsigner.tpm_key_file import TPMKeyParts, encode_tpm_key

HELP = "write a TPM's key file from the parts that tpm2-tools made"

_MAX_BYTES = 65536
_PARTS = (
    Flag("public", "the public area, as tpm2_create -u writes it", "FILE"),
    Flag("private", "the private area, as tpm2_create -r or tpm2_duplicate -r writes it", "FILE"),
    Flag("seed", "of a key to import, the seed as tpm2_duplicate -s writes it", "FILE"),
    Flag("parent", "owner, endorsement, platform, null or a persistent handle", "PARENT", default="owner"),
    switch("auth", "the key has an auth value"),
    Flag(
        "policy",
        "a step of the key's policy: pcr:sha256:0,7 or auth-value; repeatable, in their order",
        "STEP",
        many=True,
    ),
    Flag("description", "what people call the key; tpm2-openssl 1.3 does not read a file with one", "TEXT"),
)


def add_arguments(parser: Parser) -> None:
    """Add what to do, and the parts."""
    parser.add_argument("action", metavar="encode", help="print the key file as PEM")
    parser.add_flags(_PARTS, [flag for flag in IDENTITY if flag.name in ("tcti", "debug", "strict")])


def run(arguments: argparse.Namespace) -> int:
    """Print the key file."""
    if arguments.action != "encode":
        raise UsageError(f"tpm2 has no action {arguments.action[:40]!r}", "Write hwsigner tpm2 encode <flags>")
    parts = TPMKeyParts(
        public=_read(arguments, "public"),
        private=_read(arguments, "private"),
        seed=_read(arguments, "seed") if arguments.seed else b"",
        parent=arguments.parent or "owner",
        has_auth=arguments.auth,
        policy=tuple(arguments.policy),
        description=arguments.description or "",
        tcti=arguments.tcti,
    )
    print(encode_tpm_key(parts), end="")
    return 0


def _read(arguments: argparse.Namespace, name: str) -> bytes:
    path = getattr(arguments, name)
    if not path:
        raise UsageError(f"no --{name} is given", "tpm2_create -u PUBLIC -r PRIVATE writes both parts of a key")
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES)
    except OSError as error:
        raise UsageError(f"can't read the --{name} file {path}: {error.strerror}", "Check the path") from error
