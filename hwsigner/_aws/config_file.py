"""Where the AWS SDKs' files are, and the settings that also apply to CreateSession: its endpoint, CAs and attempts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from hwsigner._system.environment import home_folder
from hwsigner._system.files import check_not_writable_by_others, read_text
from hwsigner.errors import ConfigError

if TYPE_CHECKING:
    from configparser import RawConfigParser

_NAMES = (
    *("endpoint_url", "ca_bundle", "max_attempts", "ignore_configured_endpoint_urls"),
    *("use_fips_endpoint", "use_dualstack_endpoint"),
)
_CREDENTIAL_SETTINGS = (
    *("aws_access_key_id", "credential_process", "login_session", "role_arn", "sso_account_id"),
    "web_identity_token_file",
)
_CREDENTIALS_SECTION = re.compile("default")
# If both are there, botocore uses the last one, and other SDKs the longer name.
_CONFIG_SECTION = re.compile(r"""default|profile\s+(["']?)default\1\s*""")


class Setting:
    """A setting that is not empty, its place for messages, such as `max_attempts in [default] of /home/a/.aws/config`,
    and the path of its file with the status when it was read.
    """

    def __init__(self, value: str, source: str, file: tuple[str, os.stat_result]) -> None:
        self.value: Final = value
        self.source: Final = source
        self.file: Final = file

    def trusted(self) -> str:
        """Return the value of a setting that decides which servers are trusted.

        Raises a ConfigError if other users can write the file.
        """
        check_not_writable_by_others(*self.file, ConfigError)
        return self.value


def config_path(environ: Mapping[str, str]) -> str:
    """Return the path of the config file, which need not exist: AWS_CONFIG_FILE, or else `~/.aws/config`."""
    path = environ.get("AWS_CONFIG_FILE")
    if not path:
        return os.path.join(home_folder(environ), ".aws", "config")
    return os.path.expanduser(os.path.expandvars(path))


def credentials_path(environ: Mapping[str, str]) -> str:
    """Return the path of the credentials file, which need not exist.

    It is AWS_SHARED_CREDENTIALS_FILE, with `~` and variables expanded as in botocore, or else `~/.aws/credentials`.
    """
    path = environ.get("AWS_SHARED_CREDENTIALS_FILE")
    if not path:
        return os.path.join(home_folder(environ), ".aws", "credentials")
    return os.path.expanduser(os.path.expandvars(path))


def read_config(environ: Mapping[str, str]) -> dict[str, Setting]:
    """Return the settings by name.

    They are those of `[profile NAME]` with the name in AWS_PROFILE, else AWS_DEFAULT_PROFILE, else of `[default]`. A
    `services` section that the profile names may have another `endpoint_url` for `rolesanywhere`. If the file can't be
    read or parsed, there are none, as in the SDKs. Nor if it has more than 16 MiB. AWS_CONFIG_FILE is the file's path;
    the default is `~/.aws/config`.
    """
    path = config_path(environ)
    try:
        text, status = read_text(path, "utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return {}
    lowered = text.lower()
    if not any(name in lowered for name in _NAMES):  # Most files: importing and running the parser takes 2 ms.
        return {}
    profile = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or "default"
    return {
        name: Setting(value, f"{name} in [{section}] of {path}", (path, status))
        for name, section, value in _find(text, profile)
    }


def _find(text: str, profile: str) -> Iterator[tuple[str, str, str]]:
    """Yield the name, section and value of each setting. If a name comes twice, the last one applies."""
    from configparser import Error, RawConfigParser

    parser = RawConfigParser(strict=False)
    try:
        parser.read_string(text)
    except Error:
        return
    plain = ["default"] if profile == "default" else []
    for section in [name for name in (*plain, *_sections(parser, "profile", profile)) if parser.has_section(name)]:
        values = {name: _value(parser.get(section, name)) for name in parser.options(section)}
        yield from ((name, section, values[name]) for name in _NAMES if values.get(name))
        for services in _sections(parser, "services", values.get("services", "")):
            nested = parser.get(services, "rolesanywhere", fallback="")
            for line in nested.split("\n")[1:]:
                name, _, value = line.partition("=")
                if name.strip() == "endpoint_url" and _value(value):
                    yield "endpoint_url", services, _value(value)


def _sections(parser: RawConfigParser, kind: str, name: str) -> Iterator[str]:
    import shlex

    for section in parser.sections():
        if section.startswith(kind):
            try:
                is_found = shlex.split(section)[1:] == [name]  # As botocore does.
            except ValueError:
                continue
            if is_found:
                yield section


def _value(text: str) -> str:
    """Return a value without a comment, which some SDKs allow."""
    return re.split(r"(?:^|\s)[#;]", text)[0].strip()


def find_default_credentials(environ: Mapping[str, str]) -> str | None:
    """Return the setting that gives the default profile credentials, with section and file; None if none does.

    The SDKs prefer them to a container endpoint.
    """
    from configparser import Error, RawConfigParser

    for path, section in ((credentials_path(environ), _CREDENTIALS_SECTION), (config_path(environ), _CONFIG_SECTION)):
        parser = RawConfigParser(strict=False)
        try:
            parser.read_string(read_text(path)[0])
        except (OSError, ValueError, Error):
            continue  # The SDK will report it.
        for name in filter(section.fullmatch, parser.sections()):
            found = next((key for key in _CREDENTIAL_SETTINGS if parser.has_option(name, key)), None)
            if found:
                return f"{found} in [{name}] of {path}"
    return None
