"""From the flags' values, of a command line or a profile, to what the library takes.

The values are a mapping by attribute, as `hwsigner.config.flags` has it, with one for each flag of its tables.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hwsigner.config.flags import AGENT, IDENTITY, SESSION, default_values, profile_values
from hwsigner.errors import AmbiguousCertificateError, CertificateError, UnsafeKeyWarning, UsageError
from hwsigner.key import resolve
from hwsigner.pins import AskPin, PinSource
from hwsigner.uri import KeyURI, check_no_pin

if TYPE_CHECKING:
    from pathlib import Path

    from hwsigner.aws.create_session import Service, SessionRequest
    from hwsigner.certificate import Certificate
    from hwsigner.config.profiles import Profile
    from hwsigner.identity import IdentitySource

Values = Mapping[str, Any]

_SESSION_NAME = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)
_MAX_INSTANCE_PROPERTIES = 50
# The flags that a TPM's key URI is completed with, by the attribute of its query.
_TPM_FLAGS = {"tcti": "tcti", "srk-name": "srk_name", "accept-new-srk": "accept_new_srk"}
_PASSWORD_FLAGS = {"file": "pkcs8_password", "tpm2": "tpm_key_password"}


def read_profile(name: str, environ: Mapping[str, str]) -> Values:
    """Return the values of a profile of config.toml that is named; as `values_of`, and raises where there is none."""
    from hwsigner.config.profiles import profile

    return values_of(profile(name, environ))


def values_of(found: Profile) -> Values:
    """Return the values of a profile of config.toml, and the defaults for what it does not hold.

    Raises:
        ConfigError: it holds what is no flag, or what can't be meant.

    Warns:
        UnsafeKeyWarning: it holds a PIN, and others can read the file.
    """
    values = default_values(IDENTITY + SESSION + AGENT) | profile_values(found, {})
    warn_of_secrets(values, given=(), exposed=found.file if found.exposed else None)
    return values


def warn_of_secrets(values: Values, *, given: Collection[str], exposed: Path | None) -> None:
    """Warn of each PIN on the command line, or in the file of a profile that others can read.

    Args:
        values: the values.
        given: the names of the flags that stand on the command line.
        exposed: the file that others can read and the other values come from, if so.
    """
    for flag in IDENTITY:
        value = values.get(flag.attribute)
        if isinstance(value, str) and (flag.secret or "pin-value=" in value):
            name = f"--{flag.name}" if flag.secret else f"pin-value in --{flag.name}"
            place = "on the command line" if flag.name in given else f"in {exposed}"
            if flag.name in given or exposed:
                hint = "pin-source= in the key URI is safer, with file:, env: or cmd:"
                warnings.warn(UnsafeKeyWarning(f"{name} {place} can be seen by other users", hint), stacklevel=2)


def key_uri(values: Values, text: str) -> KeyURI:
    """Return a key URI as the flags complete it: `--pkcs11-lib` is a token's module, `--tcti` a TPM,
    `--srk-name` and `--accept-new-srk` say which TPM is the right one.

    Raises:
        UsageError: it is malformed.
    """
    uri = KeyURI.parse(text)
    if uri.scheme == "pkcs11" and values["pkcs11_lib"]:
        check_no_pin(os.fsencode(values["pkcs11_lib"]))
        uri = uri.with_query("module-path", values["pkcs11_lib"])
    given = {name: values[attribute] for name, attribute in _TPM_FLAGS.items() if values.get(attribute)}
    if given and resolve(uri).scheme == "tpm2":
        for name in given.keys() - uri.query.keys():
            value = "true" if given[name] is True else given[name]
            check_no_pin(os.fsencode(value))
            uri = uri.with_query(name, value)
    return uri


def pin_source(values: Values, uri: KeyURI, ask: AskPin | None = None, prompts: Sequence[AskPin] = ()) -> PinSource:
    """Return the places for the PIN of a key. A password flag is for keys of its own kind, and for no token.

    Args:
        values: the values.
        uri: the key.
        ask: a callable of the caller's, the first place of all.
        prompts: what asks a person, the last places.
    """
    scheme = resolve(uri).scheme
    pin = values[_PASSWORD_FLAGS[scheme]] if scheme in _PASSWORD_FLAGS else None
    if scheme == "tpm2" and values["no_tpm_key_password"]:
        pin = ""
    return PinSource(
        pin,
        ask,
        prompts=prompts,
        allow_commands=True,  # The URI is of a command line or a profile.
        reuse=values["reuse_pin"],
        allow_final_try=values["allow_final_pin_try"],
    )


def identity_source(
    values: Values, ask: AskPin | None = None, prompts: Sequence[AskPin] = (), *, check: bool = True
) -> IdentitySource:
    """Return where the identity comes from. For `--cert-selector`, the tokens are searched.

    Args:
        values: the values.
        ask: a callable of the caller's, asked for a PIN first of all.
        prompts: what asks a person for a PIN that no other place gives.
        check: look the leaf over, unless `--no-preflight` is among the values.

    Raises:
        UsageError: no certificate is named.
        CertificateError: no certificate is like `--cert-selector`.
        AmbiguousCertificateError: several are.
    """
    from hwsigner.identity import IdentitySource

    certificate, private_key, selected = _names(values, ask, prompts)
    return IdentitySource(
        certificate=certificate,
        private_key=private_key,
        intermediates=values["intermediates"] and KeyURI.parse(values["intermediates"]),
        pin=pin_source(values, private_key or certificate, ask, prompts),
        check=check and not values["no_preflight"],
        latest=values["use_latest_expiring_certificate"],
        selected=selected,
    )


def _names(values: Values, ask: AskPin | None, prompts: Sequence[AskPin]) -> tuple[KeyURI, KeyURI | None, bytes | None]:
    if values["cert_selector"] is not None:
        chosen = _selected(values, ask, prompts)
        return key_uri(values, chosen.source), None, chosen.der
    if not values["certificate"]:
        raise UsageError("no certificate is named", "Give --certificate, or --cert-selector for one on a token")
    certificate = key_uri(values, values["certificate"])
    return certificate, key_uri(values, values["private_key"]) if values["private_key"] else None, None


def _selected(values: Values, ask: AskPin | None, prompts: Sequence[AskPin]) -> Certificate:
    from hwsigner.certificate import latest_expiring
    from hwsigner.config.selector import parse_selector, select

    selector = parse_selector(values["cert_selector"])
    uri = key_uri(values, "pkcs11:")
    found = select(selector, uri, pin_source(values, uri, ask, prompts))
    if not found:
        raise CertificateError("no certificate on any token is like --cert-selector", "See read-certificate-data")
    if values["use_latest_expiring_certificate"]:
        found = [latest_expiring(found)]
    if len(found) > 1:
        raise AmbiguousCertificateError(
            f"{len(found)} certificates are like --cert-selector: {', '.join(c.source for c in found)}",
            "Select by x509Serial too, or let --use-latest-expiring-certificate pick",
        )
    return found[0]


def session_request(values: Values) -> SessionRequest:
    """Return what to ask the service for; `service` checks the ARNs.

    Raises:
        UsageError: a session name or the instance properties can't be meant.
    """
    from hwsigner.aws.create_session import SessionRequest

    name = values["role_session_name"]
    if name is not None and not _SESSION_NAME.fullmatch(name):
        raise UsageError(
            f"--role-session-name is {name[:100]!r}", "It is 2 to 64 characters of letters, digits and _+=,.@-"
        )
    properties = dict(values["instance_property"])
    if len(properties) > _MAX_INSTANCE_PROPERTIES:
        raise UsageError(f"--instance-property is given {len(properties)} times", "The service takes 50 at most")
    return SessionRequest(
        trust_anchor_arn=values["trust_anchor_arn"],
        profile_arn=values["profile_arn"],
        role_arn=values["role_arn"],
        duration=values["session_duration"],
        session_name=name,
        instance_properties=properties,
    )


def service(values: Values, environ: Mapping[str, str] = os.environ) -> Service:
    """Return whom to ask, from the values and the environment.

    Raises:
        UsageError: an ARN, the region, the endpoint, or a variable of the environment can't be meant.
    """
    from hwsigner.aws.arn import check_arns
    from hwsigner.aws.create_session import find_service

    region = check_arns(
        values["trust_anchor_arn"], values["profile_arn"], role=values["role_arn"], region=values["region"]
    )
    verify = not values["no_verify_ssl"]
    found = find_service(region, endpoint=values["endpoint"], verify=verify, environ=environ)
    limits = {"connect_timeout": values["connect_timeout"], "read_timeout": values["read_timeout"]}
    return replace(found, transport=replace(found.transport, **limits), timeout=values["timeout"])


def resident_service(values: Values, environ: Mapping[str, str] = os.environ) -> Service:
    """Return whom to ask, for a program that stays: nobody reads its warnings.

    Raises:
        UsageError: as `service` does, or `no-verify-ssl` is set and the endpoint is not on loopback.
    """
    from hwsigner.http.address import is_loopback

    found = service(values, environ)
    if values["no_verify_ssl"] and not is_loopback(found.endpoint.host):
        problem = "no-verify-ssl is refused to a program that stays, but for loopback"
        raise UsageError(problem, "Name the server's CA with AWS_CA_BUNDLE")
    return found
