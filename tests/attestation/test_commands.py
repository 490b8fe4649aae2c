"""The two commands, where no hardware is needed: what they refuse, in one line and with its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.chips import issue
from hwsigner._cli import main
from hwsigner.attestation.documents import MAX_BYTES, Kind, Value, new
from hwsigner.key.management import KeyRequest, generate_key

CHALLENGE = new("challenge", "tpm2", dict.fromkeys(("statement", "nonce", "credentialBlob", "encryptedSecret"), b"x"))

MEMBERS: dict[Kind, dict[str, Value]] = {
    "statement": {"keyPublic": b"x", "token": "x"},
    "answer": {"nonce": b"x", "signature": b"x"},
    "state": {"statement": b"x", "nonce": b"x", "created": "x"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the documents and roots that the arguments name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots" / "root.pem").write_bytes(issue("Root")[0].public_bytes(Encoding.PEM))
    (tmp_path / "empty").mkdir()
    (tmp_path / "challenge").write_text(CHALLENGE.to_json())
    (tmp_path / "garbage").write_text("garbage")
    (tmp_path / "long").write_bytes(bytes(MAX_BYTES + 1))
    return tmp_path


VERIFY = ("verify-attestation", "challenge", "--roots")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("attest",), 2, "no key was given. Give the key URI"),
        (("attest", "key.pem"), 2, "file: keys can't be attested. Use a key in a TPM or a PKCS #11 token"),
        (("attest", "tpm2:handle=0x81000100", "--pcrs", "sha256:7"), 2, "--pcrs is for the answer"),
        (("attest", "k", "--challenge", "c", "--csr", "r"), 2, "--csr is for the statement, so not with --challenge"),
        (
            ("attest", "k", "--challenge", "c", "--vendor-certificates", "r"),
            2,
            "--vendor-certificates is for the state",
        ),
        (("attest", "tpm2:handle=0x81000100", "--challenge", "absent"), 2, "can't read absent: No such file"),
        (("attest", "tpm2:handle=0x81000100", "--challenge", "garbage"), 3, "the challenge is not a JSON object"),
        (("attest", "tpm2:handle=0x81000100", "--challenge", "long"), 3, "the challenge has more than 65536 bytes"),
        (("attest", "tpm2:handle=0x81000100", "--csr", "garbage"), 2, "the certificate request can't be read"),
        (("verify-attestation",), 2, "STATEMENT is missing. Write hwsigner verify-attestation STATEMENT"),
        (
            ("verify-attestation", "s"),
            2,
            "no roots were given. Add --roots with the folder of the vendors' certificates, or --ek-public-key",
        ),
        ((*VERIFY, "roots"), 3, "the statement has the type 'hwsigner-attestation-challenge', not"),
        ((*VERIFY, "empty"), 3, "the statement has the type"),
        ((*VERIFY, "roots", "--challenge", "c", "--answer", "a"), 2, "--challenge and --answer are two steps"),
        ((*VERIFY, "roots", "--challenge", "c"), 2, "--challenge and --answer need --state"),
        ((*VERIFY, "roots", "--answer", "a"), 2, "--challenge and --answer need --state"),
        ((*VERIFY, "roots", "--state", "s"), 2, "--challenge and --answer need --state"),
    ],
)
def test_command_is_refused_in_one_line(
    arguments: tuple[str, ...], status: int, message: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(list(arguments)) == status
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"hwsigner: {message}")
    assert printed.err.count("\n") == 1


def test_key_file_is_refused_as_such_when_its_request_is_of_an_ml_dsa_key(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    key = str(folder / "ml-dsa.key")
    generate_key(key, KeyRequest("mldsa44"))
    assert main(["csr", key, "--subject=CN=web", f"--out={folder / 'ml-dsa.csr'}"]) == 0
    capfd.readouterr()
    assert main(["attest", key, "--csr", str(folder / "ml-dsa.csr")]) == 2
    assert capfd.readouterr().err.startswith("hwsigner: file: keys can't be attested. Use a key in a TPM")


@pytest.mark.parametrize("name", ["roots", "roots/root.pem", "roots/.x.pem", "state"])
def test_verifier_trusts_nothing_that_other_users_can_write(
    name: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    documents = {kind: new(kind, "pkcs11", MEMBERS[kind]) for kind in MEMBERS}
    for kind, document in documents.items():
        (folder / kind).write_text(document.to_json())
    if name == "roots/.x.pem":
        (folder / "roots" / "root.pem").rename(folder / name)
    (folder / name).chmod(0o777 if name == "roots" else 0o666)
    command = ["verify-attestation", "statement", "--roots", "roots", "--state", "state", "--answer", "answer"]
    assert main(command) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert f"{name} has mode 0{'777' if name == 'roots' else '666'}: other users can write it" in printed.err
