"""A profile of config.toml: what could be read of it; its ARNs, the way to the service, the certificate and the chain.

Nothing is sent.
"""

from __future__ import annotations

import os
import shlex
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hwsigner._aws.config_file import read_config
from hwsigner._aws.create_session import find_service
from hwsigner._aws.region import Arn, EndpointFlags, parse_arn, region_of, sessions_endpoint
from hwsigner._config import settings
from hwsigner._config.flags import ARNS, IN_PROFILES, session_duration
from hwsigner._config.profiles import SYSTEM_FILE, Profile, renewal_file
from hwsigner._config.settings import Settings
from hwsigner._http import defaults
from hwsigner._http.address import is_loopback
from hwsigner._http.connection import find_proxy
from hwsigner._identity import certificate
from hwsigner._identity.selector import parse_selector, select
from hwsigner._identity.session_tags import session_tags, untaggable
from hwsigner._pins import PinRequest, PinSource
from hwsigner._system import launchd
from hwsigner._system.files import check_no_pipe
from hwsigner._system.users import find_gid, find_uid
from hwsigner._uri import KeyURI
from hwsigner.errors import (
    CertificateError,
    ConfigError,
    HwsignerWarning,
    PinError,
    PinRequiredError,
    SigningKeyError,
    UsageError,
    suggestion,
)
from hwsigner.findings import Finding, Mistake, local

if TYPE_CHECKING:
    from hwsigner._identity.certificate import Rule
    from hwsigner.key.listing import ListedToken

_DURATION = "session-duration"
_ARN_FLAGS = [f"--{name}" for name in ARNS]
# What the issuers that are built in can't do without.
_NEEDED_BY_ISSUERS = {**dict.fromkeys(("est", "vault", "registrar"), "issuer-url"), "private-ca": "issuer-arn"}
_SAME = {"partition": local.ARN_PARTITION, "account": local.ARN_ACCOUNT, "region": local.ARN_REGION}


@dataclass
class ProfileState:
    """A profile of config.toml, and what `read` could read; the default settings if it is invalid.

    `certificates` are at the places that it names, in their order, and `leaf` is the one to send. `facts` are not
    wrong, but good to know, by name. `tokens` are the key's tokens or TPM. `seconds` is how long each check took.
    """

    profile: Profile
    environ: Mapping[str, str]
    now: datetime
    settings: Settings = field(default_factory=Settings)
    key: KeyURI | None = None
    certificates: Sequence[certificate.Certificate] = ()
    leaf: certificate.Certificate | None = None
    facts: dict[str, str] = field(default_factory=dict)
    tokens: Sequence[ListedToken] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def read(state: ProfileState) -> Iterator[Finding]:
    """Read settings, key URI and certificates. Yield what is wrong if a part can't be read."""
    with warnings_as_findings() as unsafe:
        try:
            yield from _read_settings(state)
            _read_key(state)
            _read_certificates(state)
        except UsageError as error:
            yield local.PROFILE_INVALID.found_by(error)
        except PinError:
            pass  # What is behind a PIN needs a session.
        except (CertificateError, SigningKeyError) as error:
            yield local.CERTIFICATE_UNREADABLE.found_by(error)
    yield from unsafe


@contextmanager
def warnings_as_findings(mistake: Mistake = local.SETTING_UNSAFE) -> Iterator[list[Finding]]:
    """Collect hwsigner's warnings in the `with` statement, instead of showing them. They are there when it ends."""
    findings: list[Finding] = []
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", HwsignerWarning)
        yield findings
    messages = (each.message for each in raised)
    findings += [mistake.found_by(each) for each in messages if isinstance(each, HwsignerWarning)]


def no_pins() -> PinSource:
    """Return a source that refuses to give a PIN, and reads none."""

    def refuse(request: PinRequest) -> str:
        raise PinRequiredError(f"no PIN is used for {request.subject}", "Add --online")

    return PinSource(ask=refuse).without_pin()


def _read_settings(state: ProfileState) -> Iterator[Finding]:
    raw = dict(state.profile.values)
    for key in sorted(raw.keys() - IN_PROFILES.keys()):
        del raw[key]
        hint = suggestion(key, IN_PROFILES, f"Run hwsigner profile edit NAME --unset {key}")
        yield local.PROFILE_INVALID.found(f"{state.profile.file} has the key {key!r}, which is not a flag", hint)
    duration = str(raw.pop(_DURATION, defaults.SESSION_DURATION))
    try:
        session_duration(duration)
        raw[_DURATION] = duration
    except ValueError as error:
        yield local.DURATION_INVALID.found(f"{_DURATION} is {duration[:100]!r}: {error}")
    known = Profile(state.profile.name, state.profile.file, raw, exposed=state.profile.exposed)
    state.settings = settings.of_profile(known)
    for name in state.settings.allow_users:
        kind, find = ("group", find_gid) if name.startswith("@") else ("user", find_uid)
        if find(name.removeprefix("@")) is None:
            found = f"allow-users names {name!r}, which is not a {kind} of this system"
            dynamic = "" if kind == "group" else ". For a unit with DynamicUser=yes, name a group"
            yield local.SETTING_UNUSED.found(found, f"Correct the name, or make the {kind}{dynamic}")


def _read_key(state: ProfileState) -> None:
    """Read the key URI. A selector finds the certificates too."""
    values = state.settings
    if values.cert_selector is not None:
        state.certificates = _selected(values, values.cert_selector)
        state.key = KeyURI.of(state.certificates[0].source)
        return
    place = values.private_key or values.certificate
    if not place:
        name = state.profile.name
        hint = f"Run hwsigner install-certificate CERTIFICATE KEY-URI --profile {name}, or hwsigner enroll {name}"
        raise CertificateError("the profile names no key and no certificate", hint)
    state.key = settings.key_uri(values, place).resolved().without_pin()


def _selected(values: Settings, text: str) -> list[certificate.Certificate]:
    if text.startswith("file://"):
        check_no_pipe(text.removeprefix("file://"), CertificateError)
    found = select(parse_selector(text), settings.key_uri(values, "pkcs11:"), no_pins())
    if not found:
        raise CertificateError("cert-selector matches no certificate on any token")
    return found


def _read_certificates(state: ProfileState) -> None:
    values, found = state.settings, list(state.certificates)
    if not found:
        if not values.certificate:
            raise CertificateError("the profile names no certificate", f"Run hwsigner enroll {state.profile.name}")
        uri = settings.key_uri(values, values.certificate).without_pin()
        found = settings.certificates_at(uri, pipes=False)
    leaf = certificate.latest_expiring(certificate.leaves(found))
    if values.intermediates:
        found += settings.certificates_at(values.intermediates, pipes=False)
    state.certificates, state.leaf = found, leaf


def check_request(state: ProfileState) -> Iterator[Finding]:
    """Yield what is wrong with what is asked of the service: the ARNs and the session's name."""
    arns: dict[str, Arn] = {}
    for flag in _ARN_FLAGS:
        text = str(state.profile.values.get(flag.removeprefix("--"), ""))
        try:
            arns[flag] = parse_arn(text, flag)
        except UsageError as error:
            mistake = local.ARN_SWAPPED if _is_other_kind(text, flag) else local.ARN_INVALID
            yield mistake.found(error.message, f"Run hwsigner profile edit NAME {flag} ARN")
    yield from _check_together(arns, str(state.profile.values.get("region") or ""))
    try:
        settings.session_request(state.settings)
    except UsageError as error:
        yield local.SESSION_NAME_INVALID.found(error.message)


def _is_other_kind(text: str, flag: str) -> bool:
    for other in _ARN_FLAGS:
        try:
            parse_arn(text, other)
        except UsageError:
            continue
        return other != flag
    return False


def _check_together(arns: dict[str, Arn], region: str) -> Iterator[Finding]:
    for name, mistake in _SAME.items():
        values = {flag: getattr(arn, name) for flag, arn in arns.items() if getattr(arn, name)}
        if name == "region" and region:
            values["--region"] = region
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{flag} is in {value}" for flag, value in values.items())
            is_flag = len({value for flag, value in values.items() if flag != "--region"}) == 1
            fix = "Run hwsigner profile edit NAME --unset region" if is_flag else ""
            yield mistake.found(f"{name}s differ: {listed}", fix)


def check_connection(state: ProfileState) -> Iterator[Finding]:
    """Yield what keeps CreateSession's server from being found. Nothing is sent."""
    parts = str(state.settings.trust_anchor_arn or "").split(":")
    if len(parts) == 6:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HwsignerWarning)  # That a flag is unsafe, the commands say.
            yield from _check_region(state, parts[3])


def _check_region(state: ProfileState, region: str) -> Iterator[Finding]:
    values, environ = state.settings, state.environ
    given, verify = values.endpoint, not values.no_verify_ssl
    flags = EndpointFlags(given, values.use_fips_endpoint, values.use_dualstack_endpoint)
    try:
        config = read_config(environ)
        endpoint, why = sessions_endpoint(region, environ=environ, flags=flags, verify=verify, config=config)
    except UsageError as error:
        yield local.ENDPOINT_INVALID.found_by(error)
        return
    state.facts["endpoint"] = f"{endpoint.url} ({why})"
    signed = state.settings.region or region
    if region_of(endpoint.host) not in ("", signed):
        found = f"the endpoint {endpoint.host} is in {region_of(endpoint.host)}, and requests are signed for {signed}"
        yield local.ENDPOINT_REGION.found(found, "Run hwsigner profile edit NAME --unset endpoint" if given else "")
    if not verify and not is_loopback(endpoint.host):
        fix = "Run hwsigner profile edit NAME --unset no-verify-ssl, and name the server's CA with AWS_CA_BUNDLE"
        yield local.SETTING_UNSAFE.found("no-verify-ssl accepts any server's certificate", fix)
    try:
        find_proxy(endpoint, environ)
    except UsageError as error:
        yield local.PROXY_INVALID.found_by(error)
        return
    try:
        transport = find_service(
            region, endpoint=given, fips=flags.fips, dual_stack=flags.dual_stack, verify=verify, environ=environ
        ).transport
        if transport.cas and transport.cas.file:
            check_no_pipe(transport.cas.file, ConfigError)
        transport.read_cas()
    except ConfigError as error:
        yield local.CA_UNREADABLE.found_by(error)
    except UsageError as error:
        yield local.CONNECTION_SETTING.found_by(error)


def check_certificate(state: ProfileState) -> Iterator[Finding]:
    """Yield why the service refuses the certificate or its chain, whatever AWS has."""
    leaf = state.leaf
    if leaf is None:
        return
    if certificate.is_attestation(leaf.x509):
        yield local.CERTIFICATE_ATTESTATION.found(f"{leaf.source} attests a key of a YubiKey")
    for broken in certificate.broken_rules(leaf, state.now):
        yield _mistake_of(broken.rule).found(f"certificate {leaf.source} {broken.problem}")
    if late := certificate.late_renewal(leaf, state.now):
        yield local.CERTIFICATE_NOT_RENEWED.found(f"certificate {leaf.source} {late}", _fix_of_renewal(state.profile))
    try:
        _ = leaf.algorithm
    except CertificateError as error:
        yield local.CERTIFICATE_UNREADABLE.found_by(error)
    yield from _check_chain(leaf, state.certificates)
    problems = untaggable(leaf)
    for problem in problems:
        yield local.NAME_UNTAGGABLE.found(problem)
    has_name = session_tags(leaf).get("x509Subject/CN") or any(each.startswith("x509Subject/CN ") for each in problems)
    if not has_name:
        yield local.NAME_EMPTY.found(f"certificate {leaf.source} has no CN in its subject, or an empty one")


def check_issuer(state: ProfileState) -> Iterator[Finding]:
    """Yield what the profile's issuer lacks. It is not asked, and a secret is not read."""
    values = state.settings
    if state.profile.file == SYSTEM_FILE and os.geteuid():
        return  # Root renews the certificate, and may see more.
    name = values.issuer or ("command" if values.issuer_command else "")
    if name == "command":
        try:
            program = (shlex.split(values.issuer_command or "") or [""])[0]
        except ValueError:
            program = values.issuer_command or ""
        if shutil.which(program) is None:
            yield local.ISSUER_INVALID.found(f"the issuer's command {program!r} is not there, or can't be run")
    needed = _NEEDED_BY_ISSUERS.get(name)
    if needed and not state.profile.values.get(needed):
        yield local.ISSUER_INVALID.found(f"the profile has no {needed}, which the issuer {name} needs")
    if name and name != "command" and name not in _NEEDED_BY_ISSUERS and name not in _issuers_of_packages():
        yield local.ISSUER_INVALID.found(f"there is no issuer {name!r}")
    for place in (values.issuer_ca_file or "", (values.issuer_secret or "").removeprefix("file:")):
        if place.startswith("/") and not os.path.exists(place):
            yield local.ISSUER_INVALID.found(f"there is no file {place}, which the issuer needs")


def check_renewal(state: ProfileState) -> Iterator[Finding]:
    """Yield why the last renewal of the certificate failed, if one has since the last success."""
    try:
        with open(renewal_file(state.profile.name, state.profile.file), encoding="utf-8", errors="replace") as file:
            times, _, cause = file.read(2000).partition("\n")
        when = datetime.fromtimestamp(int(times.split()[1]), UTC)
    except (OSError, ValueError, IndexError):  # None failed, or another user's did.
        return
    yield local.RENEWAL_FAILED.found(f"the last renewal, at {when:%Y-%m-%dT%H:%MZ}, failed: {cause.strip()}")


def _issuers_of_packages() -> set[str]:
    from importlib.metadata import entry_points

    return {each.name for each in entry_points(group="hwsigner.issuers")}


def _fix_of_renewal(profile: Profile) -> str:
    """Return what renews the certificate of a profile, and says why it was not renewed."""
    if not (profile.values.get("issuer") or profile.values.get("issuer-command")):
        return (
            "Have it issued again and run hwsigner install-certificate. After hwsigner enroll NAME, a timer renews it"
        )
    if launchd.is_here():
        return "Run hwsigner renew NAME, and hwsigner launchd install renew NAME"
    scope, unit = "" if profile.file == SYSTEM_FILE else " --user", f"hwsigner-renew@{profile.name}"
    enable = f"systemctl{scope} enable --now {unit}.timer"
    return f"Run hwsigner renew NAME, and {enable}. If that runs: journalctl{scope} -u {unit}"


def _mistake_of(rule: Rule) -> Mistake:
    match rule:
        case "expired":
            return local.CERTIFICATE_EXPIRED
        case "not-yet-valid":
            return local.CERTIFICATE_NOT_YET_VALID
        case "version":
            return local.CERTIFICATE_VERSION
        case "ca":
            return local.CERTIFICATE_CA
        case "key-usage":
            return local.CERTIFICATE_KEY_USAGE
        case "hash":
            return local.CERTIFICATE_HASH
        case "subject":
            return local.CERTIFICATE_SUBJECT


def _check_chain(leaf: certificate.Certificate, certificates: Sequence[certificate.Certificate]) -> Iterator[Finding]:
    try:
        chain, strangers = certificate.build_chain(leaf, certificates)
    except CertificateError as error:
        yield local.CHAIN_TOO_LONG.found_by(error)
        return
    is_one_file = {each.source for each in certificates} == {leaf.source}
    if strangers and not leaf.source.startswith("pkcs11:"):  # A token may have others of other keys.
        last = chain.certificates[-1]
        issuer = last.x509.issuer.rfc4514_string()
        found = f"{strangers[0].subject} did not issue {last.subject}, whose issuer {issuer} is missing"
        yield local.CHAIN_GAP.found(found)
    sent = [each for each in certificates if each is leaf or each in chain.intermediates]
    if is_one_file and sent != [*chain.certificates]:
        yield local.CHAIN_ORDER.found(f"{leaf.source} has the certificates in another order than that of the chain")
