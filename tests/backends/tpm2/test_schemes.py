"""Keys with schemes and hashes of their own, restricted keys, and keys that can't be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.contract import openssl_verifies
from backends.tpm2.tpms import SIGNING, STORED, Tools, sign_and_verify
from hwsigner.errors import UnsupportedKeyError
from hwsigner.key import HashName, open_key

pytestmark = pytest.mark.usefixtures("refused_auth")


@pytest.mark.parametrize(
    ("kind", "attributes", "fault"),
    [
        ("rsa2048:rsapss-sha256:null", SIGNING, "signs with rsapss only"),
        ("ecc256:ecdaa4-sha256", SIGNING, "signs with ecdaa only"),
        ("rsa2048:rsassa-sha1:null", SIGNING, "signs with sha only"),
        ("rsa2048:null:null", f"{STORED}|decrypt", "decrypts and does not sign"),
        ("rsa2048:oaep-sha256:null", f"{STORED}|decrypt", "decrypts and does not sign"),
        ("ecc256:ecdh-sha256:null", f"{STORED}|decrypt", "decrypts and does not sign"),
        ("rsa2048:rsapss-sha256:null", f"{SIGNING}|restricted", "signs with rsapss only"),
        ("ecc256", SIGNING.replace("|userwithauth", ""), "allows no use"),
        ("hmac:sha256", SIGNING, "neither RSA nor ECC"),
        ("rsa1024", SIGNING, "has 1024 bits"),
        ("ecc224", SIGNING, "on curve nist_p224"),
    ],
)
def test_unusable_key_is_refused_when_it_is_opened(tools: Tools, kind: str, attributes: str, fault: str) -> None:
    path = tools.key_file(kind, attributes)
    with pytest.raises(UnsupportedKeyError, match=f"key {path} (is )?{fault}"):
        open_key(tools.tpm.uri(path), "")


RESTRICTED = f"{SIGNING}|restricted"


class TestOwnSchemes:
    @pytest.mark.parametrize("curve", ["256", "384", "521"])
    @pytest.mark.parametrize("hash", ["sha256", "sha384", "sha512"])
    def test_ecdsa_key_signs_on_each_curve_with_each_hash(self, tools: Tools, curve: str, hash: HashName) -> None:
        path = tools.key_file(f"ecc{curve}:ecdsa-{hash}")
        assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder, hash=hash)

    @pytest.mark.parametrize("hash", ["sha256", "sha384", "sha512"])
    def test_rsassa_key_signs_with_each_hash(self, tools: Tools, hash: HashName) -> None:
        path = tools.key_file(f"rsa2048:rsassa-{hash}")
        assert sign_and_verify(tools.tpm.uri(path), tools.public_key(), tools.folder, hash=hash)

    def test_key_with_a_hash_of_its_own_refuses_others(self, tools: Tools) -> None:
        path = tools.key_file("ecc256:ecdsa-sha384")
        with open_key(tools.tpm.uri(path)) as key, pytest.raises(UnsupportedKeyError, match="sha384 only, not sha256"):
            key.sign(b"message")


class TestRestricted:
    """Keys that sign what the TPM itself hashed."""

    @pytest.fixture(
        params=[("ecc256", "ecdsa", "sha256"), ("ecc384", "ecdsa", "sha384"), ("rsa2048", "rsassa", "sha256")]
    )
    def made(self, tools: Tools, request: pytest.FixtureRequest) -> tuple[Path, HashName]:
        """A key file, and the key's hash_name."""
        kind, scheme, hash_name = request.param
        return tools.key_file(f"{kind}:{scheme}-{hash_name}:null", RESTRICTED), hash_name

    def test_restricted_key_signs_messages_of_any_length(self, tools: Tools, made: tuple[Path, HashName]) -> None:
        path, hash_name = made
        with open_key(tools.tpm.uri(path)) as key:
            assert key.public_key() == tools.public_key()
            for size in (0, 1, 4, 1023, 1024, 1025, 2048, 2049, 100_000):
                message = bytes(size)
                signature = key.sign(message, hash_name)
                assert openssl_verifies(tools.folder, tools.public_key(), signature, message, hash_name), size

    def test_restricted_key_refuses_messages_that_begin_like_the_tpm_s_own(
        self, tools: Tools, made: tuple[Path, HashName]
    ) -> None:
        path, hash_name = made
        with open_key(tools.tpm.uri(path)) as key:
            for message in (b"\xffTCG", b"\xffTCG" + bytes(5000)):
                with pytest.raises(UnsupportedKeyError, match="TPM_GENERATED_VALUE"):
                    key.sign(message, hash_name)
            for message in (b"\xffTC", b"\xffTCH", b"xTCG" + bytes(5000), b" \xffTCG"):
                assert key.sign(message, hash_name)

    def test_restricted_key_at_a_handle_signs(self, tools: Tools, made: tuple[Path, HashName]) -> None:
        _, hash_name = made
        with tools.persisted() as handle, open_key(tools.tpm.uri(handle)) as key:
            message = bytes(3000)
            assert openssl_verifies(tools.folder, tools.public_key(), key.sign(message, hash_name), message, hash_name)
