"""Find credentials of the default profile in the AWS SDKs' files. The SDKs prefer them to a container endpoint."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_CREDENTIAL_SETTINGS = (
    "aws_access_key_id",
    "credential_process",
    "login_session",
    "role_arn",
    "sso_account_id",
    "web_identity_token_file",
)
_CREDENTIALS_SECTION = re.compile("default")
# If both are there, botocore uses the last one, and other SDKs the longer name.
_CONFIG_SECTION = re.compile(r"""default|profile\s+(["']?)default\1\s*""")


def find_default_credentials(environ: Mapping[str, str]) -> str | None:
    """Return the setting that gives the default profile credentials, with section and file; None if none does."""
    for path, section in _files(environ):
        parser = configparser.RawConfigParser(strict=False)
        try:
            if path.is_file():  # Leave a pipe to the command.
                parser.read_string(path.read_text())
        except (OSError, ValueError, configparser.Error):
            continue  # The SDK will report it.
        for name in filter(section.fullmatch, parser.sections()):
            found = next((key for key in _CREDENTIAL_SETTINGS if parser.has_option(name, key)), None)
            if found:
                return f"{found} in [{name}] of {path}"
    return None


def _files(environ: Mapping[str, str]) -> Iterator[tuple[Path, re.Pattern[str]]]:
    """Yield each file, with a pattern for the name of its default section."""
    home = environ.get("HOME") or os.path.expanduser("~")
    for variable, name, section in (
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", _CREDENTIALS_SECTION),
        ("AWS_CONFIG_FILE", "config", _CONFIG_SECTION),
    ):
        yield Path(os.path.expanduser(environ.get(variable) or os.path.join(home, ".aws", name))), section
