"""The file backend: every form of key and certificate that openssl writes, and errors for bad files."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asn1crypto.keys import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import certs
from backends.contract import ENVIRONMENT, KeyContract, LockedKey, MakeKey, OpenKey, PinContract, openssl_verifies
from backends.file import keyfiles
from backends.file.keyfiles import PASSPHRASE, WRONG_PASSPHRASE, KeyFiles, openssl
from examples import scaled
from hwsigner._identity.certificate import load
from hwsigner._pins import PinRequest, PinSource
from hwsigner._system import users
from hwsigner._uri import KeyURI
from hwsigner.backends.file import libcrypto as _libcrypto
from hwsigner.backends.pem import elements
from hwsigner.backends.pkcs11.der import encode
from hwsigner.errors import (
    AmbiguousKeyError,
    CertificateError,
    HwsignerError,
    KeyNotFoundError,
    PinError,
    PinRequiredError,
    SigningKeyError,
    UnsafeKeyWarning,
    UnsupportedKeyError,
    UsageError,
    WrongPinError,
)
from hwsigner.key import Key, find_certificates, open_key
from hwsigner.key.management import describe_key
from judges import OPENSSL_3_5, lacking, needs_openssl_3_4, needs_openssl_3_5


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> KeyFiles:
    return KeyFiles(tmp_path_factory.mktemp("key files"))


class PlacesOfFiles:
    """Keys that are not there, or no longer."""

    @pytest.fixture
    def absent_key(self, files: KeyFiles) -> OpenKey:
        return lambda: open_key(f"{files.key('P-256')}.missing")

    @pytest.fixture
    def unreachable_key(self, tmp_path: Path) -> OpenKey:
        return lambda: open_key(str(tmp_path))

    @pytest.fixture
    def lost_key(self, files: KeyFiles, tmp_path: Path) -> Key:
        path = tmp_path / "lost.key"
        path.write_bytes(files.key("P-256").read_bytes())
        path.chmod(0o600)
        key = open_key(str(path))
        path.unlink()
        return key


class TestFileKey(PlacesOfFiles, KeyContract):
    KINDS = keyfiles.KINDS

    @pytest.fixture
    def make_key(self, files: KeyFiles) -> MakeKey:
        """Return what opens a PKCS #8 key."""
        return lambda kind: (open_key(str(files.key(kind))), files.public_key(kind))


@needs_openssl_3_5
class TestExpandedKey(PlacesOfFiles, KeyContract):
    """ML-DSA keys in a form that only libcrypto reads."""

    KINDS = tuple(keyfiles.MLDSA)

    @pytest.fixture
    def make_key(self, files: KeyFiles) -> MakeKey:
        command = keyfiles.MLDSA_PLAIN["priv-only"]
        return lambda kind: (open_key(str(files.form(kind, command))), files.public_key(kind))


class TestFilePin(PinContract):
    REMEMBERS = False

    @pytest.fixture(
        params=["scrypt", "legacy aes256", "PKCS #12", "PBES2 DER", pytest.param("ML-DSA", marks=needs_openssl_3_5)]
    )
    def locked_key(self, files: KeyFiles, request: pytest.FixtureRequest) -> LockedKey:
        if request.param == "ML-DSA":
            path = files.form("ML-DSA-44", keyfiles.MLDSA_ENCRYPTED["priv-only PBES2"], PASSPHRASE)
        else:
            path = files.form("P-256", keyfiles.ENCRYPTED[request.param], PASSPHRASE)
        return LockedKey(lambda pin: open_key(str(path), pin), PASSPHRASE, WRONG_PASSPHRASE)


def _forms() -> Iterator[object]:
    for kind in ("P-256", "P-521", "RSA-2048"):
        for name, command in keyfiles.PLAIN.items():
            yield pytest.param(kind, command, None, id=f"{kind} {name}")
        for name, command in keyfiles.ENCRYPTED.items():
            marks = [needs_openssl_3_4] if "PBMAC1" in name else []
            yield pytest.param(kind, command, PASSPHRASE, id=f"{kind} {name}", marks=marks)
    for kind in keyfiles.MLDSA:
        for name, command in keyfiles.MLDSA_PLAIN.items():
            yield pytest.param(kind, command, None, id=f"{kind} {name}", marks=needs_openssl_3_5)
    for name, command in keyfiles.MLDSA_ENCRYPTED.items():
        yield pytest.param("ML-DSA-65", command, PASSPHRASE, id=f"ML-DSA-65 {name}", marks=needs_openssl_3_5)


class TestForms:
    @pytest.mark.slow
    @pytest.mark.parametrize(("kind", "command", "passphrase"), list(_forms()))
    def test_every_form_opens_the_same_key(
        self, files: KeyFiles, tmp_path: Path, kind: str, command: str, passphrase: str | None
    ) -> None:
        path = files.form(kind, command, passphrase)
        public_key = files.public_key(kind)
        with open_key(str(path), passphrase) as key:
            assert key.public_key() == public_key
            assert openssl_verifies(tmp_path, public_key, key.sign(b"message"), b"message", "sha256")

    @pytest.mark.slow
    @pytest.mark.parametrize("command", ["--to-p12", "--to-p12 --outder", "--to-p8", "--to-p8 --outder", "--to-rsa"])
    def test_files_written_by_gnutls_are_read(self, files: KeyFiles, command: str) -> None:
        source = [f"--load-privkey={files.key('RSA-2048')}"]
        if "p12" in command:
            source += [f"--load-certificate={files.certificate('RSA-2048')}", "--p12-name=x"]
        if "rsa" not in command:
            source.append("--password=from gnutls")
        ran = subprocess.run(["certtool", *command.split(), *source], env=ENVIRONMENT, capture_output=True, check=True)
        path = files.write("gnutls", ran.stdout)
        assert open_key(str(path), "from gnutls").public_key() == files.public_key("RSA-2048")

    def test_pkcs12_in_ber_is_read(self, files: KeyFiles) -> None:
        der = files.form("P-256", keyfiles.ENCRYPTED["PKCS #12"], PASSPHRASE).read_bytes()
        assert der[:2] == b"\x30\x82"
        path = files.write("ber", b"\x30\x80" + der[4:] + b"\0\0")
        assert openssl("pkcs12", "-in", str(path), "-passin", f"pass:{PASSPHRASE}", "-nodes")
        assert open_key(str(path), PASSPHRASE).public_key() == files.public_key("P-256")
        assert len(find_certificates(str(path), PASSPHRASE)) == 1

    def test_ec_parameters_before_the_key_are_skipped(self, files: KeyFiles) -> None:
        path = files.write("with parameters", openssl("ecparam", "-name", "prime256v1", "-genkey"))
        assert b"EC PARAMETERS" in path.read_bytes()
        expected = openssl("pkey", "-in", str(path), "-pubout", "-outform", "DER")
        assert open_key(str(path)).public_key() == expected

    @pytest.mark.parametrize("newline", [b"\r\n", b"\r"])
    @pytest.mark.parametrize("form", ["legacy aes256", "scrypt"])
    def test_encrypted_pem_may_have_any_newlines(self, files: KeyFiles, form: str, newline: bytes) -> None:
        data = files.form("P-256", keyfiles.ENCRYPTED[form], PASSPHRASE).read_bytes()
        path = files.write("newlines", data.replace(b"\n", newline))
        assert open_key(str(path), PASSPHRASE).public_key() == files.public_key("P-256")

    def test_unneeded_passphrase_is_ignored(self, files: KeyFiles) -> None:
        for command in (keyfiles.PLAIN["PKCS #8"], keyfiles.PLAIN["PKCS #12 without encryption"]):
            assert open_key(str(files.form("P-256", command)), "not needed").sign(b"message")

    @given(
        around=st.lists(
            st.text(st.characters(exclude_categories=["Cs"])).filter(lambda t: "-----" not in t), max_size=3
        ),
        newline=st.sampled_from(["\n", "\r\n", "\r"]),
        start=st.sampled_from(["", "\ufeff", "Bag Attributes: <none>\n", "0"]),
        kind=st.sampled_from(["P-256", "ML-DSA-44"]),
    )
    @settings(max_examples=scaled(60))
    def test_text_around_pem_and_its_newlines_are_ignored(
        self, files: KeyFiles, around: list[str], newline: str, start: str, kind: str
    ) -> None:
        parts = [files.certificate(kind).read_text(), files.key(kind).read_text(), files.certificate(kind).read_text()]
        text = start
        for index, part in enumerate(parts):
            text += part.replace("\n", newline) + (around[index] + newline if index < len(around) else "")
        path = files.write("dressed", text.encode())
        assert open_key(str(path)).public_key() == files.public_key(kind)
        assert len(find_certificates(str(path))) == 2


class TestReading:
    def test_pipe_is_read_once(self, files: KeyFiles, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=lambda: pipe.write_bytes(files.key("P-256").read_bytes()))
        writer.start()
        assert open_key(str(pipe)).public_key() == files.public_key("P-256")
        writer.join()

    def test_standard_input_is_read(self, files: KeyFiles) -> None:
        script = "from hwsigner.key import open_key; print(open_key('/dev/stdin').public_key().hex())"
        for stdin in (files.key("P-256").read_bytes(),):
            ran = subprocess.run([sys.executable, "-c", script], input=stdin, capture_output=True, check=True)
            assert bytes.fromhex(ran.stdout.decode()) == files.public_key("P-256")

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o777])
    @pytest.mark.parametrize("name", ["PKCS #8", "PKCS #12 without encryption"])
    def test_key_file_that_others_can_access_is_warned_of(self, files: KeyFiles, mode: int, name: str) -> None:
        path = files.form("P-256", keyfiles.PLAIN[name])
        path.chmod(mode)
        with pytest.warns(UnsafeKeyWarning) as caught:
            assert open_key(str(path)).sign(b"message")
        message = str(caught[0].message)
        assert f"{path} has mode {mode:04o}" in message
        assert f"chmod 600 {path}" in message
        assert caught[0].filename == __file__

    def test_key_file_of_another_user_is_warned_of(self, files: KeyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        path = files.write("foreign", files.key("P-256").read_bytes())
        if os.geteuid() == 0:
            os.chown(path, 4711, -1)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 4711)
        with pytest.warns(UnsafeKeyWarning) as caught:
            assert open_key(str(path)).sign(b"message")
        (warning,) = caught
        assert f"{path} belongs to user {path.stat().st_uid}" in str(warning.message)
        assert warning.filename == __file__

    @pytest.mark.root
    @pytest.mark.parametrize(("mode", "warnings"), [(0o440, 0), (0o640, 0), (0o460, 1), (0o444, 1)])
    def test_key_file_that_root_lets_the_group_of_another_user_read_is_not_warned_of(
        self,
        files: KeyFiles,
        mode: int,
        warnings: int,
        monkeypatch: pytest.MonkeyPatch,
        recwarn: pytest.WarningsRecorder,
    ) -> None:
        path = files.write("given", files.key("P-256").read_bytes())
        path.chmod(mode)
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        assert open_key(str(path)).sign(b"message")
        assert len(recwarn) == warnings

    @pytest.mark.root
    @pytest.mark.parametrize("euid", [0, 4711])
    @pytest.mark.parametrize(
        ("mode", "group", "owner", "folder_mode", "warnings"),
        [
            (0o440, 0, 0, 0o550, 0),
            (0o400, 0, 0, 0o500, 0),
            (0o444, 0, 0, 0o550, 1),
            (0o460, 0, 0, 0o550, 1),
            (0o440, 4713, 0, 0o550, 1),
            (0o440, 0, 4712, 0o550, 1),
            (0o440, 0, 0, 0o770, 1),
        ],
    )
    def test_key_of_load_credential_is_not_warned_of(
        self,
        files: KeyFiles,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        recwarn: pytest.WarningsRecorder,
        euid: int,
        mode: int,
        group: int,
        owner: int,
        folder_mode: int,
        warnings: int,
    ) -> None:
        """The file is root's, in a folder of root's: its access control list for the unit's user shows as 0440."""
        folder = tmp_path / "credentials"
        folder.mkdir()
        path = folder / "web.key"
        path.write_bytes(files.key("P-256").read_bytes())
        path.chmod(mode)
        os.chown(path, 0, group)
        folder.chmod(folder_mode)
        os.chown(folder, owner, 0)
        monkeypatch.setattr(os, "geteuid", lambda: euid)
        monkeypatch.setattr(os, "getgroups", list[int])
        monkeypatch.setattr(os, "getegid", lambda: 4711)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
        assert open_key(str(path)).sign(b"message")
        assert len(recwarn) == warnings

    @pytest.mark.root
    @pytest.mark.parametrize("place", ["elsewhere", "link", "relative", "unset"])
    def test_key_that_systemd_has_not_given_is_warned_of(
        self, files: KeyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        folder = tmp_path / "credentials"
        folder.mkdir(mode=0o500)
        path = tmp_path / "web.key"
        path.write_bytes(files.key("P-256").read_bytes())
        path.chmod(0o440)
        os.chown(path, 0, 0)
        if place == "link":
            (folder / "web.key").symlink_to(path)
            path = folder / "web.key"
        monkeypatch.chdir(tmp_path)
        values = {"relative": ".", "unset": ""}
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", values.get(place, str(folder)))
        with pytest.warns(UnsafeKeyWarning, match="has mode 0440"):
            assert open_key(str(path)).sign(b"message")

    @pytest.mark.root
    @pytest.mark.parametrize(("mode", "group", "warnings"), [(0o640, 4712, 0), (0o660, 4712, 1), (0o640, 4713, 1)])
    def test_root_may_use_a_key_file_that_the_group_of_the_system_s_agent_may_read(
        self,
        files: KeyFiles,
        mode: int,
        group: int,
        warnings: int,
        monkeypatch: pytest.MonkeyPatch,
        recwarn: pytest.WarningsRecorder,
    ) -> None:
        path = files.write("shared", files.key("P-256").read_bytes())
        os.chown(path, 0, group)
        path.chmod(mode)
        monkeypatch.setattr(users, "agent_group", lambda: 4712)
        assert open_key(str(path)).sign(b"message")
        assert len(recwarn) == warnings

    def test_certificate_file_that_others_can_read_is_accepted(self, files: KeyFiles) -> None:
        path = files.write("public", files.certificate("P-256").read_bytes())
        path.chmod(0o644)
        assert find_certificates(str(path))

    @pytest.mark.parametrize("form", ["PEM", "DER"])
    @pytest.mark.parametrize("kind", ["P-256", "ML-DSA-44"])
    def test_byte_order_mark_is_skipped(self, files: KeyFiles, kind: str, form: str) -> None:
        certificate = openssl("x509", "-in", str(files.certificate(kind)), "-outform", form)
        der = openssl("x509", "-in", str(files.certificate(kind)), "-outform", "DER")
        path = files.write("marked certificate", b"\xef\xbb\xbf" + certificate)
        assert [found.der for found in find_certificates(str(path))] == [der]
        key = files.key(kind).read_bytes()
        if form == "DER":
            key = base64.b64decode(b"".join(key.splitlines()[1:-1]))
        path = files.write("marked key", b"\xef\xbb\xbf" + key)
        assert open_key(str(path)).public_key() == files.public_key(kind)

    @pytest.mark.parametrize("mode", [0o600, 0o400])
    def test_private_key_file_is_not_warned_of(self, files: KeyFiles, mode: int) -> None:
        path = files.write("own", files.key("P-256").read_bytes())
        path.chmod(mode)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            open_key(str(path))

    def test_unknown_attributes_are_refused(self, files: KeyFiles) -> None:
        for find in (open_key, find_certificates):
            with pytest.raises(UsageError, match="module-path"):
                find(f"file:{files.key('P-256')}?module-path=/x.so")


def _missing(folder: Path) -> Path:
    return folder / "missing.pem"


def _folder(folder: Path) -> Path:
    return folder


def _containing(data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "bad.pem"
        path.touch(0o600)
        path.write_bytes(data)
        return path

    return make


_GARBAGE_BODY = b"-----BEGIN %b-----\n!!!!\n-----END %b-----\n"
_BAD_FILES = {
    "missing": (_missing, "No such file"),
    "directory": (_folder, "Is a directory"),
    "empty": (_containing(b""), "is empty"),
    "blank": (_containing(b" \r\n\n"), "is empty"),
    "text": (_containing(b"ssh-ed25519 AAAAC3Nz someone@somewhere"), "neither PEM nor DER"),
    "binary": (_containing(bytes(range(256))), "neither PEM nor DER"),
    "one byte": (_containing(b"0"), "neither PEM nor DER"),
    "mark only": (_containing(b"\xef\xbb\xbf"), "is empty"),
    "other OID": (_containing(bytes.fromhex("3005060355040a")), "unknown kind"),
    "other DER": (_containing(b"\x30\x03\x01\x01\xff"), "unknown kind"),
    "cut DER": (_containing(b"\x30\x82\x10\x00\x02\x01\x00"), "cut short"),
    "no end": (_containing(b"-----BEGIN PRIVATE KEY-----\nAAAA\n"), "matching BEGIN and END"),
    "other end": (_containing(b"-----BEGIN A-----\nAAAA\n-----END B-----\n"), "matching BEGIN and END"),
    "end first": (_containing(b"-----END A-----\nAAAA\n-----BEGIN A-----\n"), "matching BEGIN and END"),
    "not base64": (_containing(_GARBAGE_BODY % (b"CERTIFICATE", b"CERTIFICATE")), "CERTIFICATE block is not base64"),
    "no body": (_containing(b"-----BEGIN A-----\n-----END A-----\n"), "A block is empty"),
    "too long": (_containing(b"\0" * (1 << 20) + b"\0"), "more than 1048576 bytes"),
    "endless": (lambda folder: Path("/dev/zero"), "more than 1048576 bytes"),
}


@pytest.mark.parametrize("path", ["~/key.pem", "$HOME/key.pem"])
def test_path_with_a_tilde_or_variable_is_refused_with_a_hint(path: str) -> None:
    with pytest.raises(SigningKeyError, match="hwsigner does not expand ~"):
        open_key(path)


def test_misspelt_scheme_of_a_key_uri_is_refused_with_a_hint() -> None:
    with pytest.raises(SigningKeyError, match="key URIs start with pkcs11:, tpm2:, handle:, file:, env: or fd:"):
        open_key("pcks11:token=alpha")


@pytest.mark.parametrize(("make", "message"), _BAD_FILES.values(), ids=_BAD_FILES.keys())
class TestBadFiles:
    def test_bad_key_file_is_refused_with_its_path(
        self, tmp_path: Path, make: Callable[[Path], Path], message: str
    ) -> None:
        path = make(tmp_path)
        with pytest.raises(KeyNotFoundError, match=message) as caught:
            open_key(str(path))
        assert str(path) in caught.value.message
        assert caught.value.hint
        assert caught.value.exit_status == 3

    def test_bad_certificate_file_is_refused_with_its_path(
        self, tmp_path: Path, make: Callable[[Path], Path], message: str
    ) -> None:
        path = make(tmp_path)
        with pytest.raises(CertificateError, match=message) as caught:
            find_certificates(str(path))
        assert str(path) in caught.value.message
        assert caught.value.hint
        assert caught.value.exit_status == 4


def test_unreadable_file_is_named(files: KeyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(files.key("P-256"))

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hwsigner.backends.pem.open", refuse, raising=False)
    for find, error in ((open_key, KeyNotFoundError), (find_certificates, CertificateError)):
        with pytest.raises(
            error, match=r"Permission denied\. Let the system's agent use the key.*or have root run chown"
        ) as caught:
            find(KeyURI("file", {"path": path.encode()}))
        assert path in caught.value.message


class TestRefusedKeys:
    @pytest.mark.parametrize(
        ("command", "name"),
        {
            "RSA 1024": ("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024", "RSA key of 1024 bits"),
            "RSA three primes": (
                "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_primes:3",
                "of type RSA in a form that is not supported",
            ),
            "RSA-PSS": ("genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048", "RSA-PSS key"),
            "secp256k1": ("ecparam -name secp256k1 -genkey -noout", "EC key on the curve secp256k1"),
            "P-192": ("ecparam -name prime192v1 -genkey -noout", "prime192v1|secp192r1"),
            "secp112r1": ("ecparam -name secp112r1 -genkey -noout", "of type EC in a form"),
            "brainpool": ("genpkey -algorithm EC -pkeyopt group:brainpoolP256r1", "brainpoolP256r1"),
            "Ed25519": ("genpkey -algorithm ED25519", "of type Ed25519"),
            "Ed448": ("genpkey -algorithm ED448", "of type Ed448"),
            "X25519": ("genpkey -algorithm X25519", "of type X25519"),
            "ML-KEM": pytest.param(
                "genpkey -algorithm ML-KEM-512", "of type ML-KEM-512|of type MLKEM512", marks=needs_openssl_3_5
            ),
            "SLH-DSA": pytest.param(
                "genpkey -algorithm SLH-DSA-SHA2-128f", "of type SLH-DSA-SHA2-128f", marks=needs_openssl_3_5
            ),
        }.values(),
    )
    def test_unsupported_key_is_refused_by_its_name(self, files: KeyFiles, command: str, name: str) -> None:
        path = files.write("refused", openssl(*command.split()))
        with pytest.raises(UnsupportedKeyError, match=name) as caught:
            open_key(str(path))
        assert str(path) in caught.value.message
        assert "RSA of 2048 to 4096 bits" in caught.value.hint

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "command",
        [
            "pkcs8 -topk8 -in {key}",
            "pkcs8 -topk8 -in {key} -v1 PBE-SHA1-3DES",
            "pkcs8 -topk8 -scrypt -in {key} -outform DER",
            "pkcs12 -export -in {certificate} -inkey {key}",
            "pkcs12 -export -in {certificate} -inkey {key} -legacy",
            "pkcs12 -export -in {certificate} -inkey {key} -keypbe NONE -certpbe NONE",
            "pkcs12 -export -nocerts -in {key} -inkey {key}",
        ],
    )
    def test_rsa_pss_key_behind_a_passphrase_is_refused(self, files: KeyFiles, command: str) -> None:
        key = files.write("pss.key", openssl("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"))
        leaf = files.write("pss.crt", openssl("req", "-x509", "-new", "-key", str(key), "-subj", "/CN=pss"))
        words = [word.format(key=key, certificate=leaf) for word in command.split()]
        path = files.write("pss", openssl(*words, "-passout", f"pass:{PASSPHRASE}"))
        with pytest.raises(UnsupportedKeyError, match=f"{path} has an RSA-PSS key"):
            open_key(str(path), PASSPHRASE)

    def test_rsa_key_above_4096_bits_is_refused(self, files: KeyFiles) -> None:
        path = files.write("large", _rsa_5120())
        with pytest.raises(UnsupportedKeyError, match="RSA key of 5120 bits"):
            open_key(str(path))

    @pytest.mark.parametrize("form", ["-traditional", "-outform DER", "-traditional -outform DER"])
    def test_dsa_key_is_refused(self, files: KeyFiles, form: str) -> None:
        parameters = "-pkeyopt dsa_paramgen_bits:1024 -pkeyopt dsa_paramgen_q_bits:160"
        made = files.write("dsa", openssl("genpkey", "-genparam", "-algorithm", "DSA", *parameters.split()))
        made = files.write("dsa", openssl("genpkey", "-paramfile", str(made)))
        path = files.write("dsa", openssl("pkey", "-in", str(made), *form.split()))
        with pytest.raises(UnsupportedKeyError, match="of type DSA"):
            open_key(str(path))

    def test_openssh_key_is_refused_with_the_command_to_convert_it(self, files: KeyFiles, tmp_path: Path) -> None:
        path = tmp_path / "id_ecdsa"
        command = ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(path)]
        subprocess.run(command, env={**ENVIRONMENT, "HOME": str(tmp_path)}, check=True)
        with pytest.raises(UnsupportedKeyError, match=r"OPENSSH PRIVATE KEY.*ssh-keygen -p -m PKCS8"):
            open_key(str(path))
        subprocess.run(
            ["ssh-keygen", "-q", "-p", "-m", "PKCS8", "-N", "", "-f", str(path)], env=ENVIRONMENT, check=True
        )
        assert open_key(str(path)).sign(b"message")

    def test_tpm_key_in_a_pipe_is_refused_with_its_scheme(self, files: KeyFiles) -> None:
        data = b"-----BEGIN TSS2 PRIVATE KEY-----\nMAYGBFUdJQA=\n-----END TSS2 PRIVATE KEY-----\n"
        read, write = os.pipe()
        with os.fdopen(read), os.fdopen(write, "wb") as pipe:
            pipe.write(data)
            pipe.close()
            with pytest.raises(UnsupportedKeyError, match="tpm2:path="):
                open_key(f"/dev/fd/{read}")

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("x509 -in {certificate}", "a certificate and no private key"),
            ("x509 -in {certificate} -outform DER", "a certificate and no private key"),
            ("pkey -in {key} -pubout", "a public key and no private key"),
            ("pkey -in {key} -pubout -outform DER", "a public key and no private key"),
            ("rsa -in {key} -RSAPublicKey_out -outform DER", "RSA PUBLIC KEY and no private key"),
            ("req -new -subj /CN=x -key {key}", "a certificate request and no private key"),
            ("pkcs12 -export -nokeys -in {certificate} -passout pass:", "PKCS #12 file without a private key"),
            ("crl2pkcs7 -nocrl -certfile {certificate}", "PKCS #7 and no private key"),
            ("crl2pkcs7 -nocrl -certfile {certificate} -outform DER", "PKCS #7 and no private key"),
        ],
    )
    def test_file_without_a_private_key_is_refused_with_its_contents(
        self, files: KeyFiles, command: str, words: str
    ) -> None:
        path = files.form("RSA-2048", command)
        with pytest.raises(KeyNotFoundError, match=words) as caught:
            open_key(str(path))
        assert str(path) in caught.value.message

    def test_two_private_keys_are_ambiguous(self, files: KeyFiles) -> None:
        path = files.write("two", files.key("P-256").read_bytes() + files.key("P-384").read_bytes())
        with pytest.raises(AmbiguousKeyError, match="2 private keys") as caught:
            open_key(str(path))
        assert str(path) in caught.value.message

    @pytest.mark.slow
    @pytest.mark.parametrize("command", ["--to-p12", "--to-p12 --outder"])
    def test_two_private_keys_in_pkcs12_are_ambiguous(self, files: KeyFiles, command: str) -> None:
        keys = files.write("two", files.key("P-256").read_bytes() + files.key("P-384").read_bytes())
        source = [f"--load-privkey={keys}", f"--load-certificate={files.certificate('P-256')}", "--p12-name=x"]
        words = ["certtool", *command.split(), *source, f"--password={PASSPHRASE}"]
        ran = subprocess.run(words, env=ENVIRONMENT, capture_output=True, check=True)
        path = files.write("two.p12", ran.stdout)
        for use in (open_key, describe_key):
            with pytest.raises(AmbiguousKeyError, match=f"{path} has 2 private keys"):
                use(str(path), PASSPHRASE)
        assert len(find_certificates(str(path), PASSPHRASE)) == 1

    def test_damaged_key_is_not_reported_as_a_wrong_passphrase(self, files: KeyFiles) -> None:
        data = files.key("P-256").read_bytes().replace(b"MIG", b"MIH", 1)
        with pytest.raises(SigningKeyError, match="damaged") as caught:
            open_key(str(files.write("damaged", data)))
        assert not isinstance(caught.value, PinError)

    @needs_openssl_3_5
    def test_mldsa_key_with_different_halves_is_refused(self, files: KeyFiles) -> None:
        der = bytearray(files.form("ML-DSA-44", keyfiles.MLDSA_PLAIN["seed-priv DER"]).read_bytes())
        der[-700] ^= 1
        with pytest.raises(UnsupportedKeyError, match="damaged: its parts are not of one key"):
            open_key(str(files.write("disagreeing", bytes(der))))

    @pytest.mark.parametrize("offset", [50, 400, 700, 900, 1100, -10])
    def test_damaged_rsa_key_signs_correctly_or_is_an_error_or_has_another_public_key(
        self, files: KeyFiles, offset: int
    ) -> None:
        der = bytearray(openssl("pkey", "-in", str(files.key("RSA-2048")), "-traditional", "-outform", "DER"))
        der[offset] ^= 1
        key = open_key(str(files.write("damaged", bytes(der))))
        try:
            signature = key.sign(b"message")
        except SigningKeyError:
            return
        verified = openssl_verifies(files.folder, files.public_key("RSA-2048"), signature, b"message", "sha256")
        assert verified or key.public_key() != files.public_key("RSA-2048")

    def test_short_initialisation_vector_is_an_error(self, files: KeyFiles, capfd: pytest.CaptureFixture[str]) -> None:
        data = files.form("P-256", keyfiles.ENCRYPTED["legacy aes256"], PASSPHRASE).read_bytes()
        start = data.index(b"AES-256-CBC,") + len(b"AES-256-CBC,")
        with pytest.raises(SigningKeyError):
            open_key(str(files.write("short", data[:start] + data[start + 2 :])), PASSPHRASE)
        assert capfd.readouterr().err == ""


# A key of a kind that nobody knows: the object identifier of ML-DSA-44 with another last number; and encrypted.
UNKNOWN = b"""\
-----BEGIN PRIVATE KEY-----
MDQCAQAwCwYJYIZIAWUDBANjBCKAINZKGWAlgEYaaBvzCmBkyGvyziUImQLRCNG1
GdYcvHF4
-----END PRIVATE KEY-----
"""
# Written once: one wrong passphrase in 256 leaves padding that fits, and only libcrypto can tell it from the right one.
WRONG_THAT_FITS = "wrong 36"
SCRYPT = b"""\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSsGAQQB2kcECzAcBBDwheaYzAwUgpceTfGV
G90EAgJAAAIBCAIBATAdBglghkgBZQMEASoEENr4vER23NqPJHg3eQM20b8EgZCT
i9qRTIj1Qeq95KFac0zU8ifZ0E7racjqcwSfP3dIQ55rnvDRfF//5uKikp7xZxoX
UZVmqFq8Vi+iqa8+X6k5b+WB499R92zPzEGMrDCOUy/Z7hD3N7mWET6pTozr21kz
k/1Ny18qoPmmIchvnwZ4qJNLFgcOFQbw1fpXRRl9cPaaE5H8oPDooDOIrZs+ZO8=
-----END ENCRYPTED PRIVATE KEY-----
"""
UNKNOWN_ENCRYPTED = b"""\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGjMF8GCSqGSIb3DQEFDTBSMDEGCSqGSIb3DQEFDDAkBBCYDzJcaFapbhVW2pwH
CmoUAgIIADAMBggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQSAp/bNQRI0cLYpQi
2KPC5wRAwQhKPMu6xFckse8jSexqkNSTegfPZLEp6h2paoNHgSj0e0lKkwjsR3S2
yYVGiKHE5bUdVq0f5eiEyv1vPREmqw==
-----END ENCRYPTED PRIVATE KEY-----
"""


class TestLibcrypto:
    @pytest.fixture
    def without_libcrypto(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        _libcrypto._library.cache_clear()
        monkeypatch.setattr(_libcrypto, "libcrypto_names", lambda: ["libcrypto-that-is-not-there.so"])
        yield
        _libcrypto._library.cache_clear()

    @pytest.mark.usefixtures("without_libcrypto")
    def test_form_that_needs_libcrypto_is_refused_without_it(self, files: KeyFiles) -> None:
        path = files.form("P-256", keyfiles.ONLY_OPENSSL["legacy aes192"], PASSPHRASE)
        with pytest.raises(UnsupportedKeyError, match=r"needs the libcrypto of OpenSSL 3, .* which is not installed"):
            open_key(str(path), PASSPHRASE)

    @pytest.mark.parametrize(
        ("first", "hint"), [((3, 0), "RSA of 2048"), ((99, 0), "If it is ML-DSA, use OpenSSL 3.5")]
    )
    @pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
    def test_kind_that_libcrypto_lacks_is_not_reported_as_a_wrong_passphrase(
        self,
        files: KeyFiles,
        monkeypatch: pytest.MonkeyPatch,
        passphrase: str | None,
        first: tuple[int, int],
        hint: str,
    ) -> None:
        monkeypatch.setattr(_libcrypto, "_FIRST_WITH_MLDSA", first)
        path = files.write("unknown", UNKNOWN_ENCRYPTED if passphrase else UNKNOWN)
        with pytest.raises(UnsupportedKeyError, match=r"damaged, or of a kind that OpenSSL 3\.\d lacks") as caught:
            open_key(str(path), passphrase)
        assert str(path) in caught.value.message
        assert hint in caught.value.hint
        with pytest.raises(WrongPinError):
            open_key(str(files.write("unknown", UNKNOWN_ENCRYPTED)), WRONG_PASSPHRASE)

    @pytest.mark.usefixtures("without_libcrypto")
    def test_forms_that_cryptography_reads_need_no_libcrypto(self, files: KeyFiles) -> None:
        assert open_key(str(files.key("P-256"))).sign(b"message")
        path = files.write("scrypt", SCRYPT)
        assert open_key(str(path), PASSPHRASE).sign(b"message")
        with pytest.raises(WrongPinError):
            open_key(str(path), WRONG_PASSPHRASE)
        for form in ("PBES2 aes-256-cbc", "PKCS #12"):
            path = files.form("RSA-2048", keyfiles.ENCRYPTED[form], PASSPHRASE)
            assert open_key(str(path), PASSPHRASE).public_key() == files.public_key("RSA-2048")

    @pytest.mark.usefixtures("without_libcrypto")
    def test_error_without_libcrypto_says_that_the_passphrase_may_be_wrong(self, files: KeyFiles) -> None:
        with pytest.raises(UnsupportedKeyError, match=r"may be in a form that needs .*libcrypto") as caught:
            open_key(str(files.write("scrypt", SCRYPT)), WRONG_THAT_FITS)
        assert caught.value.hint.startswith("Check its passphrase")

    def test_wrong_passphrase_that_leaves_fitting_padding_is_reported_as_wrong(self, files: KeyFiles) -> None:
        with pytest.raises(WrongPinError):
            open_key(str(files.write("scrypt", SCRYPT)), WRONG_THAT_FITS)

    @pytest.mark.usefixtures("without_libcrypto")
    @pytest.mark.parametrize("form", [Encoding.PEM, Encoding.DER])
    @pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
    @pytest.mark.parametrize("kind", keyfiles.MLDSA)
    def test_mldsa_key_with_the_seed_alone_needs_no_libcrypto(
        self, files: KeyFiles, kind: str, passphrase: str | None, form: Encoding
    ) -> None:
        encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        made: Any = load_pem_private_key(files.key(kind).read_bytes(), None)
        path = files.write("seed", made.private_bytes(form, PrivateFormat.PKCS8, encryption))
        assert open_key(str(path), passphrase).public_key() == files.public_key(kind)

    def test_libcrypto_never_asks_on_the_terminal(self, files: KeyFiles) -> None:
        pem = files.form("P-256", keyfiles.ONLY_OPENSSL["legacy aes192"], PASSPHRASE).read_bytes()
        assert _libcrypto.load_key("form", pem, b"") is None

    @pytest.mark.parametrize("kind", ["P-256", "RSA-2048"])
    @pytest.mark.parametrize("form", keyfiles.ONLY_OPENSSL)
    def test_form_that_only_openssl_reads_signs(self, files: KeyFiles, tmp_path: Path, form: str, kind: str) -> None:
        path = files.form(kind, keyfiles.ONLY_OPENSSL[form], PASSPHRASE)
        with open_key(str(path), PASSPHRASE) as key:
            assert key.public_key() == files.public_key(kind)
            assert openssl_verifies(tmp_path, files.public_key(kind), key.sign(b"message"), b"message", "sha256")

    @needs_openssl_3_5
    @pytest.mark.parametrize("form", keyfiles.UNREADABLE)
    def test_unknown_cipher_is_not_reported_as_a_wrong_passphrase(self, files: KeyFiles, form: str) -> None:
        path = files.form("ML-DSA-44", keyfiles.UNREADABLE[form], PASSPHRASE)
        with pytest.raises(UnsupportedKeyError, match="a cipher that is not supported") as caught:
            open_key(str(path), PASSPHRASE)
        assert str(path) in caught.value.message
        assert "openssl pkcs12 (or pkey) -provider legacy -provider default -in" in caught.value.hint
        program = ["pkcs12", "-noenc"] if form.startswith("PKCS #12") else ["pkey"]
        options = ["-provider", "legacy", "-provider", "default", "-passin", f"pass:{PASSPHRASE}"]
        path = files.write("converted", openssl(*program, *options, "-in", str(path)))
        assert open_key(str(path)).public_key() == files.public_key("ML-DSA-44")

    @needs_openssl_3_5
    def test_wrong_passphrase_is_reported_despite_an_unknown_cipher(self, files: KeyFiles) -> None:
        path = files.form("ML-DSA-44", keyfiles.UNREADABLE["PKCS #12 RC2"], PASSPHRASE)
        with pytest.raises(WrongPinError):
            open_key(str(path), WRONG_PASSPHRASE)


class TestPassphrases:
    @pytest.fixture
    def bundle(self, files: KeyFiles) -> Path:
        return files.form("P-256", keyfiles.ENCRYPTED["PKCS #12"], PASSPHRASE)

    def test_one_answer_opens_certificate_and_key(self, bundle: Path) -> None:
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str:
            asked.append(request)
            return PASSPHRASE

        pins = PinSource(ask=ask)
        assert len(find_certificates(str(bundle), pins)) == 1
        assert open_key(str(bundle), pins).sign(b"message")
        assert asked == [PinRequest("passphrase", str(bundle))]

    def test_passphrase_may_be_in_the_uri_or_its_pin_file(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "pin").write_text(PASSPHRASE + "\n")
        (tmp_path / "pin").chmod(0o600)
        for query in (f"pin-source=file:{tmp_path}/pin", f"pin-value={PASSPHRASE.replace(' ', '%20')}"):
            uri = f"{KeyURI.parse(str(bundle))}?{query}"
            assert open_key(uri).sign(b"message")
            assert find_certificates(uri)

    @pytest.mark.parametrize("form", ["PKCS #12", "PBES2 DER"])
    def test_wrong_passphrase_that_the_user_types_is_asked_again(self, files: KeyFiles, form: str) -> None:
        path = str(files.form("P-256", keyfiles.ENCRYPTED[form], PASSPHRASE))
        asked: list[str] = []
        answers = ["wrong 1", "wrong 2", PASSPHRASE, "wrong 3", "wrong 3", "wrong 4", "wrong 5", "wrong 6"]

        def ask(request: PinRequest) -> str:
            asked.append(request.state)
            return answers.pop(0)

        assert open_key(path, PinSource(prompts=[ask])).sign(b"message")
        assert asked == ["", "the last one was wrong", "the last one was wrong"]
        for questions in (2, 3):  # The same one is not tried again, and there is an end.
            asked.clear()
            with pytest.raises(WrongPinError):
                open_key(path, PinSource(prompts=[ask]))
            assert len(asked) == questions

    @pytest.mark.parametrize("form", ["PKCS #12", "PBES2 DER"])
    def test_wrong_passphrase_that_is_stored_or_a_callables_is_not_asked_again(
        self, files: KeyFiles, form: str
    ) -> None:
        path = str(files.form("P-256", keyfiles.ENCRYPTED[form], PASSPHRASE))
        for pins in (PinSource(ask=lambda _: "wrong"), PinSource("wrong", prompts=[lambda _: pytest.fail("asked")])):
            with pytest.raises(WrongPinError):
                open_key(path, pins)

    @pytest.mark.parametrize("form", ["PKCS #12", "PBES2 DER"])
    def test_passphrase_that_is_not_text_is_not_shown(self, files: KeyFiles, form: str) -> None:
        path = files.form("P-256", keyfiles.ENCRYPTED[form], PASSPHRASE)
        with pytest.raises(PinError, match="not Unicode text") as caught:
            open_key(str(path), "secret\ud800")
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        assert "secret" not in str(caught.value)
        assert str(path) in caught.value.message

    def test_certificates_need_the_right_passphrase(self, bundle: Path) -> None:
        with pytest.raises(WrongPinError) as caught:
            find_certificates(str(bundle), WRONG_PASSPHRASE)
        assert str(bundle) in caught.value.message
        assert WRONG_PASSPHRASE not in str(caught.value)
        with pytest.raises(PinRequiredError):
            find_certificates(str(bundle))


def _certificate_forms() -> Iterator[object]:
    export = "pkcs12 -export -in {certificate} -passout pass:"
    for kind in ("P-256", "ML-DSA-44"):
        yield kind, "x509 -in {certificate} -outform DER"
        yield kind, "x509 -in {certificate} -trustout -addtrust serverAuth"
        yield kind, "x509 -in {certificate} -text"
        yield kind, f"{export} -nokeys"
        yield kind, "crl2pkcs7 -nocrl -certfile {certificate}"
        yield kind, "crl2pkcs7 -nocrl -certfile {certificate} -outform DER"
        needs = [needs_openssl_3_5] if kind == "ML-DSA-44" else []
        yield pytest.param(kind, f"{export} -inkey {{key}}", marks=needs)
        yield pytest.param(kind, f"{export} -inkey {{key}} -certpbe NONE", marks=needs)


class TestCertificates:
    def test_certificates_keep_their_order(self, files: KeyFiles) -> None:
        kinds = ("RSA-2048", "P-256", "ML-DSA-44", "P-384")
        path = files.write("bundle", b"".join(files.certificate(kind).read_bytes() for kind in kinds))
        found = find_certificates(str(path))
        expected = [openssl("x509", "-in", str(files.certificate(kind)), "-outform", "DER") for kind in kinds]
        assert [certificate.der for certificate in found] == expected
        assert {certificate.uri for certificate in found} == {str(path)}

    @pytest.mark.parametrize(("kind", "command"), list(_certificate_forms()))
    def test_every_form_of_a_certificate_is_read(self, files: KeyFiles, kind: str, command: str) -> None:
        expected = openssl("x509", "-in", str(files.certificate(kind)), "-outform", "DER")
        found = find_certificates(str(files.form(kind, command)))
        assert [certificate.der for certificate in found] == [expected]

    def test_old_label_is_read(self, files: KeyFiles) -> None:
        data = files.certificate("P-256").read_bytes().replace(b"CERTIFICATE", b"X509 CERTIFICATE")
        assert len(find_certificates(str(files.write("old label", data)))) == 1

    @pytest.mark.parametrize("kind", ["P-256", pytest.param("ML-DSA-44", marks=needs_openssl_3_5)])
    def test_pkcs12_file_gives_its_chain(self, files: KeyFiles, kind: str) -> None:
        command = "pkcs12 -export -in {certificate} -inkey {key} -certfile {folder}/P-384.crt -passout pass:"
        files.certificate("P-384")
        found = find_certificates(str(files.form(kind, command)))
        expected = [openssl("x509", "-in", str(files.certificate(k)), "-outform", "DER") for k in (kind, "P-384")]
        assert [certificate.der for certificate in found] == expected

    def test_pkcs7_file_gives_its_chain(self, files: KeyFiles) -> None:
        kinds = ("P-384", "P-256", "RSA-2048")  # OpenSSL keeps their order, which DER does not allow.
        more = [argument for kind in kinds for argument in ("-certfile", str(files.certificate(kind)))]
        found = find_certificates(str(files.write("bundle", openssl("crl2pkcs7", "-nocrl", *more))))
        expected = [openssl("x509", "-in", str(files.certificate(kind)), "-outform", "DER") for kind in kinds]
        assert sorted(one.der for one in found) == sorted(expected)

    def test_pkcs7_file_in_ber_is_read(self, files: KeyFiles) -> None:
        der = files.form("P-256", "crl2pkcs7 -nocrl -certfile {certificate} -outform DER").read_bytes()
        assert len(find_certificates(str(files.write("ber", b"\x30\x80" + der[4:] + b"\0\0")))) == 1

    @pytest.mark.parametrize("form", ["PEM", "DER"])
    def test_damaged_pkcs7_file_is_refused_with_the_command_to_convert_it(self, files: KeyFiles, form: str) -> None:
        path = files.form("P-256", f"crl2pkcs7 -nocrl -certfile {{certificate}} -outform {form}")
        data = path.read_bytes()
        path.write_bytes(data.replace(b"MII", b"MIQ") if form == "PEM" else data[:60] + b"\xff" * 8 + data[68:])
        with pytest.raises(CertificateError, match=f"openssl pkcs7 -print_certs -in {path}"):
            find_certificates(str(path))

    def test_damaged_certificate_is_named(self, files: KeyFiles) -> None:
        der = openssl("x509", "-in", str(files.certificate("P-256")), "-outform", "DER")
        path = files.write("damaged", der[:8] + b"\xff" * 8 + der[16:])
        with pytest.raises(CertificateError, match="can't be read") as caught:
            load(find_certificates(str(path)))
        assert str(path) in caught.value.message

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("pkey -in {key}", "a private key and no certificate"),
            ("pkey -in {key} -pubout", "a public key and no certificate"),
            ("req -new -subj /CN=x -key {key}", "a certificate request and no certificate"),
            ("req -new -subj /CN=x -key {key} -outform DER", "can't be read"),
            ("crl2pkcs7 -nocrl", "PKCS #7 and no certificate"),
            ("crl2pkcs7 -nocrl -outform DER", "PKCS #7 and no certificate"),
        ],
    )
    def test_file_without_a_certificate_is_refused_with_its_contents(
        self, files: KeyFiles, command: str, words: str
    ) -> None:
        path = files.form("P-256", command)
        with pytest.raises(CertificateError, match=words) as caught:
            load(find_certificates(str(path)))
        assert str(path) in caught.value.message

    def test_unusual_certificate_does_not_stop_a_pkcs12_file(self, files: KeyFiles, tmp_path: Path) -> None:
        """cryptography refuses the whole file."""
        other = files.write("other", certs.pem(certs.make_ca("Other").certificate))
        der = openssl("x509", "-in", str(other), "-outform", "DER")
        algorithm, with_null = bytes.fromhex("300a06082a8648ce3d040302"), bytes.fromhex("300c06082a8648ce3d0403020500")
        parts = [element.content for element in elements(next(elements(der)).content)]
        tbs, bits = encode(0x30, parts[0].replace(algorithm, with_null)), encode(0x03, parts[2])
        other = files.write("unusual", encode(0x30, tbs + with_null + bits))
        (tmp_path / "other.pem").write_bytes(openssl("x509", "-inform", "DER", "-in", str(other)))
        export = "pkcs12 -export -inkey {key} -in {certificate} -certfile " + str(tmp_path / "other.pem")
        path = files.form("P-256", f"{export} -passout pass:word")
        with open_key(str(path), "word") as key:
            assert key.public_key() == files.public_key("P-256")
        assert len(load(find_certificates(str(path), "word"))) == 2

    @pytest.mark.parametrize("exponent", [0, 1, 2, 65536])
    def test_impossible_rsa_exponent_is_named(self, files: KeyFiles, exponent: int) -> None:
        der = openssl("rsa", "-in", str(files.key("RSA-2048")), "-outform", "DER", "-traditional")
        numbers = RSAPrivateKey.load(der)
        numbers["public_exponent"] = exponent
        path = files.write("exponent", numbers.dump())
        with pytest.raises(UnsupportedKeyError, match=f"an RSA key with the public exponent {exponent}") as caught:
            open_key(str(path))
        assert str(path) in caught.value.message


_MUTATED = {
    "EC": ("P-256", keyfiles.PLAIN["PKCS #8"], None),
    "EC DER": ("P-256", keyfiles.PLAIN["traditional DER"], None),
    "RSA DER": ("RSA-2048", keyfiles.PLAIN["PKCS #8 DER"], None),
    "PBES2": ("P-256", keyfiles.ENCRYPTED["PBES2 DER"], PASSPHRASE),
    "legacy": ("P-256", keyfiles.ENCRYPTED["legacy aes256"], PASSPHRASE),
    "PKCS #12": ("P-256", keyfiles.ENCRYPTED["PKCS #12"], PASSPHRASE),
    "open PKCS #12": ("P-256", keyfiles.PLAIN["PKCS #12 without encryption"], None),
    "certificate": ("P-256", "x509 -in {certificate}", None),
    "certificate DER": ("P-256", "x509 -in {certificate} -outform DER", None),
}
if OPENSSL_3_5 not in lacking():
    _MUTATED["ML-DSA"] = ("ML-DSA-44", keyfiles.MLDSA_PLAIN["seed-priv DER"], None)


@pytest.fixture(scope="module")
def originals(files: KeyFiles) -> dict[str, bytes]:
    return {name: files.form(*arguments).read_bytes() for name, arguments in _MUTATED.items()}


# Derandomised: a mutation may make an iteration count of two billion.
@pytest.mark.slow
@given(name=st.sampled_from(sorted(_MUTATED)), data=st.data())
@settings(max_examples=scaled(1000), derandomize=True)
@pytest.mark.filterwarnings("ignore::UserWarning:cryptography", "ignore:PKCS#12 bundle")
def test_mutated_file_raises_only_hwsigner_errors(
    files: KeyFiles, originals: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    content = bytearray(originals[name])
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    start, end = data.draw(st.sampled_from([0, 0, 0, 1])), data.draw(st.integers(1, len(content)))
    mutated = bytes(content[start:end]) if data.draw(st.booleans()) else bytes(content)
    path = str(files.write("mutated", mutated))
    for action in (lambda: open_key(path, PASSPHRASE).sign(b"message"), lambda: find_certificates(path, PASSPHRASE)):
        with contextlib.suppress(HwsignerError):
            action()


def _rsa_5120() -> bytes:
    """Return a PKCS #8 key of 5120 bits, with numbers that are not prime: making a real one takes seconds."""
    integers = [0, (1 << 5119) | 1, 65537, (1 << 5118) | 1, *[(1 << 2559) | 1] * 5]
    body = b"".join(_der(0x02, n.to_bytes(n.bit_length() // 8 + 1, "big")) for n in integers)
    return _der(0x30, body)


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 0x80 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content
