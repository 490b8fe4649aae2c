"""The settings of a command line or a profile, and what the library takes for them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hwsigner._config.flags import IDENTITY, converted, places, profile_values
from hwsigner._http import defaults
from hwsigner._pins import AskPin, PinSource
from hwsigner._pins.sources import serve_place
from hwsigner._uri import KeyURI, check_no_pin
from hwsigner.errors import (
    AmbiguousCertificateError,
    CertificateError,
    ConfigError,
    HwsignerError,
    KeyNotFoundError,
    UnsafeKeyWarning,
    UsageError,
)

if TYPE_CHECKING:
    from hwsigner._aws.create_session import Service, SessionRequest
    from hwsigner._config.profiles import Profile
    from hwsigner._identity import IdentitySource
    from hwsigner._identity.certificate import Certificate

Prompts = Callable[[str | None], Sequence[AskPin]]
_SESSION_NAME = r"[\w+=,.@-]{2,64}"
_MAX_INSTANCE_PROPERTIES = 50
_SAFER = "pin-source= in the key URI is safer, with file:, env: or cmd:"


class Settings:
    """What a profile can say: an attribute for each flag of `IN_PROFILES`, the default where nothing is said.

    The values are what a command line and a profile say, converted, by attribute. They come from the tables of flags
    alone.
    """

    profile_name: str | None = None  # The profile, if it names the key: it may have a stored PIN.
    # Of a command line alone: returns what asks the user for a PIN that no other place gives, for a `pinentry`; and
    # what takes a trace's lines.
    prompts: Prompts = staticmethod(lambda _: ())
    trace: Callable[[str], None] | None = None

    certificate: str | None = None
    private_key: str | None = None
    intermediates: str | None = None
    cert_selector: str | None = None
    use_latest_expiring_certificate: bool = False
    system_store_name: str | None = None
    pkcs11_lib: str | None = None
    tcti: str | None = None
    srk_name: str | None = None
    accept_new_srk: bool = False
    reuse_pin: bool = False
    tpm_key_password: str | None = None
    no_tpm_key_password: bool = False
    pkcs8_password: str | None = None
    allow_final_pin_try: bool = False
    pinentry: str | None = None
    no_preflight: bool = False
    strict: bool = False
    debug: bool = False

    trust_anchor_arn: str | None = None
    profile_arn: str | None = None
    role_arn: str | None = None
    session_duration: int = defaults.SESSION_DURATION
    role_session_name: str | None = None
    region: str | None = None
    endpoint: str | None = None
    use_fips_endpoint: bool | None = None
    use_dualstack_endpoint: bool | None = None
    no_verify_ssl: bool = False
    with_proxy: bool = False
    connect_timeout: float = defaults.CONNECT_TIMEOUT
    read_timeout: float = defaults.READ_TIMEOUT
    timeout: float = defaults.TIMEOUT
    instance_property: Sequence[tuple[str, str]] = ()

    agent: str | None = None
    attended: bool | None = None
    desktop_notifications: bool | None = None
    allow_users: Sequence[str] = ()

    subject: str | None = None
    dns: Sequence[str] = ()
    uri: Sequence[str] = ()
    issuer: str | None = None
    issuer_url: str | None = None
    issuer_command: str | None = None
    issuer_ca_file: str | None = None
    issuer_user: str | None = None
    issuer_secret: str | None = None
    issuer_certificate: bool = False
    issuer_arn: str | None = None
    nv_index: str | None = None
    vendor_certificates: str | None = None

    def __init__(self, values: Mapping[str, object] = MappingProxyType({})) -> None:
        self.__dict__.update(values)


def read_profile(name: str, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of a profile of config.toml.

    `overrides`, by attribute as TOML would have them, take precedence.
    """
    from hwsigner._config.profiles import profile

    return of_profile(profile(name, environ), converted(overrides or {}))


def of_profile(found: Profile, given: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of a profile of config.toml, with the defaults for what it does not have.

    Values by attribute in `given` take precedence. Warns of a PIN in a file that others can read.
    """
    own = profile_values(found, given or {})
    warn_of_secrets(Settings(own), given=(), exposed=found.file if found.exposed else None)
    return Settings({**own, **(given or {})})


def warn_of_secrets(values: Settings, *, given: Collection[str], exposed: str | None) -> None:
    """Warn of each PIN on the command line, or in a profile whose file others can read."""
    for flag in IDENTITY:
        value = getattr(values, flag.attribute)
        if isinstance(value, str) and (flag.secret or "pin-value=" in value):
            name = f"--{flag.name}" if flag.secret else f"pin-value in --{flag.name}"
            place = "on the command line" if flag.name in given else f"in {exposed}"
            if flag.name in given or exposed:
                warnings.warn(UnsafeKeyWarning(f"{name} {place} is visible to other users", _SAFER), stacklevel=2)


def key_uri(values: Settings, text: str) -> KeyURI:
    """Parse a key URI and add the query attributes that its backend takes from flags, such as `--tcti` for a TPM."""
    uri = KeyURI.parse(text)
    backend = uri.resolved().backend
    for attribute, flag in backend.query_flags.items():
        value = getattr(values, flag.replace("-", "_"), None)  # A backend from elsewhere may name no flag of ours.
        if value and (backend.flags_win or attribute not in uri.query):
            value = "true" if value is True else value
            check_no_pin(os.fsencode(value))
            uri = uri.with_query(attribute, value)
    return uri


def check_no_profile(text: str, hint: str) -> None:
    """Check that a key URI on the command line is not the name of a profile. A file of that name takes precedence."""
    if not os.path.lexists(text) and is_profile(text):
        raise UsageError(f"{text} is the name of a profile, and a key URI or file is wanted", hint)


def is_profile(word: str) -> bool:
    """Return whether a word is the name of a profile. A config.toml that can't be used has none."""
    from hwsigner._config.profiles import profiles

    try:
        return word in profiles(os.environ)
    except ConfigError:
        return False


def argument_uri(values: Settings, text: str) -> KeyURI:
    """Return `key_uri` of a command line's key URI, and raise as that does; warn if it has a PIN."""
    uri = key_uri(values, text)
    if uri.pin_value is not None:
        warnings.warn(UnsafeKeyWarning("pin-value on the command line is visible to other users", _SAFER), stacklevel=2)
    return uri


def certificates_at(place: str | KeyURI, *, pipes: bool = True) -> list[Certificate]:
    """Return the certificates of a file, token or TPM. No PIN is sent for them.

    If `pipes` is False, the file may not be a pipe or device: a command that only looks must not wait for one, or empty
    it.
    """
    from hwsigner._identity.certificate import load
    from hwsigner._system.files import check_no_pipe

    uri = KeyURI.of(place)
    if not pipes and "path" in uri.path:
        check_no_pipe(uri.file, CertificateError)
    return load(uri)


def pin_source(values: Settings, uri: KeyURI, ask: AskPin | None = None) -> PinSource:
    """Return the places for the PIN of a key; `ask` is the first. A password flag is for its own backend only."""
    password = None
    match uri.resolved().backend.password_flag:
        case "pkcs8-password":
            password = values.pkcs8_password
        case "tpm-key-password":
            password = "" if values.no_tpm_key_password else values.tpm_key_password
    return PinSource(
        password,
        ask,
        prompts=values.prompts(values.pinentry),
        allow_commands=True,  # The URI is from a command line or a profile.
        reuse=values.reuse_pin,
        allow_final_try=values.allow_final_pin_try,
        profile=values.profile_name,
    )


def serve_profile(name: str, values: Settings | None) -> None:
    """Record that this process serves a profile; None: no longer.

    A PIN that names no token is used only if all these profiles use one token or file. Invalid values are reported when
    the key is opened.
    """
    if values is None:
        serve_place(name, None)
        return
    try:
        uri = KeyURI.parse(values.private_key or values.certificate or "pkcs11:")
    except HwsignerError:
        return
    if uri.has_pin or values.pkcs8_password or values.tpm_key_password or values.no_tpm_key_password:
        return
    serve_place(name, (uri.place, values.pkcs11_lib, values.tcti))


def uses_library(values: Settings) -> bool:
    """Return whether a key or certificate is reached through the library of a token or TPM, which may crash."""
    named = filter(None, (values.certificate, values.private_key, values.intermediates))
    return values.cert_selector is not None or any(KeyURI.parse(place).resolved().scheme != "file" for place in named)


def is_inherited(values: Mapping[str, Any]) -> bool:
    """Return whether a profile's values, by flag, name a key or certificate in what one process inherits.

    An agent can't have it then.
    """
    return any(place.lower().startswith("env:") for _, place in places(values))


def identity_source(values: Settings, ask: AskPin | None = None, *, check: bool = True) -> IdentitySource:
    """Return where the identity comes from. With `--cert-selector`, this searches the tokens.

    `ask` is the caller's callable for a PIN, the first place. If `check` is False, or with `--no-preflight`, the leaf
    is not checked before the key is used.
    """
    from hwsigner._identity import IdentitySource

    certificate, private_key, selected = _names(values, ask)
    return IdentitySource(
        certificate=certificate,
        private_key=private_key,
        intermediates=KeyURI.parse(values.intermediates) if values.intermediates else None,
        pin=pin_source(values, private_key or certificate, ask),
        check=check and not values.no_preflight,
        latest=values.use_latest_expiring_certificate,
        selected=selected,
        allow_modules=True,  # The URIs are from a command line or a profile.
    )


def check_not_moved(values: Settings, certificate: KeyURI | None, private_key: KeyURI | None) -> None:
    """Check that the files that a profile names are there."""
    found = (("certificate", certificate, CertificateError), ("private-key", private_key, KeyNotFoundError))
    for flag, uri, error in found if values.profile_name else ():
        if uri and uri.file.startswith("/"):
            try:
                os.stat(uri.file)
            except FileNotFoundError as reason:
                hint = f"If it was moved, run hwsigner profile edit {values.profile_name} --{flag} NEW"
                raise error(f"can't read {uri.file}: {reason.strerror}", hint) from reason
            except OSError:
                pass  # The one that reads it says more.


def _names(values: Settings, ask: AskPin | None) -> tuple[KeyURI, KeyURI | None, bytes | None]:
    if values.cert_selector is not None:
        chosen = _selected(values, values.cert_selector, ask)
        return key_uri(values, chosen.source), None, chosen.der
    if not values.certificate:
        hint = "Give --certificate, or --cert-selector for one on a token"
        if values.subject:
            hint = f"Run hwsigner enroll {values.profile_name or ''} again: it did not finish"
        elif name := values.profile_name:
            hint = f"Run hwsigner install-certificate CERTIFICATE KEY-URI --profile {name}, or hwsigner enroll {name}"
        raise UsageError("no certificate is named", hint)
    certificate = key_uri(values, values.certificate)
    private_key = key_uri(values, values.private_key) if values.private_key else None
    check_not_moved(values, certificate, private_key)
    return certificate, private_key, None


def _selected(values: Settings, text: str, ask: AskPin | None) -> Certificate:
    from hwsigner._identity.certificate import latest_expiring
    from hwsigner._identity.selector import parse_selector, select

    selector = parse_selector(text)
    uri = key_uri(values, "pkcs11:")
    found = select(selector, uri, pin_source(values, uri, ask))
    if not found:
        hint = "hwsigner read-certificate-data --certificate pkcs11: shows those on tokens"
        raise CertificateError("--cert-selector matches no certificate on any token", hint)
    if values.use_latest_expiring_certificate:
        found = [latest_expiring(found)]
    if len(found) > 1:
        raise AmbiguousCertificateError(
            f"--cert-selector matches {len(found)} certificates: {', '.join(c.source for c in found)}",
            "Also select by x509Serial, or add --use-latest-expiring-certificate",
        )
    return found[0]


def session_request(values: Settings) -> SessionRequest:
    """Return what to ask the service for. `service` checks the ARNs."""
    from hwsigner._aws.create_session import SessionRequest

    name = values.role_session_name
    if name is not None and not re.fullmatch(_SESSION_NAME, name, re.ASCII):
        raise UsageError(
            f"--role-session-name is {name[:100]!r}, which the service refuses",
            "Use 2 to 64 characters of letters, digits and _+=,.@-",
        )
    properties = dict(values.instance_property)
    if len(properties) > _MAX_INSTANCE_PROPERTIES:
        raise UsageError(f"--instance-property is given {len(properties)} times", "The service accepts 50 at most")
    return SessionRequest(
        trust_anchor_arn=values.trust_anchor_arn or "",
        profile_arn=values.profile_arn or "",
        role_arn=values.role_arn or "",
        duration=values.session_duration,
        session_name=name,
        instance_properties=properties,
    )


def service(values: Settings, environ: Mapping[str, str] = os.environ) -> Service:
    """Return the service to ask, from the values and the environment."""
    from hwsigner._aws.create_session import find_service
    from hwsigner._aws.region import check_arns

    check_is_given(values, environ)
    region = check_arns(
        values.trust_anchor_arn,
        values.profile_arn,
        role=values.role_arn,
        region=values.region,
        name=values.profile_name or "",
    )
    found = find_service(
        region,
        endpoint=values.endpoint,
        fips=values.use_fips_endpoint,
        dual_stack=values.use_dualstack_endpoint,
        verify=not values.no_verify_ssl,
        environ=environ,
    )
    transport = found.transport.with_limits(values.connect_timeout, values.read_timeout)
    return found._replace(transport=transport, timeout=values.timeout, trace=values.trace)


def check_is_given(values: Settings, environ: Mapping[str, str]) -> None:
    """Check that a profile, or any of the flags that may stand for one, was given."""
    given = (values.trust_anchor_arn, values.profile_arn, values.role_arn, values.certificate, values.private_key)
    if not (values.profile_name or any(given) or values.cert_selector is not None):
        from hwsigner._config.profiles import profiles

        try:
            known = f" (there are: {', '.join(sorted(profiles(environ)))})"
        except ConfigError:
            known = ""
        known = "" if known.endswith(": )") else known
        hint = (
            f"Add --profile NAME{known}, or the flags --certificate, --trust-anchor-arn, --profile-arn and --role-arn"
        )
        raise UsageError("no profile and no flags for a session were given", hint)


def service_for_daemon(values: Settings, environ: Mapping[str, str] = os.environ) -> Service:
    """Return the service to ask, for a program that keeps running, as no user reads its warnings.

    `no-verify-ssl` is an error, unless the endpoint is on loopback.
    """
    from hwsigner._http.address import is_loopback

    found = service(values, environ)
    if values.no_verify_ssl and not is_loopback(found.endpoint.host):
        problem = "a program that keeps running refuses no-verify-ssl, except on loopback"
        raise UsageError(problem, "Name the server's CA with AWS_CA_BUNDLE")
    return found
