"""Tokens and objects as other projects make them. Judge: p11tool."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from backends.contract import ENVIRONMENT, openssl_verifies
from backends.pkcs11 import tokens
from backends.pkcs11.tokens import EC, P256, PRIVATE_KEY, PUBLIC_KEY, create, remove_tokens
from emulators import InProcessSoftHSM
from hwsigner._config.settings import Settings, identity_source
from hwsigner._identity import open_identity
from hwsigner._pins import PinSource
from hwsigner.errors import AmbiguousCertificateError, PinError
from hwsigner.key import find_certificates, open_key
from hwsigner.key.listing import list_tokens
from softhsm.yubikey import OPENSC, YKCS11, YubiKey

_INITIALISE = """
import ctypes, sys
module, ulong = ctypes.CDLL(sys.argv[1]), ctypes.c_ulong
def slots():
    count = ulong()
    module.C_GetSlotList(0, None, ctypes.byref(count))
    found = (ulong * count.value)()
    module.C_GetSlotList(0, found, ctypes.byref(count))
    return list(map(ulong, found))
def check(answer):
    assert answer == 0, hex(answer)
label, session, info = bytes.fromhex(sys.argv[2]), ulong(), (ctypes.c_char * 200)()
check(module.C_Initialize(None))
check(module.C_InitToken(slots()[-1], b"12345678", ulong(8), label))
module.C_Finalize(None)
check(module.C_Initialize(None))
for slot in slots():
    if module.C_GetTokenInfo(slot, info) == 0 and info.raw[:32] == label:
        check(module.C_OpenSession(slot, ulong(6), None, None, ctypes.byref(session)))
        check(module.C_Login(session, ulong(0), b"12345678", ulong(8)))
        check(module.C_InitPIN(session, b"1234", ulong(4)))
"""


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> Iterator[InProcessSoftHSM]:
    yield softhsm
    remove_tokens(softhsm, softhsm.label)


@pytest.fixture
def uri(hsm: InProcessSoftHSM) -> Callable[[str], str]:
    return lambda attributes: f"pkcs11:token={hsm.label};{attributes}?module-path={hsm.module}"


@pytest.mark.parametrize(
    "label",
    [
        b"nul\0".ljust(32, b"\0"),
        b"nul and spaces\0".ljust(32),
        b"tab\t".ljust(32),
        "ü".encode() * 16,
        b"\xff\xfe bytes".ljust(32),
        b" led".ljust(32),
    ],
)
def test_token_is_found_by_the_uri_that_p11tool_prints(hsm: InProcessSoftHSM, label: bytes) -> None:
    before = tokens.p11tool(hsm, "--list-token-urls").split()
    tokens.run([sys.executable, "-c", _INITIALISE, hsm.module, label.hex()], hsm)
    hsm.reload()
    [theirs] = set(tokens.p11tool(hsm, "--list-token-urls").split()) - set(before)
    [token] = list_tokens(f"{theirs}?module-path={hsm.module}")
    assert list(list_tokens(token.uri)) == [token]
    subprocess.run(
        ["softhsm2-util", "--delete-token", "--serial", token.serial],
        env={**ENVIRONMENT, **hsm.env},
        check=True,
        capture_output=True,
    )
    hsm.reload()


# Attributes of a private key, and of its public key object, if it has one.
NO_PUBLIC: dict[str, Any] = {}
ODD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no id": ({"LABEL": b"no id"}, NO_PUBLIC),
    "no label": ({"ID": b"\x42"}, NO_PUBLIC),
    "a long id": ({"LABEL": b"long", "ID": b"\x07" * 100}, NO_PUBLIC),
    "a label of bytes": ({"LABEL": b"\xff\xfe\0;?&%=/label ", "ID": b"\x43"}, NO_PUBLIC),
    "a point that is not wrapped": ({"ID": b"\x44"}, {"ID": b"\x44", "EC_POINT": b"raw"}),
    "a point that is none": ({"ID": b"\x45"}, {"ID": b"\x45", "EC_POINT": b"\xde\xad"}),
    "another's public key": ({"ID": b"\x46"}, {"ID": b"\x47", "EC_POINT": b"raw"}),
}


@pytest.mark.parametrize("kind", ODD)
def test_key_signs_when_opened_by_its_uri_in_the_list(hsm: InProcessSoftHSM, kind: str, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    private, public = ODD[kind]
    value = key.private_numbers().private_value.to_bytes(32)
    made = {"CLASS": PRIVATE_KEY, "KEY_TYPE": EC, "EC_PARAMS": P256, "VALUE": value, "SIGN": True, "PRIVATE": True}
    objects = [{**made, **private}]
    if public:
        shown = {**public, "EC_POINT": point if public["EC_POINT"] == b"raw" else public["EC_POINT"]}
        objects.append({"CLASS": PUBLIC_KEY, "KEY_TYPE": EC, "EC_PARAMS": P256, "PRIVATE": False, **shown})
    before = {one.uri for one in listed(hsm)}
    create(hsm, hsm.label, *objects)
    [new] = (one for one in listed(hsm) if one.uri not in before and one.kind == "key")
    with open_key(new.uri, "1234") as opened:
        signature, shown_key = opened.sign(b"message"), opened.public_key()
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert openssl_verifies(tmp_path, spki, signature, b"message", "sha256")
    assert shown_key in (None, spki)
    with open_key(new.uri, "1234", public_key=spki) as opened:
        assert opened.sign(b"message")


def listed(hsm: InProcessSoftHSM) -> list[Any]:
    [token] = list_tokens(f"pkcs11:token={hsm.label}?module-path={hsm.module}", "1234", log_in=True)
    return list(token.objects)


def test_list_leaves_out_objects_other_than_keys_and_certificates(hsm: InProcessSoftHSM) -> None:
    before = {one.uri for one in listed(hsm)}
    data = {"CLASS": tokens.DATA, "VALUE": b"x", "APPLICATION": b"a", "PRIVATE": False}
    secret = {"CLASS": 4, "KEY_TYPE": 0x1F, "VALUE": bytes(32), "PRIVATE": True}
    create(hsm, hsm.label, *({**one, "LABEL": b"odd"} for one in (data, secret)))
    assert {one.uri for one in listed(hsm)} == before


@pytest.mark.parametrize("latest", [False, True])
@pytest.mark.parametrize("serial", [0x11, 0x12])
def test_selected_certificate_is_the_leaf_when_another_has_its_label_and_id(
    hsm: InProcessSoftHSM, renewed: None, serial: int, latest: bool
) -> None:
    source = identity_source(selecting(hsm, f"Key=x509Serial,Value={serial:x}", latest=latest), lambda request: "1234")
    with open_identity(source) as identity:
        assert identity.chain.leaf.x509.serial_number == serial
        assert identity.sign(b"message")


def test_several_selected_certificates_are_an_error_unless_the_latest_is_asked_for(
    hsm: InProcessSoftHSM, renewed: None
) -> None:
    with pytest.raises(AmbiguousCertificateError):
        identity_source(selecting(hsm, "Key=x509Subject,Value=CN=renewed"))
    source = identity_source(selecting(hsm, "Key=x509Subject,Value=CN=renewed", latest=True), lambda request: "1234")
    with open_identity(source) as identity:
        assert identity.chain.leaf.x509.serial_number == 0x12


@pytest.fixture(scope="module")
def renewed(hsm: InProcessSoftHSM) -> None:
    """A key with a certificate, and a later certificate that replaces it."""
    hsm.generate("renewed", b"\x61", "EC:prime256v1")
    public: Any = load_der_public_key(hsm.public_key(b"\x61"))
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("renewed", "issuer")]
    now, issuer = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(True, *[False] * 8)
    for serial, days in ((0x11, 10), (0x12, 20)):
        builder = x509.CertificateBuilder(names[1], names[0], public, serial, now - timedelta(1), now + timedelta(days))
        made = builder.add_extension(usage, critical=True).sign(issuer, hashes.SHA256())
        hsm.write_certificate(made.public_bytes(Encoding.DER), "renewed", b"\x61")
    assert len(find_certificates(f"pkcs11:token={hsm.label};id=%61?module-path={hsm.module}")) == 2


def selecting(hsm: InProcessSoftHSM, selector: str, *, latest: bool = False) -> Settings:
    chosen = {"cert_selector": selector, "use_latest_expiring_certificate": latest, "pkcs11_lib": hsm.module}
    return Settings(chosen)


@pytest.mark.parametrize("module", [OPENSC, YKCS11])
@pytest.mark.parametrize("pin", ["12", "123456789", "1" * 64, "ü" * 40])
def test_pin_of_an_invalid_length_costs_no_try_and_can_be_corrected(yubikey: YubiKey, module: str, pin: str) -> None:
    yubikey.generate(0x9A)
    yubikey.self_sign(0x9A, "hwsigner")
    with pytest.raises(PinError, match="a length that it does not accept"):
        open_key(yubikey.uri(0x9A, module), PinSource(pin))
    assert yubikey.pin_tries == []
    open_key(yubikey.uri(0x9A, module), PinSource(yubikey.pin)).close()
