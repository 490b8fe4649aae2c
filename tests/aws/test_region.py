"""The ARNs of a session, their region, and the URL of CreateSession there."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import pytest
from botocore.endpoint_provider import EndpointProvider
from botocore.loaders import Loader
from botocore.session import Session
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._aws.region import (
    FIPS_REGIONS,
    Arn,
    EndpointFlags,
    check_arns,
    check_region,
    parse_arn,
    parse_canonical_arn,
    region_of,
    service_host,
    sessions_endpoint,
)
from hwsigner._http.address import Endpoint, is_loopback
from hwsigner.errors import UnsafeConnectionWarning, UsageError

UUID = "3f6c1a52-9d7e-4c1b-8a90-0f4b7d2c6e11"
ANCHOR = f"arn:aws:rolesanywhere:eu-west-1:123456789012:trust-anchor/{UUID}"
PROFILE = f"arn:aws:rolesanywhere:eu-west-1:123456789012:profile/{UUID}"
ANCHOR_ALIAS = "arn:aws:rolesanywhere:eu-west-1:123456789012:alias/trust-anchor/production-ca"
PROFILE_ALIAS = "arn:aws:rolesanywhere:eu-west-1:123456789012:alias/profile/Web_1/blue"
ROLE = "arn:aws:iam::123456789012:role/path/to/Example+=,.@-_role"
FLAGS = ("--trust-anchor-arn", "--profile-arn", "--role-arn")

REGION = "eu-west-1"


def test_arn_is_parsed_into_its_fields() -> None:
    assert parse_arn(ANCHOR, "--trust-anchor-arn") == Arn(
        "aws", "rolesanywhere", "eu-west-1", "123456789012", f"trust-anchor/{UUID}"
    )
    assert parse_arn(PROFILE, "--profile-arn").resource == f"profile/{UUID}"
    assert parse_arn(ROLE, "--role-arn") == Arn("aws", "iam", "", "123456789012", "role/path/to/Example+=,.@-_role")


def test_alias_arn_is_parsed_into_its_fields() -> None:
    assert parse_arn(ANCHOR_ALIAS, "--trust-anchor-arn").resource == "alias/trust-anchor/production-ca"
    assert parse_arn(PROFILE_ALIAS, "--profile-arn").resource == "alias/profile/Web_1/blue"


def test_region_is_the_trust_anchors() -> None:
    assert check_arns(ANCHOR_ALIAS, PROFILE_ALIAS, role=ROLE) == "eu-west-1"
    assert check_arns(ANCHOR, PROFILE_ALIAS, role=ROLE) == "eu-west-1"
    assert check_arns(ANCHOR, PROFILE, role=ROLE) == "eu-west-1"
    assert check_arns(ANCHOR, PROFILE, role=ROLE, region="") == "eu-west-1"
    assert check_arns(ANCHOR, PROFILE, role=ROLE, region="eu-west-1") == "eu-west-1"


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("text", [None, ""])
def test_missing_arn_is_an_error_with_an_example(flag: str, text: str | None) -> None:
    with pytest.raises(UsageError, match=f"^{flag} is missing") as caught:
        parse_arn(text, flag)
    assert "arn:aws:" in caught.value.hint
    assert "or name a profile of config.toml that has it" in caught.value.hint


@pytest.mark.parametrize("flag", FLAGS)
def test_arn_that_a_profile_lacks_is_an_error_with_the_command_that_adds_it(flag: str) -> None:
    arns = {"--trust-anchor-arn": ANCHOR, "--profile-arn": PROFILE, "--role-arn": ROLE, flag: ""}
    with pytest.raises(UsageError) as caught:
        check_arns(arns["--trust-anchor-arn"], arns["--profile-arn"], role=arns["--role-arn"], name="web")
    assert str(caught.value) == f"profile 'web' has no {flag[2:]}. Run hwsigner profile edit web {flag} ARN"


@pytest.mark.parametrize(
    ("flag", "text", "owner"),
    [
        ("--trust-anchor-arn", PROFILE, "--profile-arn"),
        ("--trust-anchor-arn", ROLE, "--role-arn"),
        ("--profile-arn", ANCHOR, "--trust-anchor-arn"),
        ("--role-arn", PROFILE, "--profile-arn"),
        ("--trust-anchor-arn", PROFILE_ALIAS, "--profile-arn"),
        ("--profile-arn", ANCHOR_ALIAS, "--trust-anchor-arn"),
        ("--role-arn", ANCHOR_ALIAS, "--trust-anchor-arn"),
    ],
)
def test_swapped_arn_names_the_right_flag(flag: str, text: str, owner: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_arn(text, flag)
    assert caught.value.message.startswith(f"{flag} is {text!r}, which is a ")
    assert owner in caught.value.hint


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--trust-anchor-arn", ANCHOR.replace("rolesanywhere", "acm-pca")),
        ("--trust-anchor-arn", ANCHOR.replace("arn:aws:", "arn:gcp:")),
        ("--trust-anchor-arn", ANCHOR.replace("arn:", "urn:")),
        ("--trust-anchor-arn", ANCHOR.replace("123456789012", "12345678901")),
        ("--trust-anchor-arn", ANCHOR.replace("123456789012", "١٢٣٤٥٦٧٨٩٠١٢")),
        ("--trust-anchor-arn", ANCHOR[:-1]),
        ("--trust-anchor-arn", ANCHOR + "/more"),
        ("--trust-anchor-arn", ANCHOR + "\n"),
        ("--trust-anchor-arn", ANCHOR + "é"),
        ("--trust-anchor-arn", " " + ANCHOR),
        ("--trust-anchor-arn", UUID),
        ("--profile-arn", PROFILE.replace("profile/", "profiles/")),
        ("--trust-anchor-arn", ANCHOR_ALIAS + "/"),
        ("--trust-anchor-arn", ANCHOR_ALIAS.replace("production-ca", "")),
        ("--trust-anchor-arn", ANCHOR_ALIAS.replace("alias/", "alias:")),
        ("--trust-anchor-arn", ANCHOR_ALIAS.replace("trust-anchor/", "crl/")),
        ("--trust-anchor-arn", ANCHOR_ALIAS.replace("trust-anchor/", "")),
        ("--profile-arn", PROFILE_ALIAS + "\n"),
        ("--role-arn", ROLE.replace("role/", "alias/role/")),
        ("--role-arn", ROLE.replace("::", ":eu-west-1:")),
        ("--role-arn", "arn:aws:iam::123456789012:user/me"),
        ("--role-arn", "arn:aws:iam::123456789012:role/"),
        ("--role-arn", "arn:aws:iam::123456789012:role/path/"),
        ("--role-arn", "arn:aws:iam::123456789012:role/" + "x" * 65),
        ("--role-arn", "arn:aws:iam::123456789012:role/a b"),
        ("--role-arn", "arn:aws:iam::123456789012:role/" + "p" * 3000 + "/x"),
        ("--role-arn", "arn:aws:sts::123456789012:assumed-role/x/y"),
    ],
)
def test_malformed_arn_is_an_error_with_flag_and_value(flag: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_arn(text, flag)
    assert caught.value.message.startswith(f"{flag} is ")
    assert caught.value.message.isprintable()
    assert text.strip()[:40] in caught.value.message
    assert len(caught.value.message) < 500


@functools.cache
def alias_shape() -> Any:
    return Session().get_service_model("rolesanywhere").shape_for("AliasName")


def service_accepts(name: str) -> bool:
    """Return whether an alias's name fits the pattern and length in botocore's model of the service."""
    limits = alias_shape().metadata
    return 1 <= len(name) <= limits["max"] and re.fullmatch(limits["pattern"], name) is not None


_LETTERS = st.text("aZ0_-/.é \n", min_size=1, max_size=6)


@given(st.one_of(_LETTERS, st.sampled_from(["a" * 256, "a" * 257, "aws/x", "a/b-c_d/E9", "a//b", "/a", "a/", "1a"])))
def test_alias_is_accepted_exactly_when_the_service_accepts_it(name: str) -> None:
    for flag, kind in (("--trust-anchor-arn", "trust-anchor"), ("--profile-arn", "profile")):
        text = f"arn:aws:rolesanywhere:eu-west-1:123456789012:alias/{kind}/{name}"
        if service_accepts(name):
            assert parse_arn(text, flag).resource == f"alias/{kind}/{name}"
        else:
            with pytest.raises(UsageError, match=f"^{flag} is "):
                parse_arn(text, flag)


def test_alias_is_an_error_where_only_the_canonical_arn_counts() -> None:
    assert parse_canonical_arn(ANCHOR, "--trust-anchor-arn") == parse_arn(ANCHOR, "--trust-anchor-arn")
    with pytest.raises(UsageError, match=r"^--trust-anchor-arn is .*, which is an alias") as caught:
        parse_canonical_arn(ANCHOR_ALIAS, "--trust-anchor-arn")
    assert "trust-anchor/UUID" in caught.value.hint


@pytest.mark.parametrize(
    "region",
    [
        "us-east-1",
        "us-gov-west-1",
        "eusc-de-east-1",
        "us-iso-east-1",
        "us-isob-east-1",
        "ap-southeast-10",
        "mx-central-1",
    ],
)
def test_region_is_accepted(region: str) -> None:
    assert parse_arn(ANCHOR.replace("eu-west-1", region), "--trust-anchor-arn").region == region


@pytest.mark.parametrize(
    "region",
    ["", "eu", "eu-west", "EU-WEST-1", "eu-west-1.evil.example", "eu-west-1/x", "eu_west_1", "a-b-1", "eu-west-1a"],
)
def test_malformed_region_is_an_error(region: str) -> None:
    with pytest.raises(UsageError, match="--profile-arn"):
        parse_arn(PROFILE.replace("eu-west-1", region), "--profile-arn")
    with pytest.raises(UsageError, match="--region is"):
        check_region(region)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"profile": PROFILE.replace("eu-west-1", "eu-west-2")}, ["--trust-anchor-arn", "--profile-arn", "eu-west-2"]),
        ({"profile": PROFILE.replace("arn:aws:", "arn:aws-cn:")}, ["--trust-anchor-arn", "--profile-arn", "aws-cn"]),
        ({"role": ROLE.replace("arn:aws:", "arn:aws-us-gov:")}, ["--trust-anchor-arn", "--role-arn", "aws-us-gov"]),
        ({"region": "us-east-1"}, ["--region", "us-east-1", "eu-west-1"]),
        ({"region": "moon"}, ["--region", "moon"]),
    ],
)
def test_arns_that_do_not_belong_together_are_an_error(change: dict[str, str], named: list[str]) -> None:
    given_values = {"trust_anchor": ANCHOR, "profile": PROFILE, "role": ROLE, **change}
    with pytest.raises(UsageError) as caught:
        check_arns(**given_values)
    assert all(name in caught.value.message for name in named)


_PARTS = st.sampled_from(["arn", "aws", "iam", "rolesanywhere", "eu-west-1", "123456789012", "", f"profile/{UUID}"])
_PIECES = st.lists(st.one_of(_PARTS, st.text(max_size=12)), max_size=8).map(":".join)


@given(st.one_of(st.text(), _PIECES))
def test_any_text_is_an_arn_or_a_usage_error(text: str) -> None:
    for flag in FLAGS:
        try:
            shown = ":".join(["arn", *parse_arn(text, flag)])
        except UsageError as error:
            shown = str(error)
        else:
            assert shown == text
        assert shown.isprintable()


@cache
def _partitions() -> Any:
    return Loader().load_data("partitions")


def _regions() -> Iterator[str]:
    for partition in _partitions()["partitions"]:
        yield from (name for name in partition["regions"] if not name.endswith("-global"))


def test_hosts_agree_with_botocore() -> None:
    rules = Loader().load_service_model("rolesanywhere", "endpoint-rule-set-1")
    judge = EndpointProvider(rules, _partitions())
    checked = 0
    for region, fips, dual_stack in product(_regions(), (False, True), (False, True)):
        if fips and region not in FIPS_REGIONS:
            continue
        expected = judge.resolve_endpoint(Region=region, UseFIPS=fips, UseDualStack=dual_stack).url
        assert f"https://{service_host(region, fips=fips, dual_stack=dual_stack)}" == expected
        assert region_of(service_host(region, fips=fips, dual_stack=dual_stack)) == region
        checked += 1
    assert checked > 80


def chosen(region: str, *, endpoint: str | None = None, **options: Any) -> Endpoint:
    return sessions_endpoint(region, **{"flags": EndpointFlags(endpoint), **options})[0]


def test_url_is_derived_from_the_region() -> None:
    endpoint = chosen(REGION, environ={})
    assert endpoint == Endpoint("https", "rolesanywhere.eu-west-1.amazonaws.com", 443, "/sessions")
    assert endpoint.host_header == "rolesanywhere.eu-west-1.amazonaws.com"
    assert endpoint.url == "https://rolesanywhere.eu-west-1.amazonaws.com/sessions"


def test_environment_chooses_fips_and_dual_stack_hosts() -> None:
    fips, dual = {"AWS_USE_FIPS_ENDPOINT": "true"}, {"AWS_USE_DUALSTACK_ENDPOINT": "True"}
    assert chosen("us-east-1", environ=fips).host == "rolesanywhere-fips.us-east-1.amazonaws.com"
    assert chosen(REGION, environ=dual).host == "rolesanywhere.eu-west-1.api.aws"
    assert chosen("us-gov-west-1", environ=fips | dual).host == "rolesanywhere-fips.us-gov-west-1.api.aws"
    for flags in (EndpointFlags(fips=True), EndpointFlags(dual_stack=False), EndpointFlags(dual_stack=True, fips=True)):
        host = service_host("us-east-1", fips=bool(flags.fips), dual_stack=bool(flags.dual_stack))
        for environ in ({}, {"AWS_USE_DUALSTACK_ENDPOINT": str(not flags.dual_stack)}):
            if flags.dual_stack is not None or not environ:
                assert chosen("us-east-1", environ=environ, flags=flags).host == host
    off = {"AWS_USE_FIPS_ENDPOINT": "false", "AWS_USE_DUALSTACK_ENDPOINT": ""}
    assert chosen(REGION, environ=off).host == "rolesanywhere.eu-west-1.amazonaws.com"


def test_fips_in_another_region_is_an_error_that_lists_the_six() -> None:
    with pytest.raises(UsageError, match=r"AWS_USE_FIPS_ENDPOINT.*eu-west-1") as caught:
        chosen(REGION, environ={"AWS_USE_FIPS_ENDPOINT": "true"})
    assert len(FIPS_REGIONS) == 6
    assert all(region in caught.value.hint for region in FIPS_REGIONS)


@pytest.mark.parametrize(
    "name", ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"]
)
def test_variable_other_than_true_or_false_is_an_error(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} is 'yes'"):
        chosen(REGION, environ={name: "yes"})


def test_flag_that_asks_for_fips_in_another_region_is_named() -> None:
    with pytest.raises(UsageError, match=r"^--use-fips-endpoint is true, but region eu-west-1 has no FIPS endpoint"):
        chosen(REGION, environ={}, flags=EndpointFlags(fips=True))
    fips = {"AWS_USE_FIPS_ENDPOINT": "true"}
    assert chosen(REGION, environ=fips, flags=EndpointFlags(fips=False)).host == service_host(REGION)


@pytest.mark.parametrize(
    ("environ", "flags", "source"),
    [
        ({}, EndpointFlags(), "region us-east-1"),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, EndpointFlags(), "region us-east-1 and AWS_USE_FIPS_ENDPOINT"),
        (
            {},
            EndpointFlags(fips=True, dual_stack=True),
            "region us-east-1 and --use-fips-endpoint and --use-d",
        ),
        ({"AWS_ENDPOINT_URL": "https://a.example"}, EndpointFlags(fips=True), "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "https://a.example"}, EndpointFlags("https://b.example"), "--endpoint"),
    ],
)
def test_source_of_the_endpoint_is_named(environ: dict[str, str], flags: EndpointFlags, source: str) -> None:
    assert sessions_endpoint("us-east-1", environ=environ, flags=flags)[1].startswith(source)


def test_malformed_region_has_no_endpoint() -> None:
    with pytest.raises(UsageError):
        chosen("evil.example/", environ={})


def test_flag_and_variables_take_precedence_in_order() -> None:
    general = {"AWS_ENDPOINT_URL": "https://general.example"}
    service = general | {"AWS_ENDPOINT_URL_ROLESANYWHERE": "https://service.example"}
    ignore = {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
    assert chosen(REGION, environ=general).host == "general.example"
    assert chosen(REGION, environ=service).host == "service.example"
    assert chosen(REGION, environ=service, endpoint="https://flag.example").host == "flag.example"
    assert chosen(REGION, environ=service, endpoint="").host == "service.example"
    assert chosen(REGION, environ=service | ignore).host == "rolesanywhere.eu-west-1.amazonaws.com"
    assert chosen(REGION, environ=service | ignore, endpoint="https://flag.example").host == "flag.example"


@pytest.mark.parametrize(
    ("text", "expected", "header"),
    [
        ("https://h.example", Endpoint("https", "h.example", 443, "/sessions"), "h.example"),
        ("https://h.example/", Endpoint("https", "h.example", 443, "/sessions"), "h.example"),
        ("HTTPS://H.Example:8443/x/y/", Endpoint("https", "h.example", 8443, "/x/y/sessions"), "h.example:8443"),
        ("https://h.example:443/a%20b", Endpoint("https", "h.example", 443, "/a%20b/sessions"), "h.example"),
        ("https://h.example:", Endpoint("https", "h.example", 443, "/sessions"), "h.example"),
        ("https://[2001:DB8::1]:444", Endpoint("https", "2001:db8::1", 444, "/sessions"), "[2001:db8::1]:444"),
        ("https://[2001:db8::1]", Endpoint("https", "2001:db8::1", 443, "/sessions"), "[2001:db8::1]"),
        ("https://192.0.2.7", Endpoint("https", "192.0.2.7", 443, "/sessions"), "192.0.2.7"),
        ("http://localhost:80", Endpoint("http", "localhost", 80, "/sessions"), "localhost"),
        ("http://127.0.0.9:443", Endpoint("http", "127.0.0.9", 443, "/sessions"), "127.0.0.9:443"),
        ("http://[::1]:8080", Endpoint("http", "::1", 8080, "/sessions"), "[::1]:8080"),
    ],
)
def test_url_is_parsed(text: str, expected: Endpoint, header: str) -> None:
    endpoint = chosen(REGION, environ={}, endpoint=text)
    assert endpoint == expected
    assert endpoint.host_header == header
    assert endpoint.url == f"{expected.scheme}://{header}{expected.path}"


@pytest.mark.parametrize(
    "text",
    [
        "h.example", "//h.example", "ftp://h.example", "https:///x", "https://", "https://h.example?x=1",
        "https://h.example#x", "https://h.example/?", "https://h.example/#", "https://h.example:0", "https://h.example:65536",
        "https://h.example:x", "https://h.example:-1", "https://h.example:١", "https://h..example", "https://-\x00",
        "https://h.example/\n", "https://h.exa\tmple", "https://h.example/a b", "https://h.example/%zz", "https://hé.example",
        "https://h.example/é", "https://[::1", "https://[::1]x", "https://[::1]x:80", "https://[fe80::1%25eth0]", "https://::1",
        "https://[v1.x]", "https://h.example\\@other", "https://" + "a" * 64, " https://h.example",
    ],
)  # fmt: skip
def test_malformed_url_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--endpoint is ") as caught:
        chosen(REGION, environ={}, endpoint=text)
    assert str(caught.value).isprintable()
    with pytest.raises(UsageError, match=r"^AWS_ENDPOINT_URL is "):
        chosen(REGION, environ={"AWS_ENDPOINT_URL": text})


def test_url_with_a_password_is_an_error_that_hides_it() -> None:
    with pytest.raises(UsageError, match="--endpoint") as caught:
        chosen(REGION, environ={}, endpoint="https://me:hunter2@h.example")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["h.example", "192.0.2.7", "localhost.example", "127.0.0.1.example", "127.1", "[::2]"])
def test_http_to_another_machine_is_an_error_unless_unverified(host: str) -> None:
    with pytest.raises(UsageError, match=r"^AWS_ENDPOINT_URL is http://.* for this machine only") as caught:
        chosen(REGION, environ={"AWS_ENDPOINT_URL": f"http://{host}"})
    assert "--no-verify-ssl" in caught.value.hint
    with pytest.warns(UnsafeConnectionWarning, match="--no-verify-ssl"):
        assert chosen(REGION, environ={}, endpoint=f"http://{host}", verify=False).scheme == "http"


@pytest.mark.parametrize("url", [None, "https://h.example", "http://localhost:8080"])
def test_no_verify_ssl_warns_at_each_use(url: str | None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            chosen(REGION, environ={}, endpoint=url, verify=False)
    assert [type(warning.message) for warning in caught] == [UnsafeConnectionWarning] * 2


def test_loopback_hosts_are_recognized() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"]))
    assert not any(map(is_loopback, ["", "localhost.", "x.localhost", "128.0.0.1", "::", "0.0.0.0", "::ffff:10.0.0.1"]))


@given(st.one_of(st.text(), st.text().map("https://".__add__), st.from_regex(r"https://[\[\]a-z0-9.:@/?#%-]{0,30}")))
def test_any_text_is_a_safe_url_or_a_usage_error(text: str) -> None:
    try:
        endpoint = chosen(REGION, environ={}, endpoint=text)
    except UsageError as error:
        shown = str(error)
    else:
        shown = endpoint.url
        assert endpoint.url.isascii()
        assert not set(endpoint.url) & set(" @?#\\")
        assert endpoint.path.endswith("/sessions")
        assert 0 < endpoint.port < 65536
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("vpce-0a1b-c2d.rolesanywhere.us-east-1.vpce.amazonaws.com", "us-east-1"),
        ("vpce-0a1b-c2d-us-east-1a.rolesanywhere.us-east-1.vpce.amazonaws.com", "us-east-1"),
        ("RolesAnywhere.eu-west-1.amazonaws.com.", "eu-west-1"),
        ("localhost", ""),
        ("127.0.0.1", ""),
        ("rolesanywhere.eu-west-1.example.com", ""),
        ("rolesanywhere.eu-west-1.amazonaws.com.example.com", ""),
        ("sts.eu-west-1.amazonaws.com", ""),
    ],
)
def test_region_is_known_of_the_service_s_own_hosts_alone(host: str, region: str) -> None:
    assert region_of(host) == region
