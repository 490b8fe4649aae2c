"""The signature is that of what is sent: hosts, paths and queries, with botocore as the judge."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote, unquote_plus, urlsplit

import pytest
import requests
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from auth.servers import KEY, Server
from examples import scaled
from hwsigner.auth import SigV4Auth
from hwsigner.auth.url import _server, wire_url
from hwsigner.errors import UsageError
from loopback import ServerCA

AUTHS = {service: SigV4Auth(KEY, "eu-west-1", service) for service in ("s3", "execute-api")}
SESSION = requests.Session()


@pytest.mark.parametrize("service", AUTHS)
@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://bucket.example/k", "bucket.example"),
        ("http://BUCKET.Example/k", "bucket.example"),
        ("http://bucket.example:80/k", "bucket.example"),
        ("http://bucket.example:443/k", "bucket.example:443"),
        ("http://bucket.example:8080/k", "bucket.example:8080"),
        ("http://bucket.example:/k", "bucket.example"),
        ("http://bucket.example./k", "bucket.example"),
        ("http://user:pass@bucket.example:80/k", "bucket.example"),
        ("http://bücket.example/k", "xn--bcket-kva.example"),
        ("http://[2001:DB8::1]/k", "[2001:db8::1]"),
        ("http://[::1]:80/k", "[::1]"),
        ("http://[::1]:8080/k", "[::1]:8080"),
        # Older versions send the zone too, whatever the signature, and strict servers refuse that Host header.
        *([("http://[FE80::1%25Eth0]:8080/k", "[fe80::1]:8080")] if sys.version_info >= (3, 11, 5) else []),
        ("http://127.0.0.1:5000", "127.0.0.1:5000"),
        ("http://bucket.example?q=/", "bucket.example"),
        ("http://a_b.example/k#/frag?x", "a_b.example"),
    ],
)
def test_host_header_is_sent_as_signed(
    server: Server, lead_to: Callable[[int], None], service: str, url: str, host: str
) -> None:
    lead_to(server.port)
    for target in (url, SESSION.prepare_request(requests.Request("GET", url, auth=AUTHS[service])).url):
        requests.get(str(target), auth=AUTHS[service], timeout=60)
        assert server.last.header("Host") == host
        assert server.last.is_signed()


def test_default_https_port_is_left_out_of_the_host_header(lead_to: Callable[[int], None], tmp_path: Path) -> None:
    ca = ServerCA(tmp_path)
    with Server(context=ca.context("bucket.example")) as server:
        lead_to(server.port)
        for url, host in {":443": "bucket.example", "": "bucket.example", ":80": "bucket.example:80"}.items():
            requests.get(f"https://bucket.example{url}/k", auth=AUTHS["s3"], timeout=60, verify=str(ca.path))
            assert server.last.header("Host") == host
            assert server.last.is_signed()


@pytest.mark.parametrize(
    "url",
    [
        *("http://bucket.example:80/a/k?q=a+b", "http://Bucket.example/a/k", "http://u:p@b/k"),
        *("http://bucket.example./k", "http://bucket.example.:80/k", "http://1.2.3.4.:8080/k"),
    ],
)
def test_request_through_a_plain_proxy_is_signed(server: Server, url: str) -> None:
    requests.get(url, auth=AUTHS["s3"], proxies={"http": server.url}, timeout=60)
    received = server.last
    host = received.header("Host")
    assert received.target.startswith(f"http://{host}/")
    received.__dict__["target"] = received.target.removeprefix(f"http://{host}")
    assert received.is_signed()


def test_redirect_through_a_plain_proxy_is_signed(server: Server) -> None:
    server.answers = {"http://bucket.example/a": (307, "http://BUCKET.example.:080/b")}
    requests.get("http://bucket.example/a", auth=AUTHS["s3"], proxies={"http": server.url}, timeout=60)
    received = server.last
    assert received.target == "http://bucket.example/b"
    received.__dict__["target"] = "/b"
    assert received.is_signed()


def test_ipv6_zone_is_kept_in_the_url() -> None:
    assert wire_url("http://[fe80::1%25Eth0]/k", s3=True)[0] == "http://[fe80::1%25Eth0]/k"


def test_host_header_of_the_caller_is_signed(server: Server) -> None:
    requests.get(server.url, headers={"host": "bucket.example:80"}, auth=AUTHS["s3"], timeout=60)
    assert server.last.header("Host") == "bucket.example:80"
    assert server.last.is_signed()


@pytest.mark.parametrize(
    "url", ["", "/k", "https:///k", "http://a:b/k", "http://a:99999/k", "http://a:0/k", "http://./", "https://?a=/b"]
)
def test_url_without_a_host_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="the URL has no host"):
        wire_url(url, s3=False)


@pytest.mark.parametrize(
    "url", ["http://[::1/", "http://a.example/\ud800", "http://user:hunter2@a\u2100b/", "http://a]/"]
)
def test_invalid_url_is_refused_without_repeating_its_password(url: str) -> None:
    with pytest.raises(UsageError, match="the URL is invalid") as raised:
        wire_url(url, s3=False)
    assert "hunter2" not in str(raised.value)


SEPARATED = st.lists(st.sampled_from(["/", "?", "#", "a", "=", "&b", "admin"]), max_size=6).map("".join)


@given(SEPARATED, st.sampled_from(["http://a.example", "https://a.example:8443", "http://[::1]"]))
def test_path_begins_where_requests_begins_it(rest: str, server: str) -> None:
    prepared = requests.Request("GET", server).prepare()
    prepared.url = server + (rest if rest[:1] in ("/", "?", "#") else f"/{rest}")
    plain = prepared.path_url
    url, target, _ = wire_url(prepared.url, s3=False)
    path, _, query = plain.partition("?")
    meant = "&".join(filter(None, query.split("&")))
    assert target == (f"{path}?{meant}" if meant else path)
    assert url.startswith(f"{server}/")


@pytest.mark.parametrize("path", ["/%2E%2E/x", "/a/..%2Fb", "/a/%2e/b", "/a/%2e", "/a/.%2E", "/%2E%2e%2fx"])
def test_dot_segments_are_refused_for_s3(path: str) -> None:
    for sign in (
        lambda: requests.Request("GET", "http://b.example" + path, auth=AUTHS["s3"]).prepare(),
        lambda: AUTHS["s3"].presign("GET", "http://b.example" + path),
        lambda: wire_url("http://b.example" + unquote(path), s3=True),
    ):
        with pytest.raises(UsageError, match=r"a segment \. or \.\."):
            sign()
    assert wire_url("http://b.example/.a/..b/c./...", s3=True)[1] == "/.a/..b/c./..."


def test_semicolon_in_a_path_is_kept() -> None:
    assert wire_url("http://a.example/a;b/;c", s3=False)[1] == "/a;b/;c"


# The first two are from RFC 3986, 5.2.4. `..` also removes an empty segment.
DOT_SEGMENTS = {
    "/a/b/c/./../../g": "/a/g",
    "/mid/content=5/../6": "/mid/6",
    "/..": "/",
    "/.": "/",
    "/../..": "/",
    "/a/..": "/",
    "/a/.": "/a/",
    "/a/b/..": "/a/",
    "/a/b/../": "/a/",
    "/a//..": "/a/",
    "/a//../": "/a/",
    "/a//../..": "/",
    "/a/../..//b": "//b",
    "/a/.b/..c/...": "/a/.b/..c/...",
    "/a/..;": "/a/..%3B",
    "/..a;/../b;/": "/b;/",
}


@pytest.mark.parametrize("path", DOT_SEGMENTS)
def test_dot_segments_are_removed_for_other_services(server: Server, path: str) -> None:
    assert wire_url(server.url + path, s3=False)[1] == DOT_SEGMENTS[path]
    for by_proxy in (False, True):
        origin = "http://a.example" if by_proxy else server.url
        prepared = requests.Request("GET", origin + path).prepare()
        prepared.url = origin + path  # As after a redirect.
        SESSION.send(AUTHS["execute-api"](prepared), proxies={"http": server.url} if by_proxy else {}, timeout=60)
        received = server.last
        received.__dict__["target"] = received.target.removeprefix(origin)
        assert received.target == DOT_SEGMENTS[path]
        assert received.is_signed()


def test_escaped_dot_segments_are_removed_for_other_services(server: Server) -> None:
    for by_proxy in (False, True):
        origin = "http://a.example" if by_proxy else server.url
        proxies = {"http": server.url} if by_proxy else {}
        requests.get(origin + "/a/b//%2E%2E", auth=AUTHS["execute-api"], proxies=proxies, timeout=60)
        received = server.last
        received.__dict__["target"] = received.target.removeprefix(origin)
        assert received.target == "/a/b/"
        assert received.is_signed()


@pytest.mark.parametrize(
    ("url", "host"), [("mock://Test/path", "Test"), ("http+unix://%2FRun%2Fa.sock/k?q", "%2FRun%2Fa.sock")]
)
def test_urls_with_other_schemes_are_signed(url: str, host: str) -> None:
    assert wire_url(url, s3=True)[0] == url
    assert wire_url(url, s3=True)[2].host == host
    assert requests.Request("GET", url, auth=AUTHS["s3"]).prepare().headers["Authorization"]


def test_password_in_a_url_is_not_cached() -> None:
    _server.cache_clear()
    for password in ("one", "two"):
        assert wire_url(f"https://user:{password}@a.example/k", s3=True)[0] == "https://a.example/k"
    assert _server.cache_info().currsize == 1


CHARACTERS = "aZ0-_.~!$&'()*+,;=:@/%20%2F%2f%2B%e9é€ []{}|\\^`\"<>"
PATHS = st.lists(st.sampled_from([*CHARACTERS, "%2F", "%2f", "%c3%a9", "%2B", "//", "..", "%zz"]), max_size=6).map(
    "".join
)
QUERIES = st.lists(st.sampled_from([*CHARACTERS, "?", "%2F", "%2f", "%C3%A9", "%2B", "&&"]), max_size=6).map("".join)


def has_dot_segments(url: str) -> bool:
    """Return whether the path of a URL has a dot segment."""
    return not {".", ".."}.isdisjoint(unquote(urlsplit(url).path, "latin-1").split("/"))


@settings(max_examples=scaled(300), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PATHS, QUERIES, st.sampled_from(sorted(AUTHS)), st.booleans())
@example("a;", "", "execute-api", True)
@example(";", "q=;", "execute-api", True)
@example("a;b/;c;;", "", "execute-api", True)
def test_any_url_is_signed_as_it_is_sent(server: Server, path: str, query: str, service: str, by_proxy: bool) -> None:
    origin = "http://a.example" if by_proxy else server.url
    url = f"{origin}/{path}?{query}"
    assume(service != "s3" or not has_dot_segments(url))
    server.received.clear()
    plain = requests.Request("GET", url).prepare()
    proxies = {"http": server.url} if by_proxy else {}
    SESSION.get(url, auth=AUTHS[service], proxies=proxies, timeout=60, allow_redirects=False)
    received = server.last
    assert received.target.startswith(origin if by_proxy else "/")
    received.__dict__["target"] = received.target.removeprefix(origin)
    assert received.is_signed()
    # The parameters are those of the URL without a signature.
    wire, _, parameters = server.last.target.partition("?")
    meant, _, meant_parameters = plain.path_url.partition("?")
    assert has_dot_segments(url) or unquote(wire, "latin-1") == unquote(meant, "latin-1")
    assert unquote(parameters, "latin-1") == unquote_plus(re.sub("&+", "&", meant_parameters).strip("&"), "latin-1")
    if service == "s3":
        assert wire == quote(unquote(wire, "latin-1"), encoding="latin-1")


@given(PATHS, QUERIES, st.booleans())
def test_url_to_send_is_stable(path: str, query: str, s3: bool) -> None:
    assume(not (s3 and has_dot_segments(f"http://a.example/{path}")))
    url, target, server = wire_url(f"http://a.example/{path}?{query}#f", s3=s3)
    assert wire_url(url, s3=s3) == (url, target, server)


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.text(max_size=3), max_size=3).filter(
        lambda query: all(text.isprintable() for item in query.items() for text in item)
    )
)
def test_query_parameters_keep_their_meaning(query: dict[str, str]) -> None:
    prepared = requests.Request("GET", "http://a.example/", params=query, auth=AUTHS["s3"]).prepare()
    parts = prepared.path_url.partition("?")[2].split("&") if query else []
    assert [tuple(map(unquote, part.split("="))) for part in parts] == list(query.items())
