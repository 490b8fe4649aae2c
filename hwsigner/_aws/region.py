"""The region of a session: its three ARNs, checked to belong together, and the URL of CreateSession in that region.

    arn:aws:rolesanywhere:eu-west-1:123456789012:trust-anchor/UUID
    arn:aws:rolesanywhere:eu-west-1:123456789012:profile/UUID
    arn:aws:rolesanywhere:eu-west-1:123456789012:alias/trust-anchor/NAME      and alias/profile/NAME
    arn:aws:iam::123456789012:role/path/name              IAM is global: no region

Whether the account, trust anchor, profile and role exist and fit is for the service to say.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Final, NamedTuple

from hwsigner._aws.config_file import Setting
from hwsigner._http.address import Endpoint, check_protected, read_url
from hwsigner.errors import UnsafeConnectionWarning, UsageError, check_text

MAX_ARN_LENGTH = 2048
_LONGEST_SHOWN = 200

# Strict, as a region becomes part of a host name: us-east-1, us-gov-west-1, eusc-de-east-1, us-isob-east-1.
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]{2,12}){1,2}-[0-9]{1,2}")
_PARTITION = re.compile(r"aws(-[a-z]{1,12}){0,3}")
_ACCOUNT = re.compile(r"[0-9]{12}")
# Shaped like a UUID. As in the service's own pattern, the characters need not be hexadecimal.
_UUID = r"[0-9A-Za-z]{8}(-[0-9A-Za-z]{4}){3}-[0-9A-Za-z]{12}"
_ROLE = r"([\x21-\x7e]*/)?[A-Za-z0-9_+=,.@-]{1,64}"
# An alias's name, as in the service's own pattern.
_ALIAS = r"(?!.*//)[A-Za-z]([A-Za-z0-9_/-]{0,254}[A-Za-z0-9_-])?"

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


class Arn(NamedTuple):
    """A parsed ARN. `region` is empty for a role; `resource` is, for example, `profile/UUID` or `alias/profile/web`."""

    partition: str
    service: str
    region: str
    account: str
    resource: str


class _ArnKind:
    def __init__(self, name: str, service: str, resource: str, pattern: str, example: str) -> None:
        self.name: Final = name
        self.service: Final = service
        self.resource: Final = resource
        self.pattern: Final = pattern
        self.example: Final = example

    def names(self, resource: str) -> bool:
        """Return whether an ARN's resource is of this kind, or an alias of one."""
        alias = resource.removeprefix(f"alias/{self.resource}/")
        if alias != resource:
            return self.pattern == _UUID and bool(re.fullmatch(_ALIAS, alias))
        kind, _, name = resource.partition("/")
        return kind == self.resource and bool(re.fullmatch(self.pattern, name))


_ARN = "arn:aws:rolesanywhere:REGION:ACCOUNT:"
_KINDS = {
    "--trust-anchor-arn": _ArnKind("trust anchor", "rolesanywhere", "trust-anchor", _UUID, f"{_ARN}trust-anchor/UUID"),
    "--profile-arn": _ArnKind("profile", "rolesanywhere", "profile", _UUID, f"{_ARN}profile/UUID"),
    "--role-arn": _ArnKind("role", "iam", "role", _ROLE, "arn:aws:iam::ACCOUNT:role/NAME"),
}


def parse_arn(text: str | None, flag: str, *, name: str = "") -> Arn:
    """Parse the value of an ARN flag.

    `name` is the profile of config.toml that may have it, for the error if it is missing.
    """
    kind = _KINDS[flag]
    if not text:
        if name:
            problem = f"profile '{name}' has no {flag.removeprefix('--')}"
            raise UsageError(problem, f"Run hwsigner profile edit {name} {flag} ARN")
        hint = f"Give it, such as {kind.example}, or name a profile of config.toml that has it"
        raise UsageError(f"{flag} is missing", hint)
    arn = _match(text, kind)
    if arn is None:
        raise _wrong_arn(text, flag)
    if arn.service != "iam":
        check_region(arn.region, f"the region of {flag}")
    return arn


def parse_then_role(text: str, own: str) -> Arn:
    """Parse the value of `--then-role`.

    It must be a role's, in the partition of `own`, the role that assumes it, unless that is empty.
    """
    kind = _KINDS["--role-arn"]
    arn = _match(text, kind)
    if arn is None:
        raise UsageError(f"--then-role is {_shown(text)}, which is not a role ARN", f"Use {kind.example}")
    if own.startswith("arn:") and not own.startswith(f"arn:{arn.partition}:"):
        raise UsageError(f"--then-role is {text}, which is in another partition", f"Use one like that of {own}")
    return arn


def parse_canonical_arn(text: str | None, flag: str) -> Arn:
    """Parse the value of an ARN flag that must not be the ARN of an alias, as in IAM policies."""
    arn = parse_arn(text, flag)
    if arn.resource.startswith("alias/"):
        raise UsageError(f"{flag} is {_shown(text or '')}, which is an alias", f"Use {_KINDS[flag].example}")
    return arn


def check_region(text: str, source: str = "--region") -> str:
    """Return a region's name, checked."""
    check_text(text, source)
    if not text:
        raise UsageError(f"{source} is empty", "Use a region such as us-east-1")
    if not _REGION.fullmatch(text):
        raise UsageError(f"{source} is {_shown(text)}, which is not a region", "Use a region such as us-east-1")
    return text


def check_arns(
    trust_anchor: str | None, profile: str | None, *, role: str | None, region: str | None = None, name: str = ""
) -> str:
    """Check the three ARNs and the region of a session, and return the region.

    If no region is given, it is the trust anchor's. `name` is the profile of config.toml that may have the ARNs, for
    the error if one is missing.
    """
    anchor_arn = parse_arn(trust_anchor, "--trust-anchor-arn", name=name)
    profile_arn = parse_arn(profile, "--profile-arn", name=name)
    role_arn = parse_arn(role, "--role-arn", name=name)
    for flag, other in (("--profile-arn", profile_arn), ("--role-arn", role_arn)):
        if other.partition != anchor_arn.partition:
            problem = f"--trust-anchor-arn is in partition {anchor_arn.partition}, but {flag} is in {other.partition}"
            raise UsageError(problem, "Use ARNs of the same partition")
    if profile_arn.region != anchor_arn.region:
        problem = f"--trust-anchor-arn is in region {anchor_arn.region}, but --profile-arn is in {profile_arn.region}"
        raise UsageError(problem, "Use a trust anchor and a Roles Anywhere profile in the same region")
    if region and check_region(region) != anchor_arn.region:
        problem = f"--region is {region}, but the trust anchor is in {anchor_arn.region}"
        raise UsageError(problem, "Omit --region, or use the trust anchor's region")
    return anchor_arn.region


def check_known_arns(values: Mapping[str, object]) -> None:
    """Check the ARNs that a profile of config.toml has, which may be some of the three.

    The values are by flag, such as "role-arn". Empty ones are skipped.
    """
    known = {flag: str(values[name]) for flag in _KINDS if values.get(name := flag.removeprefix("--"))}
    accounts = {parse_arn(text, flag).account: flag for flag, text in known.items()}
    if len(accounts) > 1:
        (one, flag), (other, other_flag) = [*accounts.items()][:2]
        problem = f"{flag} is of account {one}, but {other_flag} is of {other}"
        raise UsageError(problem, "Use those of one account; hwsigner profile add --then-role is for a role of another")
    if len(known) == len(_KINDS):
        check_arns(known["--trust-anchor-arn"], known["--profile-arn"], role=known["--role-arn"])


def _match(text: str, kind: _ArnKind) -> Arn | None:
    """Return the ARN if it is of this kind, with any text as its region."""
    fields = text.split(":", 5)
    if len(text) > MAX_ARN_LENGTH or len(fields) != 6 or fields[0] != "arn":
        return None
    arn = Arn(*fields[1:])
    fits = (
        _PARTITION.fullmatch(arn.partition)
        and arn.service == kind.service
        and (arn.service != "iam" or not arn.region)
        and _ACCOUNT.fullmatch(arn.account)
        and kind.names(arn.resource)
    )
    return arn if fits else None


def _wrong_arn(text: str, flag: str) -> UsageError:
    kind = _KINDS[flag]
    for other_flag, other in _KINDS.items():
        if _match(text, other):
            problem = f"{flag} is {_shown(text)}, which is a {other.name} ARN"
            return UsageError(problem, f"Give it to {other_flag}, and use {kind.example} for {flag}")
    return UsageError(f"{flag} is {_shown(text)}, which is not a {kind.name} ARN", f"Use {kind.example}")


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]!r}…"


class EndpointFlags(NamedTuple):
    """What flags say about the endpoint; None if they were not given. An empty URL counts as None."""

    url: str | None = None
    fips: bool | None = None
    dual_stack: bool | None = None


def sessions_endpoint(
    region: str,
    *,
    environ: Mapping[str, str],
    flags: EndpointFlags = EndpointFlags(),  # noqa: B008
    verify: bool = True,
    config: Mapping[str, Setting] | None = None,
) -> tuple[Endpoint, str]:
    """Return the URL of CreateSession, and what chose it, for people.

    The order is `--endpoint`, AWS_ENDPOINT_URL_ROLESANYWHERE, AWS_ENDPOINT_URL, the config file's `endpoint_url`, and
    the region's host. That is the FIPS or dual-stack one as `--use-fips-endpoint` and `--use-dualstack-endpoint` say,
    else AWS_USE_FIPS_ENDPOINT and AWS_USE_DUALSTACK_ENDPOINT, else `use_fips_endpoint` and `use_dualstack_endpoint` of
    the config file. If AWS_IGNORE_CONFIGURED_ENDPOINT_URLS (else `ignore_configured_endpoint_urls` of the config file)
    is true, the two variables with a URL and `endpoint_url` are ignored. A URL that is `http:` on another machine is an
    error, unless `verify` is False. So is the config file's URL, if other users can write that file.
    """
    config = config or {}
    fips = _variant("AWS_USE_FIPS_ENDPOINT", flags.fips, environ, config)
    dual_stack = _variant("AWS_USE_DUALSTACK_ENDPOINT", flags.dual_stack, environ, config)
    source, url = _configured_url(environ, flags.url, config)
    if url:
        base = read_url(source, url)
    else:
        if fips and region not in FIPS_REGIONS:
            problem = f"{fips} is true, but region {region} has no FIPS endpoint"
            hint = f"Use one of {', '.join(FIPS_REGIONS)}, or turn it off with --use-fips-endpoint=false"
            raise UsageError(problem, hint)
        base = Endpoint("https", service_host(region, fips=bool(fips), dual_stack=bool(dual_stack)), 443, "")
        source = " and ".join(filter(None, (f"region {region}", fips, dual_stack)))
    _check_safety(source, base, verify)
    return base._replace(path=base.path.rstrip("/") + "/sessions"), source


def service_host(region: str, *, fips: bool = False, dual_stack: bool = False) -> str:
    """Return the host name of a region's service."""
    check_region(region)
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
    if not _source_of_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", environ, config):
        for name in ("AWS_ENDPOINT_URL_ROLESANYWHERE", "AWS_ENDPOINT_URL"):
            if environ.get(name):
                return name, environ[name]
        if "endpoint_url" in config:
            return config["endpoint_url"].source, config["endpoint_url"].trusted()
    return "", ""


def _variant(variable: str, flag: bool | None, environ: Mapping[str, str], config: Mapping[str, Setting]) -> str:
    """Return the flag, variable or setting that asks for a variant of the region's endpoint; empty if none does."""
    if flag is not None:
        return f"--{variable.removeprefix('AWS_').lower().replace('_', '-')}" if flag else ""
    return _source_of_true(variable, environ, config)


def _source_of_true(variable: str, environ: Mapping[str, str], config: Mapping[str, Setting]) -> str:
    """Return the variable, or else the setting of its name, if it is true; empty if it is not."""
    source, value = variable, environ.get(variable, "")
    if not value and (setting := config.get(variable.removeprefix("AWS_").lower())):
        source, value = setting.source, setting.value
    if value.lower() not in ("", "true", "false"):
        raise UsageError(f"{source} is {_shown(value)}, which is neither true nor false", "Set it to true or false")
    return source if value.lower() == "true" else ""


def _check_safety(source: str, endpoint: Endpoint, verify: bool) -> None:
    if not verify:
        message = f"--no-verify-ssl: nothing proves that {endpoint.host_header} is the service"
        warnings.warn(UnsafeConnectionWarning(message), stacklevel=3)
    else:
        check_protected(source, endpoint, "Use https:, or accept an unprotected connection with --no-verify-ssl")
