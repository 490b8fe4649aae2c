"""A world read from a TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hwsigner.emulator.arns import parse_alias_arn, parse_arn
from hwsigner.emulator.iam_policies import check_form
from hwsigner.emulator.refusals import RefusalError
from hwsigner.emulator.resources import Profile, Role, TrustAnchor
from hwsigner.emulator.world import World, read_certificates
from hwsigner.errors import CertificateError, ConfigError
from hwsigner.trust_policy import TrustPolicy

_KEYS: dict[str, dict[str, type]] = {
    "trust_anchor": {"arn": str, "certificates": list, "enabled": bool, "name": str, "alias": str},
    "profile": {
        "arn": str,
        "roles": list,
        "duration_seconds": int,
        "accept_role_session_name": bool,
        "enabled": bool,
        "attribute_mappings": dict,
        "name": str,
        "alias": str,
    },
    "role": {"arn": str, "max_session_duration": int, "principal_tags": dict, "trust_policy": str},
}
_HIGHEST_RATE = 1_000_000
_REQUIRED = {"trust_anchor": {"arn", "certificates"}, "profile": {"arn", "roles"}, "role": {"arn"}}


def read_trust_policy(path: Path) -> TrustPolicy:
    """Read a trust policy from a JSON file.

    One that the emulator does not know, or that IAM refuses, is a ConfigError.
    """
    try:
        policy = TrustPolicy(path.read_bytes())
        check_form(policy.document)
        return policy
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}", "Give a JSON file with a trust policy") from error
    except ValueError as error:
        raise ConfigError(f"{path} can't be read: {error}", "Give a path without NUL bytes") from error
    except ConfigError as error:
        raise _in_file(path, error) from error
    except RefusalError as error:
        problem = f"{path}: IAM refuses such a trust policy ({error.error_type}: {error.message.rstrip('.')})"
        raise ConfigError(problem, "Correct what the message names") from error


def load_world(path: Path) -> World:
    """Read a world from a TOML file with tables [[trust_anchor]], [[profile]] and [[role]].

    Paths of certificates and trust policies are relative to the file.

    Raises:
        ConfigError: the file, a certificate or a trust policy can't be read, or a key is unknown, missing or of the
            wrong type.
    """
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read as TOML: {error}", "hwsigner help emulator has an example") from error
    for key in document:
        if key not in {*_KEYS, "session_path", "rate"}:
            raise _bad(path, f"the unknown key {key}")
    anchors = [_trust_anchor(path, table) for table in _tables(path, document, "trust_anchor")]
    profiles = [_profile(path, table) for table in _tables(path, document, "profile")]
    roles = [_role(path, table) for table in _tables(path, document, "role")]
    session_path = document.get("session_path", "/sessions")
    if not isinstance(session_path, str) or not session_path.startswith("/"):
        raise _bad(path, "an invalid session_path")
    rate = document.get("rate")
    if rate is not None and (type(rate) not in (int, float) or not 0 < rate < _HIGHEST_RATE):
        raise _bad(path, "an invalid rate")
    return World(
        {each.arn: each for each in anchors},
        {each.arn: each for each in profiles},
        {each.arn: each for each in roles},
        session_path=session_path,
        rate=rate,
    )


def _tables(path: Path, document: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    tables = document.get(kind)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables) or not tables:
        raise _bad(path, f"no [[{kind}]] table")
    for table in tables:
        for key, value in table.items():
            if key not in _KEYS[kind]:
                raise _bad(path, f"the unknown key {kind}.{key}")
            if type(value) is not _KEYS[kind][key] or (key != "attribute_mappings" and not _contains_text(value)):
                raise _bad(path, f"a value of the wrong type for {kind}.{key}")
        for key in sorted(_REQUIRED[kind] - set(table)):
            raise _bad(path, f"a [[{kind}]] without {key}")
        if not parse_arn(table["arn"], kind.replace("_", "-")):
            raise _bad(path, f"an invalid {kind}.arn: {table['arn']}")
        if "alias" in table and not _is_alias(table["alias"], kind.replace("_", "-"), table["arn"]):
            raise _bad(path, f"an invalid {kind}.alias: {table['alias']}")
    return tables


def _is_alias(alias: str, kind: str, arn: str) -> bool:
    return parse_alias_arn(f"{arn.rpartition(':')[0]}:alias/{kind}/{alias}", kind) is not None


def _contains_text(value: object) -> bool:
    """Return whether the items of a list or table are strings. Other values have no items."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(isinstance(each, str) for each in items)


def _trust_anchor(path: Path, table: dict[str, Any]) -> TrustAnchor:
    certificates = []
    for name in table["certificates"]:
        try:
            certificates += read_certificates((path.parent / name).read_bytes())
        except (OSError, ValueError, CertificateError) as error:  # A ValueError: the path has a NUL.
            raise _bad(path, f"a trust anchor's certificate that can't be read, {path.parent / name}") from error
    return TrustAnchor(**{**table, "certificates": certificates})


def _profile(path: Path, table: dict[str, Any]) -> Profile:
    try:
        return Profile(**table)
    except ConfigError as error:
        raise _in_file(path, error) from error


def _role(path: Path, table: dict[str, Any]) -> Role:
    file = table.get("trust_policy")
    return Role(**{**table, "trust_policy": None if file is None else read_trust_policy(path.parent / file)})


def _bad(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path} has {what}", "hwsigner help emulator has an example")


def _in_file(path: Path, error: ConfigError) -> ConfigError:
    return ConfigError(f"{path}: {error.message}", error.hint)
