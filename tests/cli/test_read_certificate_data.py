"""read-certificate-data for files, checked against openssl."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import certs
from scene import Scene


def openssl(path: Path, *flags: str) -> bytes:
    return subprocess.run(["openssl", "x509", "-in", str(path), *flags], capture_output=True, check=True).stdout


def test_file_is_shown_as_json(scene: Scene) -> None:
    data = json.loads(scene.call("read-certificate-data", "--certificate", scene.leaf).out)
    assert base64.b64decode(data["certificateData"]) == openssl(scene.leaf, "-outform", "DER")
    serial = openssl(scene.leaf, "-noout", "-serial").decode().strip().removeprefix("serial=")
    assert data["serialNumber"] == str(int(serial, 16))
    assert data["keyType"] == "EC"
    assert data["supportedAlgorithms"] == ["ECSHA256", "ECSHA384", "ECSHA512"]


def test_rsa_certificate_in_der_is_shown(scene: Scene) -> None:
    path = scene.issue(rsa.generate_private_key(65537, 2048).public_key())
    der = scene.write("leaf.der", openssl(path, "-outform", "DER"))
    data = json.loads(scene.call("read-certificate-data", "--certificate", der).out)
    assert (data["keyType"], data["supportedAlgorithms"][0]) == ("RSA", "RSASHA256")


def test_leaf_of_a_chain_is_shown(scene: Scene) -> None:
    chain = scene.write("chain.pem", scene.ca.pem + scene.leaf.read_bytes())
    of_chain = scene.call("read-certificate-data", "--certificate", chain).out
    assert of_chain == scene.call("read-certificate-data", "--certificate", scene.leaf).out


def test_expired_certificate_is_shown(scene: Scene) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    path = scene.issue(key, certs.Shape(begin=certs.ago(9), end=certs.ago(8)))
    assert scene.call("read-certificate-data", "--certificate", path).status == 0


@pytest.mark.parametrize(
    ("flags", "status"), [((), 2), (("--certificate", "/nonexistent"), 4), (("--cert-selector", "x"), 2)]
)
def test_invalid_arguments_give_one_line_and_a_status(scene: Scene, flags: tuple[str, ...], status: int) -> None:
    outcome = scene.call("read-certificate-data", *flags)
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err.count("\n") == 1
