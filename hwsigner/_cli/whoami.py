"""`hwsigner whoami`: the identity that AWS STS sees for a profile's credentials."""

from __future__ import annotations

import json
import os

from hwsigner._aws.apis import endpoint_of_variables
from hwsigner._aws.failures import translated
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config.flags import OUTPUT, Flag
from hwsigner._config.profiles import profiles
from hwsigner.errors import HwsignerError, HwsignerWarning, UsageError, install_command, printable_lines

HELP = "ask AWS STS for the identity of a profile's credentials"

_FIELDS = ("Arn", "Account", "UserId")


def add_arguments(parser: Parser) -> None:
    """Add the profile and the flags."""
    parser.add_flags([Flag("profile", "profile of config.toml", "NAME")], OUTPUT)


def run(arguments: Arguments) -> int:
    """Print the caller's ARN, account and user ID, as sts:GetCallerIdentity returns them."""
    name = arguments.profile or os.environ.get("HWSIGNER_PROFILE")
    if not name:
        raise UsageError("no profile was given", "Add --profile NAME")
    try:
        from hwsigner import boto3
    except ImportError as error:
        raise HwsignerError(f"hwsigner whoami needs {error.name}", f"Run {install_command('aws')}") from error

    try:
        with translated("sts:GetCallerIdentity", ""):
            session = boto3.session(name, region_name=_region(name))
            found = session.client("sts", endpoint_url=endpoint_of_variables("sts")).get_caller_identity()
    except HwsignerError as error:
        # Without credentials, botocore's error was caused by ours, which has the exit status.
        inner = error.__cause__ and error.__cause__.__cause__
        if isinstance(inner, HwsignerError | HwsignerWarning):
            raise inner.with_traceback(None) from None
        raise
    if arguments.json:
        print(json.dumps({field: found[field] for field in _FIELDS}, indent=2))
    else:
        print(printable_lines(f"{field:<8} {found[field]}" for field in _FIELDS))
    return 0


def _region(name: str) -> str | None:
    """Return the region of a profile's trust anchor; None if this user can't read the profile, or it names none."""
    found = profiles(os.environ).get(name)
    parts = str(found.values.get("trust-anchor-arn", "")).split(":") if found else []
    return parts[3] if len(parts) > 3 else None
