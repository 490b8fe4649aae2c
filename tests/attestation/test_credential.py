"""Secrets for the chip of an endorsement key, against tpm2-tools: theirs and ours open each other's."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.chips import Chip, changed
from hwsigner import attestation
from hwsigner.attestation.credential import make_credential
from hwsigner.attestation.structures import RSA, Public, read_certified, read_public, read_quoted, verify_signature
from hwsigner.errors import AttestationError
from softhsm.command import run
from softhsm.tpm import SoftTPM

SECRET = b"thirty-two bytes of a secret...."
# The header of tpm2-tools' files of credentials: a magic number and a version.
_HEADER = bytes.fromhex("badcc0de00000001")


class Tools:
    """An endorsement key and an attestation key that tpm2-tools made."""

    def __init__(self, tpm: SoftTPM, folder: Path, ek: str) -> None:
        self.tpm = tpm
        self.folder = folder
        self.ek = ek

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def run(self, *arguments: str) -> bytes:
        output = run(arguments, self.tpm.env)
        for kind in ("-t", "-l"):
            run(["tpm2_flushcontext", kind], self.tpm.env)
        return output

    def public(self, name: str) -> Public:
        """Return a TPM2B_PUBLIC of a file, without the count in front of it."""
        return read_public((self.folder / name).read_bytes()[2:], name)

    def opened(self, blob: bytes, *, has_policy: bool) -> bytes:
        """Return the secret that tpm2_activatecredential finds in ours."""
        credential, secret, session = self.path("credential"), self.path("secret"), self.path("session")
        Path(credential).write_bytes(_HEADER + blob)
        arguments = ["-c", self.path("ak.ctx"), "-C", self.ek, "-i", credential, "-o", secret]
        if has_policy:
            run(["tpm2_startauthsession", "--policy-session", "-S", session], self.tpm.env)
            run(["tpm2_policysecret", "-Q", "-S", session, "-c", "e"], self.tpm.env)
            arguments += ["-P", f"session:{session}"]
        try:
            self.run("tpm2_activatecredential", "-Q", *arguments)
        finally:
            if has_policy:  # The tool saves the session, and other folders' tests use the same TPM.
                run(["tpm2_flushcontext", session], self.tpm.env)
        return Path(secret).read_bytes()


@pytest.fixture
def tools(swtpm: SoftTPM, tmp_path: Path, request: pytest.FixtureRequest) -> Tools:
    """Keys of the low range, of the algorithm that the test is for."""
    tools = Tools(swtpm, tmp_path, str(tmp_path / "ek.ctx"))
    tools.run("tpm2_createek", "-Q", "-G", request.param, "-c", tools.ek, "-u", tools.path("ek.pub"))
    _create_ak(tools)
    return tools


def _create_ak(tools: Tools) -> None:
    files = ["-c", tools.path("ak.ctx"), "-u", tools.path("ak.pub"), "-n", tools.path("ak.name")]
    tools.run("tpm2_createak", "-Q", "-C", tools.ek, "-G", "ecc", "-g", "sha256", "-s", "ecdsa", *files)


@pytest.mark.parametrize("tools", ["rsa", "ecc"], indirect=True)
def test_tpm2_tools_open_our_secret(tools: Tools) -> None:
    name = (tools.folder / "ak.name").read_bytes()
    assert tools.public("ak.pub").name == name
    blob = b"".join(make_credential(tools.public("ek.pub"), name, SECRET))
    assert tools.opened(blob, has_policy=True) == SECRET


@pytest.mark.parametrize("handle", ["0x81010001", "0x81010016"])
def test_tpm2_tools_open_our_secret_for_the_keys_that_swtpm_setup_makes(
    chip: Chip, tmp_path: Path, handle: str
) -> None:
    tools = Tools(chip.tpm, tmp_path, str(tmp_path / "primary"))
    tools.run("tpm2_createprimary", "-Q", "-C", "e", "-c", tools.ek)
    tools.run("tpm2_createprimary", "-Q", "-C", "e", "-G", "ecc256:ecdsa-sha256:null", "-c", tools.path("ak.ctx"),
              "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign")  # fmt: skip
    tools.run("tpm2_readpublic", "-Q", "-c", tools.path("ak.ctx"), "-o", tools.path("ak.pub"))
    tools.run("tpm2_readpublic", "-Q", "-c", handle, "-o", tools.path("ek.pub"))
    tools.ek = handle
    blob = b"".join(make_credential(tools.public("ek.pub"), tools.public("ak.pub").name, SECRET))
    assert tools.opened(blob, has_policy=handle == "0x81010001") == SECRET


def test_we_open_the_secret_of_tpm2_makecredential(chip: Chip, tmp_path: Path) -> None:
    statement = chip.statement()
    challenge, _ = attestation.challenge(statement, chip.trust)
    ek, ak = (read_public(statement.blob(name), name) for name in ("ekPublic", "akPublic"))
    for name, content in (("ek.pub", len(ek.data).to_bytes(2) + ek.data), ("secret", SECRET)):
        (tmp_path / name).write_bytes(content)
    files = ["-u", str(tmp_path / "ek.pub"), "-s", str(tmp_path / "secret"), "-o", str(tmp_path / "credential")]
    run(["tpm2_makecredential", "-Q", "-T", "none", "-n", ak.name.hex(), *files], {})
    made = (tmp_path / "credential").read_bytes().removeprefix(_HEADER)
    end = 2 + int.from_bytes(made[:2])
    theirs = changed(challenge, credentialBlob=made[:end], encryptedSecret=made[end:])
    assert attestation.answer_challenge(chip.key, theirs).blob("secret") == SECRET


@pytest.mark.parametrize("tools", ["ecc"], indirect=True)
def test_certification_of_tpm2_tools_is_read(tools: Tools) -> None:
    primary, key = tools.path("primary"), tools.path("key.ctx")
    tools.run("tpm2_createprimary", "-Q", "-G", "ecc", "-c", primary)
    tools.run("tpm2_create", "-Q", "-C", primary, "-G", "ecc", "-c", key, "-u", tools.path("key.pub"))
    files = ["-o", tools.path("info"), "-s", tools.path("signature")]
    tools.run("tpm2_certify", "-Q", "-c", key, "-C", tools.path("ak.ctx"), "-g", "sha256", *files)
    info, signature = ((tools.folder / name).read_bytes() for name in ("info", "signature"))
    assert verify_signature(tools.public("ak.pub"), signature, info, "it") == "sha256"
    assert read_certified(info).name == tools.public("key.pub").name


def test_tpm2_checkquote_takes_our_quote(chip: Chip, tmp_path: Path) -> None:
    statement, _, _, answer = chip.answered("sha256:7,14")
    ak = read_public(statement.blob("akPublic"), "the key")
    quoted = read_quoted(answer.blob("quoteInfo"))
    assert quoted.pcrs == ((0x0B, 7), (0x0B, 14))
    pem = ak.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    contents = {"ak.pem": pem, "info": answer.blob("quoteInfo"), "signature": answer.blob("quoteSignature")}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = ["-u", str(tmp_path / "ak.pem"), "-m", str(tmp_path / "info"), "-s", str(tmp_path / "signature")]
    run(["tpm2_checkquote", "-Q", *files, "-q", quoted.extra_data.hex()], {})


@pytest.mark.parametrize("cipher", [(0x10, 0, 0), (0x06, 128, 0x42), (0x06, 64, 0x43)])
def test_endorsement_key_without_aes_in_cfb_mode_is_refused(chip: Chip, cipher: tuple[int, int, int]) -> None:
    ek = read_public(chip.statement().blob("ekPublic"), "the key")
    odd = Public(ek.data, ek.type, ek.name_hash, ek.attributes, ek.policy, cipher, ek.key)
    with pytest.raises(AttestationError, match="does not use AES in CFB mode"):
        make_credential(odd, b"name", SECRET)


def test_public_area_with_an_unknown_scheme_is_refused(chip: Chip) -> None:
    """ECDAA has a count after its hash: read as the curve, it would name another one than the TPM's."""
    area = chip.statement().blob("keyPublic")
    at = area.index(bytes.fromhex("0010 0010 0003 0010"))
    odd = area[: at + 2] + bytes.fromhex("001a 000b 0003") + area[at + 4 :]
    with pytest.raises(AttestationError, match="the key has a scheme that is not known here"):
        read_public(odd, "the key")


@pytest.mark.parametrize("last", [0, 1])
def test_public_area_with_an_even_modulus_is_refused(last: int) -> None:
    """OpenSSL can't encrypt to it."""
    head = bytes.fromhex("0001 000b 000300b2 0000 0006 0080 0043 0010 0800 00000000 0100")
    area = head + b"\x80" + bytes(254) + bytes([last])
    with nullcontext() if last else pytest.raises(AttestationError, match="the key has no valid RSA key"):
        assert read_public(area, "the key").type == RSA
