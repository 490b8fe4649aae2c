from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import pytest
from botocore.endpoint_provider import EndpointProvider
from botocore.loaders import Loader
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.aws.endpoint import FIPS_REGIONS, derived_host, sessions_url
from hwsigner.errors import UnsafeConnectionWarning, UsageError
from hwsigner.http.address import Endpoint, is_loopback

REGION = "eu-west-1"


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
        assert f"https://{derived_host(region, fips=fips, dual_stack=dual_stack)}" == expected
        checked += 1
    assert checked > 80


def test_the_derived_url() -> None:
    url = sessions_url(REGION, environ={})
    assert url == Endpoint("https", "rolesanywhere.eu-west-1.amazonaws.com", 443, "/sessions")
    assert url.host_header == "rolesanywhere.eu-west-1.amazonaws.com"
    assert url.url == "https://rolesanywhere.eu-west-1.amazonaws.com/sessions"


def test_switches_of_the_environment() -> None:
    fips, dual = {"AWS_USE_FIPS_ENDPOINT": "true"}, {"AWS_USE_DUALSTACK_ENDPOINT": "True"}
    assert sessions_url("us-east-1", environ=fips).host == "rolesanywhere-fips.us-east-1.amazonaws.com"
    assert sessions_url(REGION, environ=dual).host == "rolesanywhere.eu-west-1.api.aws"
    assert sessions_url("us-gov-west-1", environ=fips | dual).host == "rolesanywhere-fips.us-gov-west-1.api.aws"
    off = {"AWS_USE_FIPS_ENDPOINT": "false", "AWS_USE_DUALSTACK_ENDPOINT": ""}
    assert sessions_url(REGION, environ=off).host == "rolesanywhere.eu-west-1.amazonaws.com"


def test_fips_elsewhere_lists_the_six_regions() -> None:
    with pytest.raises(UsageError, match=r"AWS_USE_FIPS_ENDPOINT.*eu-west-1") as caught:
        sessions_url(REGION, environ={"AWS_USE_FIPS_ENDPOINT": "true"})
    assert len(FIPS_REGIONS) == 6
    assert all(region in caught.value.hint for region in FIPS_REGIONS)


@pytest.mark.parametrize(
    "name", ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"]
)
def test_bad_switch(name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} holds 'yes'"):
        sessions_url(REGION, environ={name: "yes"})


def test_region_is_checked_before_it_is_in_a_host_name() -> None:
    with pytest.raises(UsageError):
        sessions_url("evil.example/", environ={})


def test_order_of_the_places() -> None:
    general = {"AWS_ENDPOINT_URL": "https://general.example"}
    service = general | {"AWS_ENDPOINT_URL_ROLESANYWHERE": "https://service.example"}
    ignore = {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
    assert sessions_url(REGION, environ=general).host == "general.example"
    assert sessions_url(REGION, environ=service).host == "service.example"
    assert sessions_url(REGION, environ=service, endpoint="https://flag.example").host == "flag.example"
    assert sessions_url(REGION, environ=service, endpoint="").host == "service.example"
    assert sessions_url(REGION, environ=service | ignore).host == "rolesanywhere.eu-west-1.amazonaws.com"
    assert sessions_url(REGION, environ=service | ignore, endpoint="https://flag.example").host == "flag.example"


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
def test_given_urls(text: str, expected: Endpoint, header: str) -> None:
    endpoint = sessions_url(REGION, environ={}, endpoint=text)
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
def test_malformed_urls(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--endpoint holds ") as caught:
        sessions_url(REGION, environ={}, endpoint=text)
    assert str(caught.value).isprintable()
    with pytest.raises(UsageError, match=r"^AWS_ENDPOINT_URL holds "):
        sessions_url(REGION, environ={"AWS_ENDPOINT_URL": text})


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError, match="--endpoint") as caught:
        sessions_url(REGION, environ={}, endpoint="https://me:hunter2@h.example")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["h.example", "192.0.2.7", "localhost.example", "127.0.0.1.example", "127.1", "[::2]"])
def test_http_off_loopback_is_refused_unless_unverified(host: str) -> None:
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL holds an http: URL") as caught:
        sessions_url(REGION, environ={"AWS_ENDPOINT_URL": f"http://{host}"})
    assert "--no-verify-ssl" in caught.value.hint
    with pytest.warns(UnsafeConnectionWarning, match="--no-verify-ssl"):
        assert sessions_url(REGION, environ={}, endpoint=f"http://{host}", verify=False).scheme == "http"


@pytest.mark.parametrize("url", [None, "https://h.example", "http://localhost:8080"])
def test_unverified_warns_at_each_use(url: str | None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            sessions_url(REGION, environ={}, endpoint=url, verify=False)
    assert [type(warning.message) for warning in caught] == [UnsafeConnectionWarning] * 2


def test_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"]))
    assert not any(map(is_loopback, ["", "localhost.", "x.localhost", "128.0.0.1", "::", "0.0.0.0", "::ffff:10.0.0.1"]))


@given(st.one_of(st.text(), st.text().map("https://".__add__), st.from_regex(r"https://[\[\]a-z0-9.:@/?#%-]{0,30}")))
def test_any_text_is_a_usage_error_or_a_safe_url(text: str) -> None:
    try:
        endpoint = sessions_url(REGION, environ={}, endpoint=text)
    except UsageError as error:
        shown = str(error)
    else:
        shown = endpoint.url
        assert endpoint.url.isascii()
        assert not set(endpoint.url) & set(" @?#\\")
        assert endpoint.path.endswith("/sessions")
        assert 0 < endpoint.port < 65536
    assert shown.isprintable()
