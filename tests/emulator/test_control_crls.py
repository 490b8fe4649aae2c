"""Revocation lists, imported by boto3 and obeyed by CreateSession: what no question says of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certs import Authority, make_ca, pem
from emulator.client import Caller, create_session
from emulator.planes import client, refused
from hwsigner.emulator import Emulator


def crl_of(ca: Authority, serials: Iterable[int] = (), *, encoding: Encoding = Encoding.PEM) -> bytes:
    """Return a list that revokes some serial numbers. It expired yesterday."""
    then = datetime.now(UTC) - timedelta(days=2)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    builder = builder.last_update(then).next_update(then + timedelta(days=1))
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(then).build()
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(ca.key, SHA256()).public_bytes(encoding)


def session(emulator: Emulator, caller: Caller) -> tuple[int, str]:
    reply = create_session(emulator, caller)
    return reply.status, reply.json.get("message", "")


REVOKED = (403, "Certificate revoked")


def test_imported_list_is_not_enabled_unless_the_request_says_so(plane: Any, emulator: Emulator, ca: Authority) -> None:
    call = {"name": "c", "crlData": crl_of(ca), "trustAnchorArn": emulator.trust_anchor_arn}
    assert plane.import_crl(**call)["crl"]["enabled"] is False
    assert plane.import_crl(**call, enabled=True)["crl"]["enabled"] is True


def test_update_replaces_the_list(plane: Any, emulator: Emulator, ca: Authority, caller: Caller) -> None:
    crl = plane.import_crl(
        name="c", crlData=crl_of(ca), trustAnchorArn=emulator.trust_anchor_arn, enabled=True, aliasName="c"
    )["crl"]
    assert session(emulator, caller)[0] == 201
    data = crl_of(ca, [caller.certificate.serial_number])
    updated = plane.update_crl(crlId=crl["aliasArn"], crlData=data)["crl"]
    assert updated == {**crl, "crlData": data, "updatedAt": updated["updatedAt"]}
    assert session(emulator, caller) == REVOKED
    serial = f"{caller.certificate.serial_number:x}"
    assert emulator.requests[-1].reason == f"the serial number {serial} is in the CRL c ({crl['crlArn']})"
    plane.delete_crl(crlId=crl["crlArn"])
    assert session(emulator, caller)[0] == 201


def test_list_is_returned_as_it_was_sent(plane: Any, emulator: Emulator, ca: Authority) -> None:
    data = b"A comment\n" + crl_of(ca, [1, 2])
    crl = plane.import_crl(name="c", crlData=data, trustAnchorArn=emulator.trust_anchor_arn)["crl"]
    assert crl["crlData"] == data
    assert plane.get_crl(crlId=crl["crlId"])["crl"] == crl
    assert plane.list_crls()["crls"] == [crl]


def test_list_is_refused_when_it_is_not_of_the_anchors_ca(plane: Any, emulator: Emulator) -> None:
    namesake = make_ca("Example CA")
    call = {"name": "c", "crlData": crl_of(namesake), "trustAnchorArn": emulator.trust_anchor_arn}
    assert refused(plane.import_crl, **call)[1] == "The CRL is not signed by a certificate of the trust anchor"


@pytest.mark.parametrize("kind", ["DER", "text", "two", "broken", "empty"])
def test_list_is_refused_when_it_is_not_one_in_pem(emulator: Emulator, ca: Authority, kind: str) -> None:
    data = {
        "DER": crl_of(ca, encoding=Encoding.DER),
        "text": b"x",
        "two": crl_of(ca) * 2,
        "broken": b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
        "empty": b"",
    }[kind]
    call = {"name": "c", "crlData": data, "trustAnchorArn": emulator.trust_anchor_arn}
    assert refused(client(emulator, check=False).import_crl, **call)[0] == "ValidationException"


def test_import_finds_its_trust_anchor_by_the_arn_but_not_by_an_alias(
    plane: Any, emulator: Emulator, ca: Authority
) -> None:
    arn = emulator.trust_anchor_arn
    emulator.world.trust_anchors[arn].alias = "a"
    alias_arn = plane.get_trust_anchor(trustAnchorId=arn)["trustAnchor"]["aliasArn"]
    for other in (alias_arn, arn.replace("us-east-1", "eu-central-1"), f"{arn[:-1]}1"):
        call = {"name": "c", "crlData": crl_of(ca), "trustAnchorArn": other}
        assert refused(plane.import_crl, **call)[0] == "ResourceNotFoundException"


OPENSSL_CONFIG = """\
[ca]
default_ca = here
[here]
database = index.txt
crlnumber = number
default_md = sha256
default_crl_days = 1
"""


def test_list_that_openssl_made_is_obeyed(
    plane: Any, emulator: Emulator, ca: Authority, caller: Caller, tmp_path: Path
) -> None:
    key = ca.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files = {"ca.pem": ca.pem, "ca.key": key, "leaf.pem": pem(caller.certificate), "index.txt": b"", "number": b"01"}
    for name, content in {**files, "c.cnf": OPENSSL_CONFIG.encode()}.items():
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "ca", "-batch", "-config", "c.cnf", "-cert", "ca.pem", "-keyfile", "ca.key"]
    for step in (["-revoke", "leaf.pem"], ["-gencrl", "-out", "crl.pem"]):
        subprocess.run([*command, *step], cwd=tmp_path, check=True, capture_output=True)
    data = (tmp_path / "crl.pem").read_bytes()
    plane.import_crl(name="c", crlData=data, trustAnchorArn=emulator.trust_anchor_arn, enabled=True)
    assert session(emulator, caller) == REVOKED
