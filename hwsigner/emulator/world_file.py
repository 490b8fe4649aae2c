"""A world read from a TOML file: tables [[trust_anchor]], [[profile]] and [[role]]."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hwsigner.emulator.arns import parse_arn
from hwsigner.emulator.world import Profile, Role, TrustAnchor, World, read_certificates
from hwsigner.errors import CertificateError, ConfigError

_KINDS: dict[str, dict[str, type]] = {
    "trust_anchor": {"arn": str, "certificates": list, "enabled": bool},
    "profile": {"arn": str, "roles": list, "duration_seconds": int, "accept_role_session_name": bool, "enabled": bool},
    "role": {"arn": str, "max_session_duration": int, "principal_tags": dict},
}
_REQUIRED = {"trust_anchor": {"arn", "certificates"}, "profile": {"arn", "roles"}, "role": {"arn"}}


def load_world(path: Path) -> World:
    """Read a world from a TOML file; paths of certificates are relative to the file.

    Raises:
        ConfigError: the file, or a file that it names, can't be read, or a key is unknown, missing or of the
            wrong type.
    """
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} can't be read as TOML: {error}", "See docs/emulator.md for an example") from error
    for key in document:
        if key not in {*_KINDS, "session_path"}:
            raise _bad(path, f"the unknown key {key}")
    anchors = [_trust_anchor(path, table) for table in _tables(path, document, "trust_anchor")]
    profiles = [Profile(**table) for table in _tables(path, document, "profile")]
    roles = [Role(**table) for table in _tables(path, document, "role")]
    return World(
        {each.arn: each for each in anchors},
        {each.arn: each for each in profiles},
        {each.arn: each for each in roles},
        session_path=_session_path(path, document),
    )


def _session_path(path: Path, document: dict[str, Any]) -> str:
    value = document.get("session_path", "/sessions")
    if not isinstance(value, str) or not value.startswith("/"):
        raise _bad(path, "a session_path that is no path")
    return value


def _tables(path: Path, document: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    tables = document.get(kind)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables) or not tables:
        raise _bad(path, f"no [[{kind}]] table")
    for table in tables:
        _check_table(path, kind, table)
    return tables


def _check_table(path: Path, kind: str, table: dict[str, Any]) -> None:
    for key, value in table.items():
        if key not in _KINDS[kind]:
            raise _bad(path, f"the unknown key {kind}.{key}")
        if type(value) is not _KINDS[kind][key] or not _holds_text(value):
            raise _bad(path, f"a value of the wrong type for {kind}.{key}")
    for key in sorted(_REQUIRED[kind] - set(table)):
        raise _bad(path, f"a [[{kind}]] without {key}")
    if not parse_arn(table["arn"], kind.replace("_", "-")):
        raise _bad(path, f"no ARN of a {kind.replace('_', ' ')} in {kind}.arn: {table['arn']}")


def _holds_text(value: object) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(isinstance(each, str) for each in items)


def _trust_anchor(path: Path, table: dict[str, Any]) -> TrustAnchor:
    certificates = []
    for name in table["certificates"]:
        try:
            certificates += read_certificates((path.parent / name).read_bytes())
        except (OSError, CertificateError) as error:
            raise _bad(path, f"a trust anchor's certificate that can't be read, {path.parent / name}") from error
    return TrustAnchor(table["arn"], certificates, table.get("enabled", True))


def _bad(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path} has {what}", "See docs/emulator.md for an example")
