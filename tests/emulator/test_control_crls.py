"""Revocation lists, imported by boto3 and obeyed by CreateSession."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certs import Authority, issue, make_ca, pem
from emulator.client import Caller, Reply, create_session
from emulator.planes import bundle, client, refused
from hwsigner.emulator import Emulator, TrustAnchor


def crl_of(ca: Authority, serials: Iterable[int] = (), *, days: int = 1, encoding: Encoding = Encoding.PEM) -> bytes:
    """Return a list that revokes some serial numbers, valid for some days from two days ago."""
    then = datetime.now(UTC) - timedelta(days=2)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    builder = builder.last_update(then).next_update(then + timedelta(days=days))
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(then).build()
        builder = builder.add_revoked_certificate(revoked)
    algorithm = None if "mldsa" in type(ca.key).__name__.lower() else SHA256()
    return builder.sign(ca.key, algorithm).public_bytes(encoding)


@pytest.fixture
def plane(emulator: Emulator) -> Any:
    return client(emulator)


@pytest.fixture
def imported(plane: Any, emulator: Emulator, ca: Authority, caller: Caller) -> dict[str, Any]:
    """A list that revokes the caller's certificate, and is not enabled."""
    data = crl_of(ca, [caller.certificate.serial_number])
    made = plane.import_crl(name="c", crlData=data, trustAnchorArn=emulator.trust_anchor_arn)
    crl: dict[str, Any] = made["crl"]
    return crl


def session(emulator: Emulator, caller: Caller, **changes: Any) -> tuple[int, str]:
    return outcome(create_session(emulator, caller, **changes))


def outcome(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.json.get("message", "")


REVOKED = (403, "Certificate revoked")


def test_imported_list_is_not_enabled_unless_the_request_says_so(
    plane: Any, emulator: Emulator, ca: Authority, imported: dict[str, Any]
) -> None:
    assert imported["enabled"] is False
    call = {"name": "d", "crlData": crl_of(ca), "trustAnchorArn": emulator.trust_anchor_arn}
    assert plane.import_crl(**call, enabled=True)["crl"]["enabled"] is True


def test_revoked_certificate_gets_a_session_only_while_the_list_is_disabled(
    plane: Any, emulator: Emulator, caller: Caller, callers: dict[str, Caller], imported: dict[str, Any]
) -> None:
    assert session(emulator, caller)[0] == 201
    plane.enable_crl(crlId=imported["crlId"])
    assert session(emulator, caller) == REVOKED
    serial = f"{caller.certificate.serial_number:x}"
    assert emulator.requests[-1].reason == f"the serial number {serial} is in the CRL c ({imported['crlArn']})"
    assert session(emulator, callers["RSA-2048"])[0] == 201
    plane.disable_crl(crlId=imported["crlId"])
    assert session(emulator, caller)[0] == 201


def test_update_replaces_the_list(plane: Any, emulator: Emulator, ca: Authority, caller: Caller) -> None:
    crl = plane.import_crl(
        name="c", crlData=crl_of(ca), trustAnchorArn=emulator.trust_anchor_arn, enabled=True, aliasName="c"
    )["crl"]
    assert session(emulator, caller)[0] == 201
    data = crl_of(ca, [caller.certificate.serial_number])
    updated = plane.update_crl(crlId=crl["aliasArn"], crlData=data)["crl"]
    assert updated == {**crl, "crlData": data, "updatedAt": updated["updatedAt"]}
    assert session(emulator, caller) == REVOKED
    plane.delete_crl(crlId=crl["crlArn"])
    assert session(emulator, caller)[0] == 201


def test_list_is_returned_as_it_was_sent(plane: Any, emulator: Emulator, ca: Authority) -> None:
    data = b"A comment\n" + crl_of(ca, [1, 2])
    crl = plane.import_crl(name="c", crlData=data, trustAnchorArn=emulator.trust_anchor_arn)["crl"]
    assert crl["crlData"] == data
    assert plane.get_crl(crlId=crl["crlId"])["crl"] == crl
    assert plane.list_crls()["crls"] == [crl]


def test_expired_list_still_revokes(plane: Any, emulator: Emulator, ca: Authority, caller: Caller) -> None:
    data = crl_of(ca, [caller.certificate.serial_number], days=1)
    plane.import_crl(name="c", crlData=data, trustAnchorArn=emulator.trust_anchor_arn, enabled=True)
    assert session(emulator, caller) == REVOKED


def test_revoked_intermediate_ends_the_sessions_below_it(plane: Any, emulator: Emulator, ca: Authority) -> None:
    middle = make_ca("Middle CA", ca)
    key = ec.generate_private_key(ec.SECP256R1())
    below = Caller(key, issue(middle, key.public_key()), (middle.certificate,))
    assert session(emulator, below)[0] == 201
    data = crl_of(ca, [middle.certificate.serial_number])
    plane.import_crl(name="c", crlData=data, trustAnchorArn=emulator.trust_anchor_arn, enabled=True)
    assert session(emulator, below) == REVOKED


def test_list_revokes_only_what_its_own_ca_issued(plane: Any, emulator: Emulator, ca: Authority) -> None:
    twin = make_ca("Example CA")  # Another CA with the same name and another key.
    assert twin.certificate.subject == ca.certificate.subject
    emulator.world.trust_anchors[emulator.trust_anchor_arn].certificates.append(twin.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = issue(ca, key.public_key())
    for other, expected in ((twin, 201), (ca, 403)):
        data = crl_of(other, [leaf.serial_number])
        plane.import_crl(name="c", crlData=data, trustAnchorArn=emulator.trust_anchor_arn, enabled=True)
        assert session(emulator, Caller(key, leaf))[0] == expected


def test_list_is_for_its_own_trust_anchor(plane: Any, emulator: Emulator, ca: Authority, caller: Caller) -> None:
    other = plane.create_trust_anchor(name="b", source=bundle(ca.pem), enabled=True)["trustAnchor"]["trustAnchorArn"]
    data = crl_of(ca, [caller.certificate.serial_number])
    plane.import_crl(name="c", crlData=data, trustAnchorArn=other, enabled=True)
    assert session(emulator, caller)[0] == 201


def test_ml_dsa_authority_signs_a_list(plane: Any) -> None:
    ca = make_ca("ML-DSA CA", key=mldsa.MLDSA65PrivateKey.generate())
    anchor = plane.create_trust_anchor(name="b", source=bundle(ca.pem))["trustAnchor"]["trustAnchorArn"]
    assert plane.import_crl(name="c", crlData=crl_of(ca, [7]), trustAnchorArn=anchor)["crl"]["name"] == "c"


def test_list_is_refused_when_it_is_not_of_the_anchors_ca(plane: Any, emulator: Emulator) -> None:
    for other in (make_ca("Other CA"), make_ca("Example CA")):
        call = {"name": "c", "crlData": crl_of(other), "trustAnchorArn": emulator.trust_anchor_arn}
        assert refused(plane.import_crl, **call) == (
            "ValidationException",
            "The CRL is not signed by a certificate of the trust anchor",
        )


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


def test_list_has_at_most_300000_bytes(emulator: Emulator, ca: Authority) -> None:
    plane = client(emulator, check=False)
    data = crl_of(ca, range(1, 5000))
    call = {"name": "c", "trustAnchorArn": emulator.trust_anchor_arn}
    assert len(data) < 300000
    data += b"\n" * (300000 - len(data))
    made = plane.import_crl(**call, crlData=data)["crl"]
    assert refused(plane.import_crl, **call, crlData=data + b"\n")[0] == "ValidationException"
    assert refused(plane.update_crl, crlId=made["crlId"], crlData=data + b"\n")[0] == "ValidationException"


def test_trust_anchor_has_at_most_two_lists(plane: Any, emulator: Emulator, ca: Authority) -> None:
    call = {"name": "c", "crlData": crl_of(ca), "trustAnchorArn": emulator.trust_anchor_arn}
    for _ in range(2):
        plane.import_crl(**call)
    assert refused(plane.import_crl, **call) == (
        "ValidationException",
        "The trust anchor has 2 CRLs, which is its quota",
    )


def test_import_finds_its_trust_anchor_by_the_arn_but_not_by_an_alias(
    plane: Any, emulator: Emulator, ca: Authority
) -> None:
    arn = emulator.trust_anchor_arn
    emulator.world.trust_anchors[arn].alias = "a"
    alias_arn = plane.get_trust_anchor(trustAnchorId=arn)["trustAnchor"]["aliasArn"]
    for other in (alias_arn, arn.replace("us-east-1", "eu-central-1"), f"{arn[:-1]}1"):
        call = {"name": "c", "crlData": crl_of(ca), "trustAnchorArn": other}
        assert refused(plane.import_crl, **call)[0] == "ResourceNotFoundException"


def test_list_of_a_ca_that_left_the_bundle_revokes_nothing(
    plane: Any, emulator: Emulator, caller: Caller, imported: dict[str, Any]
) -> None:
    plane.enable_crl(crlId=imported["crlId"])
    anchor = emulator.world.trust_anchors[emulator.trust_anchor_arn]
    emulator.world.trust_anchors[anchor.arn] = TrustAnchor(anchor.arn, [make_ca("Another").certificate])
    assert session(emulator, caller)[1] == "Untrusted signing certificate"


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
