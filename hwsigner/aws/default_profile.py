"""What the AWS SDKs' files say of the default profile: where it has credentials, the SDKs look no further."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_GIVING = (
    "aws_access_key_id",
    "credential_process",
    "login_session",
    "role_arn",
    "sso_account_id",
    "web_identity_token_file",
)
_CREDENTIALS_SECTION = re.compile("default")
# Of two, botocore takes the last one, and other SDKs the longer one.
_CONFIG_SECTION = re.compile(r"""default|profile\s+(["']?)default\1\s*""")


def find_default_credentials(environ: Mapping[str, str]) -> str | None:
    """Return which setting gives the default profile credentials, and in which file; None if none does."""
    for path, section in _files(environ):
        parser = configparser.RawConfigParser(strict=False)
        try:
            if path.is_file():  # A pipe is the command's to read.
                parser.read_string(path.read_text())
        except (OSError, ValueError, configparser.Error):
            continue  # What it is worth, the SDK will say.
        for name in filter(section.fullmatch, parser.sections()):
            found = next((key for key in _GIVING if parser.has_option(name, key)), None)
            if found:
                return f"{found} in [{name}] of {path}"
    return None


def _files(environ: Mapping[str, str]) -> Iterator[tuple[Path, re.Pattern[str]]]:
    """Yield each file, and how its section of the default profile may be called."""
    home = environ.get("HOME") or os.path.expanduser("~")
    for variable, name, section in (
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", _CREDENTIALS_SECTION),
        ("AWS_CONFIG_FILE", "config", _CONFIG_SECTION),
    ):
        yield Path(os.path.expanduser(environ.get(variable) or os.path.join(home, ".aws", name))), section
