"""Keys of NSS: made by certutil and by hwsigner, used by each command. NSS of Debian 13 has no ML-DSA."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

import certs
import judges
from hwsigner.emulator import Emulator
from hwsigner.key import open_key
from hwsigner.testing import openssl_verifies
from real_modules import ModuleToken, certutil, nss_token
from scene import Outcome, Scene, call

__all__ = ["call"]

KINDS = {
    "p256": ("-k", "ec", "-q", "nistp256"),
    "rsa2048": ("-k", "rsa", "-g", "2048"),
    "mldsa65": ("-k", "mldsa", "-q", "ml-dsa-65"),
}
ALGORITHMS = {"p256": "EC P-256", "rsa2048": "RSA 2048", "mldsa65": "ML-DSA-65"}
of_each_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=judges.needs_nss if kind == "mldsa65" else ()) for kind in KINDS]
)


@pytest.fixture(scope="module")
def database(hardware: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ModuleToken]]:
    """The folder of a database, and its token."""
    folder = tmp_path_factory.mktemp("nss")
    with nss_token(folder) as token, token.in_process():
        (folder / "pin").chmod(0o600)
        yield folder, token


@pytest.fixture
def scene(shared_emulator: Emulator, ca: certs.Authority, call: Callable[..., Outcome], tmp_path: Path) -> Scene:
    return Scene(ca, shared_emulator, tmp_path, tmp_path, tmp_path, call)


def openssl(*arguments: str, data: str) -> str:
    """Return what openssl prints."""
    command = ["openssl", *arguments]
    return subprocess.run(command, input=data, capture_output=True, text=True, check=True).stdout


def check_commands(scene: Scene, uri: str, kind: str, tmp_path: Path) -> None:
    """List, show and use a key: openssl judges its request and a signature, and the emulator a session."""
    everything = re.sub(r";(id|object)=[^;?]*", "", uri)
    assert ALGORITHMS[kind] in scene.call("list", "--login", everything).out
    assert ALGORITHMS[kind] in scene.call("show", uri).out
    request = scene.call("csr", uri, "--subject", "CN=web").out
    public_key = openssl("req", "-verify", "-pubkey", "-noout", data=request)
    spki = load_pem_public_key(public_key.encode()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with open_key(uri) as key:
        assert openssl_verifies(tmp_path, spki, key.sign(b"message"), b"message", "sha256")
    done = scene.credentials(certificate=scene.issue(spki), private_key=uri)
    assert done.status == 0, done.err
    assert json.loads(done.out)["SessionToken"]


@of_each_kind
def test_key_that_certutil_made_is_used_by_each_command(
    database: tuple[Path, ModuleToken], scene: Scene, kind: str, tmp_path: Path
) -> None:
    folder, token = database
    name = f"certutil-{kind}"
    certutil(folder, "-S", "-x", "-n", name, "-s", f"CN={name}", "-t", ",,", *KINDS[kind])
    uri = f"{token.uri(f'object={name}')}&pin-source=file:{folder}/pin"
    check_commands(scene, uri, kind, tmp_path)


@of_each_kind
def test_key_that_hwsigner_made_in_nss_is_used_by_each_command_and_deleted(
    database: tuple[Path, ModuleToken], scene: Scene, kind: str, tmp_path: Path
) -> None:
    folder, token = database
    uri = f"{token.uri(f'object=made-{kind};id=%0{len(kind)}')}&pin-source=file:{folder}/pin"
    refused = scene.call("keygen", uri, "--algorithm", kind)
    assert refused.status == 3
    assert "run keygen --accept-unproven" in refused.err
    made = scene.call("keygen", uri, "--algorithm", kind, "--accept-unproven", "--json")
    assert made.status == 0, made.err
    check_commands(scene, uri, kind, tmp_path)
    deleted = scene.call("delete", "--yes", uri)
    assert re.findall(r"deleted (private|public) key", deleted.out) == ["private", "public"]
    assert f"made-{kind}" not in scene.call("list", "--login", f"{token.uri()}&pin-source=file:{folder}/pin").out
