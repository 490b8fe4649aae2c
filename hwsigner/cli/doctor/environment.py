"""Mistakes of the environment: credentials, endpoint, proxy and CAs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hwsigner.aws.config_file import read_config
from hwsigner.aws.create_session import find_service
from hwsigner.aws.region import region_of, sessions_endpoint
from hwsigner.errors import ConfigError, HwsignerWarning, UsageError
from hwsigner.findings import Finding, local
from hwsigner.http.address import is_loopback
from hwsigner.http.connection import find_proxy
from hwsigner.system.files import check_no_pipe

if TYPE_CHECKING:
    from hwsigner.cli.doctor.subject import Subject

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_WEB_IDENTITY = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME")


def check_variables(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the variables whose credentials the SDKs prefer to those of a profile."""
    for variables in (_KEYS, _WEB_IDENTITY):
        named = [name for name in variables if environ.get(name)]
        if variables[0] in named:
            yield local.ENVIRONMENT_KEYS.found(f"{named[0]} is set", f"Run unset {' '.join(named)}")


def check(subject: Subject) -> list[Finding]:
    """Return what keeps CreateSession's server from being found. Nothing is sent."""
    parts = str(subject.settings.trust_anchor_arn or "").split(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HwsignerWarning)  # That a flag is unsafe, the commands say.
        return list(_check_region(subject, parts[3])) if len(parts) == 6 else []


def _check_region(subject: Subject, region: str) -> Iterator[Finding]:
    environ, given, verify = subject.environ, subject.settings.endpoint, not subject.settings.no_verify_ssl
    try:
        config = read_config(environ)
        endpoint = sessions_endpoint(region, environ=environ, endpoint=given, verify=verify, config=config)
    except UsageError as error:
        yield local.ENDPOINT_INVALID.found_by(error)
        return
    signed = subject.settings.region or region
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
        transport = find_service(region, endpoint=given, verify=verify, environ=environ).transport
        if transport.cas and transport.cas.file:
            check_no_pipe(transport.cas.file, ConfigError)
        transport.read_cas()
    except ConfigError as error:
        yield local.CA_UNREADABLE.found_by(error)
    except UsageError as error:
        yield local.CONNECTION_SETTING.found_by(error)
