"""The choice of a proxy, by the rules of Go's net/http."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner.errors import UsageError
from hwsigner.http.address import Endpoint
from hwsigner.http.proxy import bypasses, find_proxy

HTTPS = Endpoint("https", "api.example.com", 443, "/sessions")
HTTP = HTTPS._replace(scheme="http", port=80)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://proxy.example:3128", ("http", "proxy.example", 3128, None)),
        ("http://proxy.example:3128/ignored?too#x", ("http", "proxy.example", 3128, None)),
        ("proxy.example:3128", ("http", "proxy.example", 3128, None)),
        ("proxy.example", ("http", "proxy.example", 80, None)),
        ("10.0.0.1:3128", ("http", "10.0.0.1", 3128, None)),
        ("HTTPS://Proxy.Example", ("https", "proxy.example", 443, None)),
        ("http://[2001:db8::1]:3128", ("http", "2001:db8::1", 3128, None)),
        (
            "http://me:p%40ss%3Aw%2Ford@proxy.example:3128",
            ("http", "proxy.example", 3128, "Basic bWU6cEBzczp3L29yZA=="),
        ),
        ("me:p@ss@proxy.example:3128", ("http", "proxy.example", 3128, "Basic bWU6cEBzcw==")),
        ("http://me@proxy.example", ("http", "proxy.example", 80, "Basic bWU6")),
    ],
)
def test_proxy_url_is_parsed(value: str, expected: tuple[str, str, int, str | None]) -> None:
    proxy = find_proxy(HTTPS, {"HTTPS_PROXY": value})
    assert proxy is not None
    assert (proxy.scheme, proxy.host, proxy.port, proxy.authorization) == expected


@pytest.mark.parametrize(
    "value",
    [
        "socks5://me:hunter2@proxy.example:1080", "socks5h://me:hunter2@proxy.example", "ftp://me:hunter2@proxy.example",
        "http://", "http://me:hunter2@", "http://me:hunter2@proxy.example:x", "http://me:hunter2@proxy.example:99999",
        "http://me:hunter2#@proxy.example", "http://me:hunter2@pro xy.example", "http://me:hunter2@proxy.example\r\n:80",
        "http://me:hunter2@prüfung.example", "://me:hunter2@proxy.example",
    ],
)  # fmt: skip
def test_malformed_proxy_is_an_error_that_hides_the_password(value: str) -> None:
    for variable in ("HTTPS_PROXY", "https_proxy"):
        with pytest.raises(UsageError, match=f"^{variable} ") as caught:
            find_proxy(HTTPS, {variable: value})
        assert "hunter2" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"


def test_password_is_not_in_str_or_repr() -> None:
    proxy = find_proxy(HTTPS, {"HTTPS_PROXY": "http://me:hunter2@proxy.example"})
    assert proxy is not None
    assert proxy.authorization is not None
    assert str(proxy) == "http://proxy.example:80 (HTTPS_PROXY)"
    for text in (repr(proxy), str(proxy)):
        assert "hunter2" not in text
        assert proxy.authorization not in text


def _chosen(endpoint: Endpoint, **environ: str) -> str | None:
    proxy = find_proxy(endpoint, environ)
    return proxy.variable if proxy else None


def test_variable_is_chosen_by_scheme_and_case() -> None:
    assert _chosen(HTTPS) is None
    assert _chosen(HTTPS, HTTPS_PROXY="a", https_proxy="b") == "HTTPS_PROXY"
    assert _chosen(HTTPS, HTTPS_PROXY="", https_proxy="b") == "https_proxy"
    assert _chosen(HTTPS, HTTP_PROXY="a", ALL_PROXY="b") is None
    assert _chosen(HTTP, HTTP_PROXY="a", http_proxy="b") == "HTTP_PROXY"
    assert _chosen(HTTP, HTTPS_PROXY="a") is None


def test_cgi_program_ignores_http_proxy() -> None:
    assert _chosen(HTTP, HTTP_PROXY="a", REQUEST_METHOD="GET") is None
    assert _chosen(HTTP, HTTP_PROXY="a", http_proxy="b", REQUEST_METHOD="GET") == "http_proxy"
    assert _chosen(HTTPS, HTTPS_PROXY="a", REQUEST_METHOD="GET") == "HTTPS_PROXY"


def test_no_proxy_is_read_in_either_case() -> None:
    assert _chosen(HTTPS, HTTPS_PROXY="a", NO_PROXY="example.com") is None
    assert _chosen(HTTPS, HTTPS_PROXY="a", no_proxy="example.com") is None
    assert _chosen(HTTPS, HTTPS_PROXY="a", NO_PROXY="other", no_proxy="example.com") == "HTTPS_PROXY"
    assert _chosen(HTTPS, HTTPS_PROXY="socks5://unused", NO_PROXY="*") is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_reached_directly(host: str) -> None:
    assert _chosen(HTTPS._replace(host=host), HTTPS_PROXY="a") is None


# As documented by golang.org/x/net/http/httpproxy.
@pytest.mark.parametrize(
    ("exceptions", "host", "port", "expected"),
    [
        ("", "example.com", 443, False),
        (",,", "example.com", 443, False),
        ("*", "example.com", 443, True),
        ("other, *", "example.com", 443, True),
        ("example.com", "example.com", 443, True),
        ("EXAMPLE.com", "example.com", 443, True),
        ("example.com", "a.b.example.com", 443, True),
        ("example.com", "badexample.com", 443, False),
        ("example.com", "example.com.evil", 443, False),
        (".example.com", "example.com", 443, False),
        (".example.com", "a.example.com", 443, True),
        ("*.example.com", "a.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("ample.com", "example.com", 443, False),
        ("foo.com , example.com ", "example.com", 443, True),
        ("example.com:443", "example.com", 443, True),
        ("example.com:443", "a.example.com", 443, True),
        ("example.com:80", "example.com", 443, False),
        (":443", "example.com", 443, False),
        ("192.0.2.7", "192.0.2.7", 443, True),
        ("192.0.2.7", "192.0.2.8", 443, False),
        ("192.0.2.7:8443", "192.0.2.7", 443, False),
        ("192.0.2.7:443", "192.0.2.7", 443, True),
        ("192.0.2.7", "::ffff:192.0.2.7", 443, True),
        ("192.0.2.0/24", "192.0.2.7", 443, True),
        ("192.0.2.1/24", "192.0.2.7", 443, True),
        ("192.0.2.0/24", "192.0.3.7", 443, False),
        ("192.0.2.0/24", "example.com", 443, False),
        ("192.0.2.0/33", "192.0.2.7", 443, False),
        ("192.0.2.0/255.255.255.0", "192.0.2.7", 443, False),
        ("192.0.2.0/24", "2001:db8::1", 443, False),
        ("2001:db8::/32", "2001:db8::1", 443, True),
        ("2001:db8::1", "2001:db8::1", 443, True),
        ("2001:DB8:0:0::1", "2001:db8::1", 443, True),
        ("[2001:db8::1]:443", "2001:db8::1", 443, True),
        ("[2001:db8::1]:80", "2001:db8::1", 443, False),
        ("http://example.com", "example.com", 443, False),
    ],
)
def test_no_proxy_lists_hosts_to_reach_directly(exceptions: str, host: str, port: int, expected: bool) -> None:
    assert bypasses(host, port, exceptions) is expected


_LABELS = st.lists(st.sampled_from(["a", "b", "example", "com"]), min_size=1, max_size=4)


@given(_LABELS, _LABELS, st.booleans(), st.sampled_from(["", ":443", ":80"]))
def test_no_proxy_names_match_whole_labels(entry: list[str], host: list[str], dot: bool, port: str) -> None:
    under = len(host) > len(entry) and host[-len(entry) :] == entry
    expected = (under or (host == entry and not dot)) and port != ":80"
    assert bypasses(".".join(host), 443, f"x.test,{'.' if dot else ''}{'.'.join(entry)}{port}") is expected


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32))
def test_no_proxy_blocks_match_by_prefix(start: IPv4Address, host: IPv4Address, length: int) -> None:
    expected = host.is_loopback or int(start) >> (32 - length) == int(host) >> (32 - length)
    assert bypasses(str(host), 443, f"{start}/{length}") is expected


@given(st.text(), st.text())
def test_any_text_is_a_proxy_or_a_usage_error(value: str, exceptions: str) -> None:
    try:
        shown = str(find_proxy(HTTPS, {"HTTPS_PROXY": value, "NO_PROXY": exceptions}))
    except UsageError as error:
        shown = error.message
    assert shown.isprintable()
    assert shown == "None" or "HTTPS_PROXY" in shown
