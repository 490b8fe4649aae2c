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

    making = ["-subj", "/CN=Demo CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-days", "30"]
    openssl(tmp_path, "req", "-x509", "-noenc", "-keyout", "ca.key", "-out", "ca.pem", *NEW_CA[ca], *making)
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
