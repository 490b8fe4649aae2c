"""Find credentials of the default profile in the AWS SDKs' files. The SDKs prefer them to a container endpoint."""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping

from hwsigner.aws.config_file import config_path, credentials_path
from hwsigner.system.files import read_text

_CREDENTIAL_SETTINGS = (
    *("aws_access_key_id", "credential_process", "login_session", "role_arn", "sso_account_id"),
    "web_identity_token_file",
)
_CREDENTIALS_SECTION = re.compile("default")
# If both are there, botocore uses the last one, and other SDKs the longer name.
_CONFIG_SECTION = re.compile(r"""default|profile\s+(["']?)default\1\s*""")


def find_default_credentials(environ: Mapping[str, str]) -> str | None:
    """Return the setting that gives the default profile credentials, with section and file; None if none does."""
    for path, section in ((credentials_path(environ), _CREDENTIALS_SECTION), (config_path(environ), _CONFIG_SECTION)):
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(read_text(path)[0])
        except (OSError, ValueError, configparser.Error):
            continue  # The SDK will report it.
        for name in filter(section.fullmatch, parser.sections()):
            found = next((key for key in _CREDENTIAL_SETTINGS if parser.has_option(name, key)), None)
            if found:
                return f"{found} in [{name}] of {path}"
    return None
