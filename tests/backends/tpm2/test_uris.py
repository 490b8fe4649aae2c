"""What a `tpm2:` URI names: keys, and certificates in NV indices, which tpm2_nvdefine and tpm2_nvwrite make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

import certs
from backends.tpm2.tpms import PASSWORD, Tools
from hwsigner._identity import IdentitySource, open_identity
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.tpm2.objects import ParentAuth
from hwsigner.backends.tpm2.uris import named_key
from hwsigner.errors import BackendUnavailableError, CertificateError, UsageError
from hwsigner.key import find_certificates, open_key
from softhsm.command import run
from tpm_proxy import TPMProxy

pytestmark = pytest.mark.usefixtures("refused_auth")

INDEX = "0x1c10000"
NV_READ = 0x14E
READABLE = "ownerwrite|ownerread|authread|no_da"
NOWHERE = "tcti=swtpm:path=/hwsigner-none"


@pytest.mark.parametrize(
    "uri",
    [
        "tpm2:",
        "tpm2:handle=0x81000001;path=/k.pem",
        "tpm2:handle=8100001",
        "tpm2:handle=0x80000001",
        "tpm2:handle=0x82000001",
        "tpm2:handle=0x810000011",
        "tpm2:handle=0x81000001;object=k",
        "tpm2:handle=0x81000001?module-path=m",
        "handle:",
    ],
)
def test_uri_that_names_no_key_is_refused(uri: str) -> None:
    with pytest.raises(UsageError):
        open_key(uri)


@pytest.mark.parametrize("handle", ["0x81000100", "0X81000100", "81000100"])
def test_handle_is_hexadecimal_with_and_without_its_prefix(handle: str) -> None:
    for uri in (f"handle:{handle}", f"tpm2:handle={handle}"):
        parsed = KeyURI.parse(uri)
        assert named_key(parsed, ParentAuth(parsed, PinSource())).subject == "handle:0x81000100"


def test_nv_index_is_refused_as_a_key() -> None:
    with pytest.raises(UsageError, match="tpm2:nv=0x1c10000 names a certificate, not a key"):
        open_key("tpm2:nv=0x1c10000")


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("tpm2:", "has no NV index"),
        ("tpm2:nv=1c10000", "has no NV index"),
        ("tpm2:nv=0x2c10000", "has no NV index"),
        ("tpm2:nv=0x11c10000", "has no NV index"),
        ("tpm2:nv=0x81000001", "has no NV index"),
        ("tpm2:nv=29425664", "has no NV index"),
        ("tpm2:nv=0x1c10000;handle=0x81000001", "no attribute 'handle'"),
        ("tpm2:nv=0x1c10000?module-path=m", "no attribute 'module-path'"),
        ("tpm2:handle=0x81000001", "can't name a certificate: it names a key"),
        ("tpm2:path=/k.pem", "can't name a certificate: it names a key"),
        ("handle:0x81000001", "can't name a certificate: it names a key"),
    ],
)
def test_uri_that_names_no_certificate_is_refused(uri: str, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        find_certificates(uri)


@pytest.mark.parametrize("index", ["0x1c10000", "0x01c10000", "0X01C10000"])
def test_nv_index_may_have_leading_zeros_and_capitals(index: str) -> None:
    with pytest.raises(BackendUnavailableError, match="/hwsigner-none"):
        find_certificates(f"tpm2:nv={index}?{NOWHERE}")


class Index:
    """The NV index of the tests."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.uri = f"tpm2:nv={INDEX}?tcti={tools.tpm.tcti}"

    def write(
        self, data: bytes, *, attributes: str = READABLE, size: int = 0, auth: str = "", policy: str = ""
    ) -> None:
        """Define the index, and write data at its start."""
        options = [*(["-p", auth] if auth else []), *(["-L", policy] if policy else [])]
        self.define(attributes, size or len(data), *options)
        path = self.tools.path("nv")
        path.write_bytes(data)
        self.tools.run("tpm2_nvwrite", INDEX, "-C", "o", "-i", str(path))

    def define(self, attributes: str, size: int, *options: str) -> None:
        """Define the index, and write nothing."""
        self.tools.run("tpm2_nvdefine", "-Q", INDEX, "-C", "o", "-s", str(size), "-a", attributes, *options)

    def certificates(self) -> list[bytes]:
        """Return the certificates that are found in it."""
        found = find_certificates(self.uri)
        assert {item.uri for item in found} == {f"tpm2:nv={INDEX}"}
        return [item.der for item in found]

    def refusal(self) -> CertificateError:
        """Return the error of reading it."""
        with pytest.raises(CertificateError) as caught:
            find_certificates(self.uri)
        assert caught.value.message.startswith("NV index 0x01c10000 ")
        assert self.tools.left_over() == ""
        return caught.value


@pytest.fixture
def index(tools: Tools) -> Iterator[Index]:
    yield Index(tools)
    run(["tpm2_nvundefine", "-C", "o", INDEX], tools.tpm.env)


@pytest.fixture
def leaf(ca: certs.Authority) -> Certificate:
    return certs.issue(ca, ca.key.public_key())


def der(certificate: Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


class TestContent:
    @pytest.mark.parametrize("padding", [b"", b"\0", b"\0" * 300, b"\xff" * 700])
    @pytest.mark.parametrize("write", [der, certs.pem])
    def test_certificate_is_read_in_der_or_pem_with_padding(
        self, index: Index, leaf: Certificate, write: Callable[[Certificate], bytes], padding: bytes
    ) -> None:
        index.write(write(leaf) + padding)
        assert index.certificates() == [der(leaf)]

    def test_certificate_is_read_from_a_larger_index(self, index: Index, leaf: Certificate) -> None:
        index.write(der(leaf), size=2000)
        assert index.certificates() == [der(leaf)]

    @pytest.mark.parametrize("write", [der, certs.pem])
    def test_chain_is_read(
        self, index: Index, ca: certs.Authority, leaf: Certificate, write: Callable[[Certificate], bytes]
    ) -> None:
        index.write(write(leaf) + write(ca.certificate) + bytes(10))
        assert index.certificates() == [der(leaf), der(ca.certificate)]

    def test_certificates_are_read_in_several_parts(self, index: Index, ca: certs.Authority, leaf: Certificate) -> None:
        index.write(certs.pem(leaf) * 2, size=2048)
        assert len(certs.pem(leaf) * 2) > 1024
        assert index.certificates() == [der(leaf)] * 2

    @pytest.mark.parametrize(
        "data", [b"\0" * 10, b"text", b"\x30\x82\x10\x00" + bytes(50), b"\x30", b"-----BEGIN X-----"]
    )
    def test_index_without_a_certificate_is_refused(self, index: Index, data: bytes) -> None:
        index.write(data)
        refusal = index.refusal()
        assert "holds no certificate" in refusal.message
        assert refusal.hint

    def test_index_with_a_private_key_is_refused(self, index: Index) -> None:
        index.write(b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n")
        assert "holds no certificate" in index.refusal().message


class TestAccess:
    @pytest.mark.parametrize(
        "attributes",
        [
            "ownerwrite|authread|no_da",
            "ownerwrite|ownerread",
            "ownerwrite|authread",
            "ownerwrite|ppread",
            "ownerwrite|ownerread|policyread",
        ],
    )
    def test_index_that_anybody_may_read_is_read(self, index: Index, leaf: Certificate, attributes: str) -> None:
        index.write(der(leaf), attributes=attributes)
        assert index.certificates() == [der(leaf)]

    def test_index_with_a_policy_is_refused(self, index: Index, leaf: Certificate) -> None:
        policy = index.tools.path("policy")
        policy.write_bytes(bytes(32))
        index.write(der(leaf), attributes="ownerwrite|policyread", policy=str(policy))
        assert "can be read only with a policy" in index.refusal().message

    def test_index_with_an_auth_value_is_refused(self, index: Index, leaf: Certificate) -> None:
        index.write(der(leaf), attributes="ownerwrite|authread|no_da", auth=PASSWORD)
        for _ in range(5):
            assert "needs an auth value" in index.refusal().message
        assert index.tools.counted_failures() == 0

    def test_empty_auth_value_is_tried_once_when_a_wrong_one_counts(self, index: Index, leaf: Certificate) -> None:
        index.write(der(leaf), attributes="ownerwrite|authread", auth=PASSWORD)
        for _ in range(5):
            assert "needs an auth value" in index.refusal().message
        assert index.tools.counted_failures() == 1

    def test_empty_auth_value_is_not_tried_when_it_could_lock_the_tpm(self, index: Index, leaf: Certificate) -> None:
        index.write(der(leaf), attributes="ownerwrite|authread", auth=PASSWORD)
        index.tools.set_lockout(1)
        assert "one more wrong one locks the TPM" in index.refusal().message
        assert index.tools.counted_failures() == 0

    def test_index_of_an_owner_with_an_auth_value_is_refused(self, index: Index, leaf: Certificate) -> None:
        tools = index.tools
        index.write(der(leaf), attributes="ownerwrite|ownerread")
        tools.run("tpm2_changeauth", "-c", "owner", PASSWORD)
        try:
            assert "needs the owner's auth value" in index.refusal().message
        finally:
            tools.run("tpm2_changeauth", "-c", "owner", "-p", PASSWORD)

    def test_index_that_was_never_written_is_refused(self, index: Index) -> None:
        index.define(READABLE, 100)
        assert "was never written" in index.refusal().message

    def test_index_that_is_locked_is_refused(self, index: Index, leaf: Certificate) -> None:
        index.write(der(leaf), attributes=f"{READABLE}|read_stclear")
        index.tools.run("tpm2_nvreadlock", "-C", "o", INDEX)
        assert "is locked against reading" in index.refusal().message


class SilentProxy(TPMProxy):
    """A proxy that answers TPM2_NV_Read with no data."""

    def _forward(self, command: bytes) -> bytes:
        if int.from_bytes(command[6:10]) != NV_READ:
            return super()._forward(command)
        return bytes.fromhex("8002 00000015 00000000 00000002 0000 0000 01 0000".replace(" ", ""))


def test_reading_an_index_ends_when_the_tpm_gives_no_data(index: Index, leaf: Certificate, short_folder: Path) -> None:
    index.write(der(leaf))
    with (
        SilentProxy(index.tools.tpm, short_folder) as proxy,
        pytest.raises(CertificateError, match="gives 0 bytes instead of"),
    ):
        find_certificates(f"tpm2:nv={INDEX}?tcti={proxy.tcti}")


def test_missing_index_is_an_error_that_lists_those_that_exist(tools: Tools) -> None:
    uri = f"tpm2:nv={INDEX}?tcti={tools.tpm.tcti}"
    with pytest.raises(CertificateError, match=r"the TPM has no NV index 0x01c10000\. It has none: use"):
        find_certificates(uri)
    for name in ("0x1c10002", "0x1800001"):
        tools.run("tpm2_nvdefine", "-Q", name, "-C", "o", "-s", "1", "-a", READABLE)
    try:
        with pytest.raises(CertificateError, match=r"has no NV index 0x01c10000\. It has 0x01800001, 0x01c10002"):
            find_certificates(uri)
    finally:
        for name in ("0x1c10002", "0x1800001"):
            tools.run("tpm2_nvundefine", "-C", "o", name)


def test_identity_has_its_key_and_chain_in_the_tpm(index: Index, ca: certs.Authority, ec_file: Path) -> None:
    tpm = index.tools.tpm
    issued = certs.issue(ca, tpm.public_key(ec_file))
    index.write(der(issued) + der(ca.certificate))
    with open_identity(IdentitySource(index.uri, tpm.uri(ec_file))) as identity:
        assert identity.sign(b"message")
        assert identity.chain.leaf.der == der(issued)
