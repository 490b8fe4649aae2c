"""What `list` shows of a TPM: kinds of keys, certificates in NV indices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from backends.tpm2.tpms import SIGNING, STORED, Tools
from hwsigner.errors import UsageError
from hwsigner.key.listing import ListedObject, ListedToken, list_tokens
from softhsm.tpm import SoftTPM

READ = "ownerwrite|authread|no_da"


@pytest.fixture
def listed(swtpm: SoftTPM) -> Callable[[], ListedToken]:
    def listing() -> ListedToken:
        (token,) = list_tokens(f"tpm2:?tcti={quote(swtpm.tcti)}")
        return token

    return listing


@pytest.fixture
def index(tools: Tools) -> Iterator[Callable[..., str]]:
    """A function that writes data into a new NV index, and returns the index."""
    defined = []

    def write(data: bytes, name: str, attributes: str = READ, *options: str, size: int = 0) -> str:
        path = tools.path("data")
        path.write_bytes(data)
        tools.run("tpm2_nvdefine", "-Q", name, "-C", "o", "-s", str(size or len(data)), "-a", attributes, *options)
        defined.append(name)
        if data:
            tools.run("tpm2_nvwrite", name, "-C", "o", "-i", str(path))
        return name

    yield write
    for name in defined:
        tools.run("tpm2_nvundefine", "-Q", "-C", "o", name)


def der(common_name: str = "bamboo-01") -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return certs.issue(certs.make_ca(), key.public_key(), certs.Shape(common_name)).public_bytes(Encoding.DER)


def certificates(token: ListedToken) -> dict[str, ListedObject]:
    return {one.uri.partition("?")[0]: one for one in token.objects if one.kind == "certificate"}


def test_certificates_in_nv_indices_are_listed(listed: Callable[[], ListedToken], index: Callable[..., str]) -> None:
    own, maker = der(), der("TPM")
    index(own + bytes(100), "0x1500016")
    index(x509.load_der_x509_certificate(maker).public_bytes(Encoding.PEM), "0x1c0000a")
    found = certificates(listed())
    assert {uri: one.certificate for uri, one in found.items()} == {
        "tpm2:nv=0x01500016": own,
        "tpm2:nv=0x01c0000a": maker,
    }
    assert [one.label for one in found.values()] == ["", "EK certificate"]


def test_indices_without_a_readable_certificate_are_left_out(
    listed: Callable[[], ListedToken], index: Callable[..., str]
) -> None:
    index(b"x" * 400, "0x1500011")
    index(b"", "0x1500012", size=400)
    index(der(), "0x1500013", "ownerwrite|policyread")
    index(b"\x30\x82\xff\xff" + bytes(400), "0x1500014")
    index(der()[:100], "0x1500015")
    assert certificates(listed()) == {}


def test_listing_counts_no_wrong_auth_value(
    listed: Callable[[], ListedToken], index: Callable[..., str], tools: Tools
) -> None:
    tools.set_lockout(5)
    index(der(), "0x1500013", "ownerwrite|authread", "-p", "secret")
    assert certificates(listed()) == {}
    assert tools.counted_failures() == 0
    assert listed().pin_state == "good"


def test_storage_and_endorsement_keys_are_told_apart_from_keys_that_sign(
    listed: Callable[[], ListedToken], tools: Tools
) -> None:
    tools.run("tpm2_createek", "-Q", "-G", "ecc", "-c", "0x81010001", "-u", str(tools.path("ek")))
    tools.run("tpm2_createprimary", "-Q", "-C", "o", "-c", str(tools.path("srk")))
    tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", str(tools.path("srk")), "0x81000001")
    try:
        token = listed()
    finally:
        for handle in ("0x81010001", "0x81000001"):
            tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", handle)
    labels = {one.uri.partition("?")[0]: one.label for one in token.other_keys}
    assert labels["tpm2:handle=0x81000001"] == "storage root key (SRK)"
    assert labels["tpm2:handle=0x81010001"] == "endorsement key (EK)"
    assert not {"0x81000001", "0x81010001"} & {one.uri.partition("?")[0][-10:] for one in token.objects}


@pytest.mark.parametrize(
    ("attributes", "notes"),
    [
        (SIGNING, ()),
        (f"{SIGNING}|noda", ("noDA",)),
        (f"{SIGNING}|restricted", ("restricted",)),
        ("sensitivedataorigin|userwithauth|sign", ("can be copied",)),
    ],
)
def test_notes_are_those_of_the_public_area(
    listed: Callable[[], ListedToken], tools: Tools, attributes: str, notes: tuple[str, ...]
) -> None:
    kind = "ecc256:ecdsa-sha256:null" if "restricted" in attributes else "ecc256"
    tools.key_file(kind, attributes)
    with tools.persisted() as handle:
        (key,) = [one for one in listed().objects if f"{handle:#010x}" in one.uri]
    assert key.notes == notes


def test_key_with_a_policy_is_noted(listed: Callable[[], ListedToken], tools: Tools) -> None:
    session, policy = str(tools.path("session")), str(tools.path("policy"))
    tools.run("tpm2_startauthsession", "-S", session, flush=False)
    tools.run("tpm2_policyauthvalue", "-S", session, "-L", policy)
    tools.run("tpm2_flushcontext", session)
    tools.key_file(attributes=f"{STORED}|sign".replace("userwithauth|", ""), policy=policy)
    with tools.persisted() as handle:
        (key,) = [one for one in listed().objects if f"{handle:#010x}" in one.uri]
    assert key.notes == ("policy",)


@pytest.mark.parametrize("path", ["handle=0x81000100", "path=/etc/key.tss2"])
def test_tpm_as_a_whole_is_listed_and_no_single_key(path: str) -> None:
    with pytest.raises(UsageError):
        list(list_tokens(f"tpm2:{path}"))
