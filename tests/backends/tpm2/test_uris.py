"""What a `tpm2:` URI names: keys, and certificates in NV indices, which tpm2_nvdefine and tpm2_nvwrite make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

import certs
from backends.tpm2.tpms import PASSWORD, Tools
from hwsigner.errors import BackendUnavailableError, CertificateError, UsageError
from hwsigner.identity import IdentitySource, open_identity
from hwsigner.key import find_certificates, open_key
from softhsm.command import run

pytestmark = pytest.mark.usefixtures("refused_auth")

INDEX = "0x1c10000"
READABLE = "ownerwrite|ownerread|authread|no_da"
NOWHERE = "tcti=swtpm:path=/hwsigner-none"


@pytest.mark.parametrize(
    "uri",
    [
        "tpm2:",
        "tpm2:handle=0x81000001;path=/k.pem",
        "tpm2:handle=81000001",
        "tpm2:handle=0x80000001",
        "tpm2:handle=0x82000001",
        "tpm2:handle=0x810000011",
        "tpm2:handle=0x81000001;object=k",
        "tpm2:handle=0x81000001?module-path=m",
        "handle:",
    ],
)
def test_a_uri_that_names_no_key(uri: str) -> None:
    with pytest.raises(UsageError):
        open_key(uri)


def test_an_nv_index_is_no_key() -> None:
    with pytest.raises(UsageError, match="tpm2:nv=0x1c10000 names a certificate and no key"):
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
def test_a_uri_that_names_no_certificate(uri: str, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        find_certificates(uri)


@pytest.mark.parametrize("index", ["0x1c10000", "0x01c10000", "0X01C10000"])
def test_an_nv_index_is_written_as_people_do(index: str) -> None:
    with pytest.raises(BackendUnavailableError, match="/hwsigner-none"):
        find_certificates(f"tpm2:nv={index}?{NOWHERE}")


class Index:
    """The NV index of the tests, in which something is written."""

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
        """Return what is found in it."""
        found = find_certificates(self.uri)
        assert {item.uri for item in found} == {f"tpm2:nv={INDEX}"}
        return [item.der for item in found]

    def refusal(self) -> CertificateError:
        """Return why nothing is."""
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


class TestWhatIsInIt:
    @pytest.mark.parametrize("padding", [b"", b"\0", b"\0" * 300, b"\xff" * 700])
    @pytest.mark.parametrize("write", [der, certs.pem])
    def test_a_certificate_in_der_or_pem(
        self, index: Index, leaf: Certificate, write: Callable[[Certificate], bytes], padding: bytes
    ) -> None:
        index.write(write(leaf) + padding)
        assert index.certificates() == [der(leaf)]

    def test_a_place_that_was_not_filled(self, index: Index, leaf: Certificate) -> None:
        index.write(der(leaf), size=2000)
        assert index.certificates() == [der(leaf)]

    @pytest.mark.parametrize("write", [der, certs.pem])
    def test_a_chain(
        self, index: Index, ca: certs.Authority, leaf: Certificate, write: Callable[[Certificate], bytes]
    ) -> None:
        index.write(write(leaf) + write(ca.certificate) + bytes(10))
        assert index.certificates() == [der(leaf), der(ca.certificate)]

    def test_more_than_a_tpm_reads_at_once(self, index: Index, ca: certs.Authority, leaf: Certificate) -> None:
        index.write(certs.pem(leaf) * 2, size=2048)
        assert len(certs.pem(leaf) * 2) > 1024
        assert index.certificates() == [der(leaf)] * 2

    @pytest.mark.parametrize(
        "data", [b"\0" * 10, b"text", b"\x30\x82\x10\x00" + bytes(50), b"\x30", b"-----BEGIN X-----"]
    )
    def test_something_else(self, index: Index, data: bytes) -> None:
        index.write(data)
        refusal = index.refusal()
        assert "holds no certificate" in refusal.message
        assert refusal.hint

    def test_a_private_key_in_pem(self, index: Index) -> None:
        index.write(b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n")
        assert "holds no certificate" in index.refusal().message


class TestWhoMayReadIt:
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
    def test_all(self, index: Index, leaf: Certificate, attributes: str) -> None:
        index.write(der(leaf), attributes=attributes)
        assert index.certificates() == [der(leaf)]

    def test_who_satisfies_a_policy(self, index: Index, leaf: Certificate) -> None:
        policy = index.tools.path("policy")
        policy.write_bytes(bytes(32))
        index.write(der(leaf), attributes="ownerwrite|policyread", policy=str(policy))
        assert "can be read with a policy alone" in index.refusal().message

    def test_who_knows_an_auth_value(self, index: Index, leaf: Certificate) -> None:
        index.write(der(leaf), attributes="ownerwrite|authread|no_da", auth=PASSWORD)
        for _ in range(5):
            assert "wants an auth value" in index.refusal().message
        assert index.tools.counted_failures() == 0

    def test_who_knows_an_auth_value_that_is_guarded(self, index: Index, leaf: Certificate) -> None:
        index.write(der(leaf), attributes="ownerwrite|authread", auth=PASSWORD)
        for _ in range(5):
            assert "wants an auth value" in index.refusal().message
        assert index.tools.counted_failures() == 1

    def test_the_empty_auth_value_is_not_the_one_that_locks_the_tpm(self, index: Index, leaf: Certificate) -> None:
        index.write(der(leaf), attributes="ownerwrite|authread", auth=PASSWORD)
        index.tools.set_lockout(1)
        assert "one more wrong one locks the TPM" in index.refusal().message
        assert index.tools.counted_failures() == 0

    def test_the_owner_whose_auth_value_is_set(self, index: Index, leaf: Certificate) -> None:
        tools = index.tools
        index.write(der(leaf), attributes="ownerwrite|ownerread")
        tools.run("tpm2_changeauth", "-c", "owner", PASSWORD)
        try:
            assert "wants the owner's auth value" in index.refusal().message
        finally:
            tools.run("tpm2_changeauth", "-c", "owner", "-p", PASSWORD)

    def test_nobody_before_it_was_written(self, index: Index) -> None:
        index.define(READABLE, 100)
        assert "was never written" in index.refusal().message

    def test_nobody_while_it_is_locked(self, index: Index, leaf: Certificate) -> None:
        index.write(der(leaf), attributes=f"{READABLE}|read_stclear")
        index.tools.run("tpm2_nvreadlock", "-C", "o", INDEX)
        assert "is locked against reading" in index.refusal().message


def test_an_nv_index_that_is_not_there(tools: Tools) -> None:
    uri = f"tpm2:nv={INDEX}?tcti={tools.tpm.tcti}"
    with pytest.raises(CertificateError, match=r"the TPM has no NV index 0x01c10000\. It has none"):
        find_certificates(uri)
    for name in ("0x1c10002", "0x1800001"):
        tools.run("tpm2_nvdefine", "-Q", name, "-C", "o", "-s", "1", "-a", READABLE)
    try:
        with pytest.raises(CertificateError, match=r"has no NV index 0x01c10000\. It has 0x01800001, 0x01c10002"):
            find_certificates(uri)
    finally:
        for name in ("0x1c10002", "0x1800001"):
            tools.run("tpm2_nvundefine", "-C", "o", name)


def test_an_identity_is_in_the_tpm_as_a_whole(index: Index, ca: certs.Authority, ec_file: Path) -> None:
    tpm = index.tools.tpm
    issued = certs.issue(ca, tpm.public_key(ec_file))
    index.write(der(issued) + der(ca.certificate))
    with open_identity(IdentitySource(index.uri, tpm.uri(ec_file))) as identity:
        assert identity.sign(b"message")
        assert identity.chain.leaf.der == der(issued)
