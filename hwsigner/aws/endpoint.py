"""Where CreateSession is: derived from the region, or told by `--endpoint` or the environment."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

from hwsigner.aws.arn import check_region
from hwsigner.errors import UnsafeConnectionWarning, UsageError
from hwsigner.http.address import DEFAULT_PORTS, Endpoint, is_loopback, parse_host

FIPS_REGIONS = ("us-east-1", "us-east-2", "us-gov-east-1", "us-gov-west-1", "us-west-1", "us-west-2")

# By the beginning of the region's name: the domain, and the domain of dual-stack hosts.
_DOMAINS = (
    ("cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    ("eusc-", "amazonaws.eu", "api.amazonwebservices.eu"),
    ("us-iso-", "c2s.ic.gov", "api.aws.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov", "api.aws.scloud"),
    ("us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    ("", "amazonaws.com", "api.aws"),
)
_PATH = re.compile(r"(/([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*")


def sessions_url(
    region: str, *, environ: Mapping[str, str], endpoint: str | None = None, verify: bool = True
) -> Endpoint:
    """Return the URL of CreateSession.

    `--endpoint` wins over AWS_ENDPOINT_URL_ROLESANYWHERE, that over AWS_ENDPOINT_URL, and these over the region's own
    host, which AWS_USE_FIPS_ENDPOINT and AWS_USE_DUALSTACK_ENDPOINT choose among. With
    AWS_IGNORE_CONFIGURED_ENDPOINT_URLS the two variables with a URL do not count.

    Args:
        region: as in `us-east-1`.
        environ: the environment variables.
        endpoint: what `--endpoint` holds; None or an empty string when it was not given.
        verify: False for `--no-verify-ssl`.

    Raises:
        UsageError: a malformed URL, region or switch; no FIPS host there; `http:` off loopback without `verify=False`.

    Warns:
        UnsafeConnectionWarning: whenever `verify` is False.
    """
    fips, dual_stack = _switch(environ, "AWS_USE_FIPS_ENDPOINT"), _switch(environ, "AWS_USE_DUALSTACK_ENDPOINT")
    source, url = _configured(environ, endpoint)
    if url:
        base = _parse(source, url)
    else:
        base = Endpoint("https", derived_host(region, fips=fips, dual_stack=dual_stack), 443, "")
    _check_safety(source, base, verify)
    return base._replace(path=base.path.rstrip("/") + "/sessions")


def derived_host(region: str, *, fips: bool = False, dual_stack: bool = False) -> str:
    """Return the name of a region's own host.

    Raises:
        UsageError: the region is none, or has no FIPS host.
    """
    check_region(region)
    if fips and region not in FIPS_REGIONS:
        raise UsageError(
            f"AWS_USE_FIPS_ENDPOINT is true and region {region} has no FIPS endpoint",
            f"Regions that have one: {', '.join(FIPS_REGIONS)}",
        )
    domain, dual_stack_domain = next(names for prefix, *names in _DOMAINS if region.startswith(prefix))
    service = "rolesanywhere-fips" if fips else "rolesanywhere"
    return f"{service}.{region}.{dual_stack_domain if dual_stack else domain}"


def _configured(environ: Mapping[str, str], endpoint: str | None) -> tuple[str, str]:
    """Return the first given URL and the name of what holds it; an empty URL when none does."""
    if endpoint:
        return "--endpoint", endpoint
    if not _switch(environ, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        for name in ("AWS_ENDPOINT_URL_ROLESANYWHERE", "AWS_ENDPOINT_URL"):
            if environ.get(name):
                return name, environ[name]
    return "", ""


def _switch(environ: Mapping[str, str], name: str) -> bool:
    value = environ.get(name, "").lower()
    if value not in ("", "true", "false"):
        raise UsageError(f"{name} holds {value!r}", "Set it to true or false")
    return value == "true"


def _parse(source: str, url: str) -> Endpoint:
    # The URL is not shown before it is known to hold no password.
    if "@" in url:
        raise UsageError(f"{source} holds a URL with a user name or an @", "Write https://host, with no user in it")
    scheme, _, rest = url.partition("://")
    netloc, slash, path = rest.partition("/")
    try:
        host, port = parse_host(netloc)
    except ValueError:
        host, port = "", None
    scheme = scheme.lower()
    if scheme not in DEFAULT_PORTS or not host or not _PATH.fullmatch(slash + path):
        raise UsageError(
            f"{source} holds {url!r}, which is no URL of an endpoint",
            "Write https://host, if need be with :port and /path, without a query",
        )
    return Endpoint(scheme, host, port or DEFAULT_PORTS[scheme], slash + path)


def _check_safety(source: str, endpoint: Endpoint, verify: bool) -> None:
    if not verify:
        warnings.warn(
            UnsafeConnectionWarning(f"--no-verify-ssl: nothing proves that {endpoint.host_header} is the service"),
            stacklevel=3,
        )
    elif endpoint.scheme == "http" and not is_loopback(endpoint.host):
        raise UsageError(
            f"{source} holds an http: URL, {endpoint.url}, and {endpoint.host} is not this machine",
            "Write https:, or accept an unprotected connection with --no-verify-ssl",
        )
