"""From nothing to a role and to a revocation, with ML-DSA keys of the CA, of the leaf or of both; openssl is the CA."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from hwsigner.emulator import Emulator, World
from judges import needs_openssl_3_5
from scene import Outcome

pytestmark = [needs_openssl_3_5, pytest.mark.slow]

REGION = "us-east-1"
ADMIN = {"AWS_ACCESS_KEY_ID": "AKIDADMIN", "AWS_SECRET_ACCESS_KEY": "an-admins-secret"}
NEW_CA = {
    "P-256": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "ML-DSA-44": ["-newkey", "ML-DSA-44"],
    "ML-DSA-87": ["-newkey", "ML-DSA-87"],
}


def openssl(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An empty account."""
    for name, value in {**ADMIN, "XDG_CONFIG_HOME": str(tmp_path / "xdg"), "AWS_REGION": REGION}.items():
        monkeypatch.setenv(name, value)
    with Emulator(World()) as emulator:
        emulator.add_credentials(*ADMIN.values())
        yield emulator


def make_ca(folder: Path, kind: str, name: str = "ca") -> Path:
    """Make a CA with openssl, and return the path of its certificate; the key is beside it."""
    making = ["-subj", f"/CN=Demo {name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-days", "30"]
    openssl(folder, "req", "-x509", "-noenc", "-keyout", f"{name}.key", "-out", f"{name}.pem", *NEW_CA[kind], *making)
    return folder / f"{name}.pem"


@pytest.mark.parametrize(
    ("ca", "algorithm", "shown", "signed"),
    [
        ("P-256", "mldsa65", "ML-DSA-65", "ecdsa-with-SHA256"),
        ("ML-DSA-87", "p256", "EC P-256", "ML-DSA-87"),
        ("ML-DSA-44", "mldsa44", "ML-DSA-44", "ML-DSA-44"),
    ],
)
def test_key_of_one_kind_gets_a_role_by_a_ca_of_any_kind_until_it_is_revoked(
    account: Emulator, tmp_path: Path, call: Callable[..., Outcome], ca: str, algorithm: str, shown: str, signed: str
) -> None:
    def run(*arguments: str | Path) -> str:
        outcome = call(*arguments)
        assert outcome.status == 0, outcome
        return outcome.out

    make_ca(tmp_path, ca)
    given = ["--region", REGION, "--endpoint", account.url, "--yes"]
    match = "--match=CN=web,OU=devops"
    run("aws", "setup", f"--ca={tmp_path / 'ca.pem'}", "--role=web", match, *given)
    issue = f"openssl x509 -req -CA {tmp_path}/ca.pem -CAkey {tmp_path}/ca.key -copy_extensions copy -days 2"
    names = ["--subject=CN=web,OU=devops", f"--issuer-command={issue}", f"--endpoint={account.url}"]
    key, new_key, leaf = tmp_path / "web.key", tmp_path / "next.key", tmp_path / "web.crt"
    run("enroll", "web", f"--private-key={key}", f"--algorithm={algorithm}", "--no-aws-config", *names)
    assert f"Algorithm    {shown}" in run("show", "--profile", "web")
    assert f"Signature Algorithm: {signed}" in openssl(tmp_path, "x509", "-in", str(leaf), "-noout", "-text")
    assert "Nothing is wrong" in run("aws", "check", "--profile", "web", "--endpoint", account.url)
    run("credential-process", "--profile", "web")

    run("keygen", new_key, "--algorithm", algorithm)
    run("renew", "web", "--new-key", new_key)
    bundle = f"--ca={tmp_path / 'ca.pem'}"
    template = run("aws", "template", "cloudformation", tmp_path / "next.crt", bundle, "--role=web", match)
    assert (tmp_path / "ca.pem").read_text().strip().splitlines()[1] in template
    run("credential-process", "--profile", "web")
    openssl(tmp_path, "verify", "-CAfile", "ca.pem", "next.crt")

    by_ca = [f"--ca-key={tmp_path / 'ca.key'}", f"--ca={tmp_path / 'ca.pem'}"]
    for revoked in (leaf, tmp_path / "next.crt"):
        run("aws", "revoke", revoked, "--profile=web", "--reason=keyCompromise", *by_ca, *given[2:])
    client = boto3.client("rolesanywhere", region_name=REGION, endpoint_url=account.url)
    [crl] = client.list_crls()["crls"]
    (tmp_path / "crl.pem").write_bytes(crl["crlData"])
    assert "verify OK" in openssl(tmp_path, "crl", "-in", "crl.pem", "-CAfile", "ca.pem", "-noout")
    refused = call("credential-process", "--profile", "web")
    assert (refused.status, "revoked" in refused.err) == (5, True)


def test_ml_dsa_ca_stands_beside_a_p_256_ca_and_each_revokes_its_own(
    account: Emulator, tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    given = [f"--endpoint={account.url}", "--yes"]
    old, new = make_ca(tmp_path, "P-256", "old"), make_ca(tmp_path, "ML-DSA-44", "new")
    for ca, more in ((old, []), (new, ["--add-ca"])):
        setup = call("aws", "setup", f"--ca={ca}", "--role=web", "--match=CN=web", f"--region={REGION}", *given, *more)
        assert setup.status == 0, setup
    use = ["credential-process", "--profile=web", f"--endpoint={account.url}"]
    leaves = {}
    for ca in (old, new):
        key, leaf = tmp_path / f"{ca.stem}-leaf.key", tmp_path / f"{ca.stem}-leaf.pem"
        assert call("keygen", key, "--algorithm=mldsa65").status == 0
        assert call("csr", key, "--subject=CN=web", f"--out={tmp_path / 'csr'}").status == 0
        issuer = ["-CA", str(ca), "-CAkey", str(ca.with_suffix(".key")), "-copy_extensions", "copy"]
        openssl(tmp_path, "x509", "-req", "-in", "csr", *issuer, "-out", str(leaf), "-days", "2")
        leaves[ca] = [f"--certificate={leaf}", f"--private-key={key}"]
        assert call(*use, *leaves[ca]).status == 0
    revoke = ["aws", "revoke", tmp_path / "new-leaf.pem", "--profile=web", f"--ca={new}", *given]
    refused = call(*revoke, f"--ca-key={old.with_suffix('.key')}")
    assert (refused.status, "the key is not the one of the CA certificate" in refused.err) == (3, True)
    assert call(*revoke, f"--ca-key={new.with_suffix('.key')}").status == 0
    assert [call(*use, *leaves[ca]).status for ca in (old, new)] == [0, 5]
