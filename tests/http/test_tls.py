"""Which CAs are trusted, and the TLS context."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from hwsigner._http import tls
from hwsigner._http.tls import TrustedCAs, find_cas, make_settings
from hwsigner.errors import ConfigError
from loopback import ServerCA


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"AWS_CA_BUNDLE": "/a", "SSL_CERT_FILE": "/b"}, TrustedCAs("AWS_CA_BUNDLE=/a", "/a", None)),
        ({"AWS_CA_BUNDLE": "", "SSL_CERT_FILE": "/b"}, TrustedCAs("SSL_CERT_FILE=/b", "/b", None)),
        ({"SSL_CERT_DIR": "/c:/d"}, TrustedCAs("SSL_CERT_DIR=/c:/d", None, "/c:/d")),
        (
            {"SSL_CERT_FILE": "/b", "SSL_CERT_DIR": "/c"},
            TrustedCAs("SSL_CERT_FILE=/b SSL_CERT_DIR=/c", "/b", "/c"),
        ),
    ],
)
def test_variables_take_precedence_in_order(environ: dict[str, str], expected: TrustedCAs) -> None:
    others = {"REQUESTS_CA_BUNDLE": "/x", "CURL_CA_BUNDLE": "/y"}
    assert find_cas(environ | others) == expected


def test_system_folder_is_the_default() -> None:
    cas = find_cas({"REQUESTS_CA_BUNDLE": "/x", "CURL_CA_BUNDLE": "/y", "SSL_CERT_FILE": "", "SSL_CERT_DIR": ""})
    assert cas.folder is not None
    assert cas.file is None
    assert cas.name == f"the system's CAs in {cas.folder}"
    tls._make_settings.cache_clear()  # Another test may have used its context.
    # OpenSSL reads a folder only when it looks for a certificate.
    assert make_settings(cas).context.get_ca_certs() == []


def test_bundle_is_used_when_no_folder_is_hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = ServerCA(tmp_path).path
    paths = ssl.DefaultVerifyPaths(None, None, "", str(tmp_path / "none.pem"), "", str(tmp_path))  # type: ignore[arg-type]
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    monkeypatch.setattr(tls, "_SYSTEM_FOLDERS", (str(tmp_path / "missing"), str(tmp_path)))
    monkeypatch.setattr(tls, "_SYSTEM_BUNDLES", (str(bundle),))
    assert find_cas({}) == TrustedCAs(f"the system's CAs in {bundle}", str(bundle))
    monkeypatch.setattr(tls, "_SYSTEM_BUNDLES", ())
    with pytest.raises(ConfigError, match="no CA certificates were found"):
        make_settings(find_cas({}))


def test_context_verifies_names_and_chains(tmp_path: Path) -> None:
    context = make_settings(find_cas({"AWS_CA_BUNDLE": str(ServerCA(tmp_path).path)})).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1


def test_clients_of_the_same_cas_share_a_context_until_the_file_changes(tmp_path: Path) -> None:
    path, other = ServerCA(tmp_path).path, tmp_path / "other"
    other.mkdir()
    cas = TrustedCAs("x", str(path))
    first = make_settings(cas)
    assert make_settings(TrustedCAs("x", str(path))) is first
    assert make_settings(cas, verify=False).context is not first.context
    assert make_settings(TrustedCAs("y", str(path))).trusted == "y"
    ServerCA(other).path.replace(path)
    assert make_settings(cas).context.get_ca_certs() != first.context.get_ca_certs()


def test_unverified_context_reads_no_cas() -> None:
    context = make_settings(TrustedCAs("x", "/missing"), verify=False).context
    assert context.verify_mode == ssl.CERT_NONE
    assert not context.check_hostname


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize(
    "content", [None, b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_invalid_bundle_is_an_error_with_variable_and_path(
    variable: str, content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "bundle.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{variable}={path}") as caught:
        make_settings(find_cas({variable: str(path)}))
    assert caught.value.exit_status == 2


def test_folder_as_bundle_or_file_as_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"AWS_CA_BUNDLE={tmp_path}"):
        make_settings(find_cas({"AWS_CA_BUNDLE": str(tmp_path)}))
    with pytest.raises(ConfigError, match=f"SSL_CERT_DIR={tmp_path}/x:{tmp_path}/y is not a folder"):
        make_settings(find_cas({"SSL_CERT_DIR": f"{tmp_path}/x:{tmp_path}/y"}))


def test_missing_folder_among_several_is_not_an_error(tmp_path: Path) -> None:
    ServerCA(tmp_path)
    subprocess.run(["openssl", "rehash", str(tmp_path)], check=True)
    settings = make_settings(find_cas({"SSL_CERT_DIR": f"/missing:{tmp_path}"}))
    assert settings.trusted == f"SSL_CERT_DIR=/missing:{tmp_path}"
