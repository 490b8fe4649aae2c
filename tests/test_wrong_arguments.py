"""A program's mistakes get one of hwsigner's errors: a path that is not text, a variable that is not set, bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hwsigner
import hwsigner.boto3
from hwsigner._aws.create_session import build_request
from hwsigner.auth import SigV4Auth
from hwsigner.errors import UnsupportedKeyError, UsageError


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "web.key"
    hwsigner.generate_key(str(path))
    return path


@pytest.mark.parametrize("wrong", [None, b"web.key", Path("web.key"), 5])
@pytest.mark.parametrize(
    "call",
    [
        hwsigner.open_key,
        hwsigner.find_certificates,
        lambda uri: list(hwsigner.list_tokens(uri)),
        hwsigner.generate_key,
        hwsigner.describe_key,
        lambda uri: hwsigner.delete_key(uri, print),
        lambda uri: hwsigner.install_certificate(uri, []),
        lambda uri: hwsigner.open_identity(hwsigner.IdentitySource(uri)),
    ],
)
def test_key_uri_that_is_not_text_is_refused(call: Callable[[Any], object], wrong: object) -> None:
    with pytest.raises(UsageError, match=f"the key URI is of type {type(wrong).__name__}, not str"):
        call(wrong)


@pytest.mark.parametrize("wrong", [b"geheim", 271828, ["geheim"]])
def test_pin_that_is_not_text_is_refused_and_not_shown(tmp_path: Path, wrong: Any) -> None:
    path = tmp_path / "enc.key"
    hwsigner.generate_key(str(path), pin="geheim")
    for make in (lambda: wrong, lambda: hwsigner.PinSource(wrong), lambda: lambda _: wrong):
        with pytest.raises(UsageError, match=f"of type {type(wrong).__name__}, not str") as caught:
            hwsigner.open_key(str(path), make())
        assert "geheim" not in str(caught.value)
        assert "271828" not in str(caught.value)


@pytest.mark.parametrize("wrong", [None, b"web", 5])
def test_profile_that_is_not_text_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="the profile's name is of type"):
        hwsigner.Provider.from_profile(wrong)
    with pytest.raises(UsageError, match="the profile's name is of type"):
        hwsigner.boto3.session(wrong)


@pytest.mark.parametrize("wrong", [None, b"us-east-1", 5])
def test_region_that_is_not_text_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="--region is of type"):
        hwsigner.find_service(wrong)


def test_one_name_instead_of_a_list_is_refused(key: Path) -> None:
    with hwsigner.open_key(str(key)) as opened:
        for wrong in ("localhost", b"localhost", None, 5, [None], [b"localhost"]):
            with pytest.raises(UsageError, match="dns_names"):  # Not the names l, o, c and so on.
                hwsigner.sign_certificate_request(opened, "CN=web", dns_names=wrong)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="uris"):
                hwsigner.sign_certificate_request(opened, "CN=web", uris=wrong)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="subject"):
                hwsigner.sign_certificate_request(opened, wrong and b"CN=web")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["P256", "rsa", "", None, b"p256"])
def test_unknown_algorithm_of_a_new_key_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"is not an algorithm for keys\. Use p256, p384"):
        hwsigner.KeyRequest(wrong)


@pytest.mark.parametrize("wrong", ["SHA256", "md5", None, b"sha256"])
def test_unknown_hash_is_refused(key: Path, wrong: Any) -> None:
    with (
        hwsigner.open_key(str(key)) as opened,
        pytest.raises(UnsupportedKeyError, match="Use sha256, sha384 or sha512"),
    ):
        opened.sign(b"message", wrong)


def test_unknown_format_is_refused_before_a_session_is_made(tmp_path: Path) -> None:
    def source() -> hwsigner.IdentitySource:
        raise AssertionError("the key was used")

    request = hwsigner.SessionRequest("trust-anchor", "profile", "role")
    service = hwsigner.find_service("us-east-1", environ={})
    provider = hwsigner.Provider(source, request, service)
    with hwsigner.BackgroundProvider(provider, formats={"process": lambda _: b""}) as background:
        assert background.read("proces") is None
        with pytest.raises(UsageError, match=r"no format 'proces'\. Did you mean process\?"):
            background.reply("proces")


@pytest.mark.parametrize("wrong", [None, b"arn:aws:iam::123456789012:role/web", Path("arn")])
@pytest.mark.parametrize("place", range(3))
def test_arn_that_is_not_text_is_refused(key: Path, place: int, wrong: Any) -> None:
    arns: list[Any] = ["anchor", "profile", "role"]
    arns[place] = wrong
    service = hwsigner.find_service("us-east-1", endpoint="http://127.0.0.1:1", environ={})
    with pytest.raises(UsageError, match=f"ARN is of type {type(wrong).__name__}, not str"):
        build_request(hwsigner.SessionRequest(*arns), service.endpoint)


@pytest.mark.parametrize("wrong", [None, "web", b"web"])
def test_profile_instead_of_credentials_for_a_signature_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="Pass Credentials, or a provider"):
        SigV4Auth(wrong, "us-east-1", "s3")


@pytest.mark.parametrize("wrong", [None, "x", b"der", [None], [b"der"], [hwsigner.FoundCertificate(b"-----BEGIN", "")]])
def test_certificate_that_is_not_der_is_not_installed(key: Path, wrong: Any) -> None:
    with pytest.raises(UsageError, match="Pass a list of FoundCertificate with DER bytes"):
        hwsigner.install_certificate(str(key), wrong)
    assert [path.name for path in key.parent.iterdir()] == ["web.key"]
