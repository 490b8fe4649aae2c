"""The emulated account: trust anchors, profiles and roles, made in code or read from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509

from hwsigner.emulator.arns import REGION, parse_arn, partition_of
from hwsigner.emulator.tags import DEFAULT_MAPPINGS, Mappings, parse_mappings
from hwsigner.errors import CertificateError, ConfigError, UsageError
from hwsigner.trust_policy import TrustPolicy

ROLE_NAME = "hwsigner-demo"
PROFILE_ID = "11111111-1111-4111-8111-111111111111"
CertificateSource = bytes | x509.Certificate
_KEYS: dict[str, dict[str, type]] = {
    "trust_anchor": {"arn": str, "certificates": list, "enabled": bool},
    "profile": {
        "arn": str,
        "roles": list,
        "duration_seconds": int,
        "accept_role_session_name": bool,
        "enabled": bool,
        "attribute_mappings": dict,
    },
    "role": {"arn": str, "max_session_duration": int, "principal_tags": dict, "trust_policy": str},
}
_REQUIRED = {"trust_anchor": {"arn", "certificates"}, "profile": {"arn", "roles"}, "role": {"arn"}}


@dataclass
class TrustAnchor:
    """A trust anchor with the certificates of its bundle."""

    arn: str
    certificates: list[x509.Certificate]
    enabled: bool = True


@dataclass
class Profile:
    """A profile: its roles, its session duration in seconds, and whether callers may name their sessions.

    Attributes:
        attribute_mappings: which names of the certificate become session tags. A ConfigError names what is invalid.
    """

    arn: str
    roles: list[str]
    duration_seconds: int = 3600
    accept_role_session_name: bool = False
    enabled: bool = True
    attribute_mappings: Mappings = field(default_factory=lambda: DEFAULT_MAPPINGS)

    def __post_init__(self) -> None:
        self.attribute_mappings = parse_mappings(self.attribute_mappings)


@dataclass
class Role:
    """A role: its MaxSessionDuration in seconds, and who may assume it. By default, every certificate may.

    Attributes:
        principal_tags: tags that a session must have, named as in `aws:PrincipalTag/…`, such as "x509Subject/CN".
        trust_policy: must also allow the session, unless it is None.
    """

    arn: str
    max_session_duration: int = 3600
    principal_tags: dict[str, str] = field(default_factory=dict)
    trust_policy: TrustPolicy | None = None


@dataclass
class World:
    """The resources of the emulated account, by ARN. They may be changed while the emulator runs.

    Attributes:
        session_path: the raw path of CreateSession. Change it to test how a client signs paths.
    """

    trust_anchors: dict[str, TrustAnchor] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    session_path: str = "/sessions"

    @classmethod
    def simple(
        cls,
        trust_anchor: CertificateSource | Iterable[CertificateSource],
        *,
        region: str = "us-east-1",
        account: str = "123456789012",
        accept_role_session_name: bool = False,
        trust_policy: TrustPolicy | None = None,
    ) -> World:
        """Make a world with one profile and one role, with fixed ARNs.

        Args:
            trust_anchor: a certificate, or PEM bytes with one or more, or several of these, each for its own trust
                anchor.
            region: the region of the trust anchors and the profile.
            account: twelve digits.
            accept_role_session_name: whether the profile lets callers name their sessions.
            trust_policy: the role's; None to let every certificate assume it.

        Raises:
            UsageError: the region or account is malformed, or there is no trust anchor.
            CertificateError: the bytes contain no certificate.
        """
        sources = [trust_anchor] if isinstance(trust_anchor, bytes | x509.Certificate) else list(trust_anchor)
        role = Role(f"arn:{partition_of(region)}:iam::{account}:role/{ROLE_NAME}", trust_policy=trust_policy)
        prefix = f"arn:{partition_of(region)}:rolesanywhere:{region}:{account}"
        profile_arn = f"{prefix}:profile/{PROFILE_ID}"
        profile = Profile(profile_arn, [role.arn], accept_role_session_name=accept_role_session_name)
        anchors = [
            TrustAnchor(f"{prefix}:trust-anchor/00000000-0000-4000-8000-{number:012x}", read_certificates(source))
            for number, source in enumerate(sources)
        ]
        if not REGION.fullmatch(region) or not parse_arn(profile.arn, "profile"):
            problem = f"no such region or account: {region}, {account}"
            raise UsageError(problem, "Give a region like us-east-1 and an account of twelve digits")
        if not anchors:
            raise UsageError("the emulator has no trust anchor", "Give the certificate of at least one CA")
        return cls({anchor.arn: anchor for anchor in anchors}, {profile.arn: profile}, {role.arn: role})


def read_certificates(source: CertificateSource) -> list[x509.Certificate]:
    """Return the certificates in PEM or DER bytes.

    Raises:
        CertificateError: the bytes contain no certificate.
    """
    if isinstance(source, x509.Certificate):
        return [source]
    try:
        if b"-----BEGIN" in source:
            return x509.load_pem_x509_certificates(source)
        return [x509.load_der_x509_certificate(source)]
    except ValueError as error:
        raise CertificateError("a trust anchor's certificate can't be read", "Give PEM or DER of a CA") from error


def read_trust_policy(path: Path) -> TrustPolicy:
    """Read a trust policy from a JSON file.

    Raises:
        ConfigError: the file can't be read, or is not a trust policy that the emulator knows.
    """
    try:
        return TrustPolicy(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}", "Give a JSON file with a trust policy") from error
    except ConfigError as error:
        raise _in_file(path, error) from error


def load_world(path: Path) -> World:
    """Read a world from a TOML file with tables [[trust_anchor]], [[profile]] and [[role]].

    Paths of certificates and trust policies are relative to the file.

    Raises:
        ConfigError: the file, a certificate or a trust policy can't be read, or a key is unknown, missing or of the
            wrong type.
    """
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} can't be read as TOML: {error}", "hwsigner help emulator has an example") from error
    for key in document:
        if key not in {*_KEYS, "session_path"}:
            raise _bad(path, f"the unknown key {key}")
    anchors = [_trust_anchor(path, table) for table in _tables(path, document, "trust_anchor")]
    profiles = [_profile(path, table) for table in _tables(path, document, "profile")]
    roles = [_role(path, table) for table in _tables(path, document, "role")]
    session_path = document.get("session_path", "/sessions")
    if not isinstance(session_path, str) or not session_path.startswith("/"):
        raise _bad(path, "an invalid session_path")
    return World(
        {each.arn: each for each in anchors},
        {each.arn: each for each in profiles},
        {each.arn: each for each in roles},
        session_path=session_path,
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
    return tables


def _contains_text(value: object) -> bool:
    """Return whether the items of a list or table are strings. Other values have no items."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(isinstance(each, str) for each in items)


def _trust_anchor(path: Path, table: dict[str, Any]) -> TrustAnchor:
    certificates = []
    for name in table["certificates"]:
        try:
            certificates += read_certificates((path.parent / name).read_bytes())
        except (OSError, CertificateError) as error:
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
