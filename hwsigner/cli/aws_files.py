"""What the AWS SDKs' files say of the default profile: where it has credentials, the SDKs look no further."""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_GIVING = ("aws_access_key_id", "credential_process", "role_arn", "sso_account_id", "web_identity_token_file")


def find_default_credentials(environ: Mapping[str, str]) -> str | None:
    """Return which setting gives the default profile credentials, and in which file; None if none does."""
    for path in _files(environ):
        parser = configparser.RawConfigParser(strict=False, default_section="")
        try:
            parser.read_string(path.read_text())
        except (OSError, ValueError, configparser.Error):
            continue  # What it is worth, the SDK will say.
        found = next((key for key in _GIVING if parser.has_option("default", key)), None)
        if found:
            return f"{found} in [default] of {path}"
    return None


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    home = environ.get("HOME") or os.path.expanduser("~")
    for variable, name in (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config")):
        yield Path(environ.get(variable) or os.path.join(home, ".aws", name)).expanduser()
