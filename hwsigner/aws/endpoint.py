"""The URL of CreateSession: from `--endpoint`, the environment, or the region."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

from hwsigner.aws.arn import check_region
from hwsigner.aws.config_file import Setting
from hwsigner.errors import UnsafeConnectionWarning, UsageError
from hwsigner.http.address import Endpoint, check_protected, read_url

FIPS_REGIONS = ("us-east-1", "us-east-2", "us-gov-east-1", "us-gov-west-1", "us-west-1", "us-west-2")

# By the start of the region's name: the domain, and the domain of dual-stack hosts.
_DOMAINS = (
    ("cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
    ("eusc-", "amazonaws.eu", "api.amazonwebservices.eu"),
    ("us-iso-", "c2s.ic.gov", "api.aws.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov", "api.aws.scloud"),
    ("us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
    ("", "amazonaws.com", "api.aws"),
)


def sessions_endpoint(
    region: str,
    *,
    environ: Mapping[str, str],
    endpoint: str | None = None,
    verify: bool = True,
    config: Mapping[str, Setting] | None = None,
) -> Endpoint:
    """Return the URL of CreateSession.

    The order is `--endpoint`, AWS_ENDPOINT_URL_ROLESANYWHERE, AWS_ENDPOINT_URL, the config file's `endpoint_url`, and
    the region's host, for which AWS_USE_FIPS_ENDPOINT and AWS_USE_DUALSTACK_ENDPOINT apply. If
    AWS_IGNORE_CONFIGURED_ENDPOINT_URLS (else `ignore_configured_endpoint_urls` of the config file) is true, the two
    variables with a URL and `endpoint_url` are ignored.

    Args:
        region: the region, such as `us-east-1`.
        environ: the environment variables.
        endpoint: the value of `--endpoint`; None or an empty string if it was not given.
        verify: False for `--no-verify-ssl`.
        config: the settings of the SDKs' config file.

    Raises:
        UsageError: the URL, region or a variable is malformed, the region has no FIPS host, or the URL is `http:` on
            another machine and `verify` is True.
        ConfigError: the URL is the config file's, and other users can write that file.

    Warns:
        UnsafeConnectionWarning: `verify` is False.
    """
    fips, dual_stack = _is_true(environ, "AWS_USE_FIPS_ENDPOINT"), _is_true(environ, "AWS_USE_DUALSTACK_ENDPOINT")
    source, url = _configured_url(environ, endpoint, config or {})
    if url:
        base = read_url(source, url)
    else:
        base = Endpoint("https", service_host(region, fips=fips, dual_stack=dual_stack), 443, "")
    _check_safety(source, base, verify)
    return base._replace(path=base.path.rstrip("/") + "/sessions")


def service_host(region: str, *, fips: bool = False, dual_stack: bool = False) -> str:
    """Return the host name of a region's service.

    Raises:
        UsageError: the region is invalid, or has no FIPS host.
    """
    check_region(region)
    if fips and region not in FIPS_REGIONS:
        raise UsageError(
            f"AWS_USE_FIPS_ENDPOINT is true, but region {region} has no FIPS endpoint",
            f"Use one of {', '.join(FIPS_REGIONS)}, or unset AWS_USE_FIPS_ENDPOINT",
        )
    domain, dual_stack_domain = next(names for prefix, *names in _DOMAINS if region.startswith(prefix))
    service = "rolesanywhere-fips" if fips else "rolesanywhere"
    return f"{service}.{region}.{dual_stack_domain if dual_stack else domain}"


def region_of(host: str) -> str:
    """Return the region in the name of one of the service's hosts, also in a VPC endpoint's; "" for other hosts."""
    domains = "|".join(re.escape(domain) for _, *names in _DOMAINS for domain in names)
    found = re.fullmatch(rf"(?:.+\.)?rolesanywhere(?:-fips)?\.([^.]+)\.(?:vpce\.)?(?:{domains})\.?", host.lower())
    return found[1] if found else ""


def _configured_url(environ: Mapping[str, str], endpoint: str | None, config: Mapping[str, Setting]) -> tuple[str, str]:
    """Return the flag, variable or setting that gives a URL, and the URL. Both are empty if none does."""
    if endpoint:
        return "--endpoint", endpoint
    ignore, setting = "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", config.get("ignore_configured_endpoint_urls")
    source, values = (setting.source, {setting.source: setting.value}) if setting else (ignore, environ)
    is_ignored = _is_true(environ, ignore) if environ.get(ignore) else _is_true(values, source)
    if not is_ignored:
        for name in ("AWS_ENDPOINT_URL_ROLESANYWHERE", "AWS_ENDPOINT_URL"):
            if environ.get(name):
                return name, environ[name]
        if "endpoint_url" in config:
            return config["endpoint_url"].source, config["endpoint_url"].trusted()
    return "", ""


def _is_true(environ: Mapping[str, str], name: str) -> bool:
    value = environ.get(name, "").lower()
    if value not in ("", "true", "false"):
        raise UsageError(f"{name} is {value!r}, which is neither true nor false", "Set it to true or false")
    return value == "true"


def _check_safety(source: str, endpoint: Endpoint, verify: bool) -> None:
    if not verify:
        warnings.warn(
            UnsafeConnectionWarning(f"--no-verify-ssl: nothing proves that {endpoint.host_header} is the service"),
            stacklevel=3,
        )
    else:
        check_protected(source, endpoint, "Use https:, or accept an unprotected connection with --no-verify-ssl")
