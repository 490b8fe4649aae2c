"""open_key and the table of backends: what is loaded when, and what is said when a library is missing."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hwsigner
from hwsigner.backends import BACKENDS
from hwsigner.errors import KeyNotFoundError, UsageError
from hwsigner.key import find_certificates, open_key, pin_source, resolve
from hwsigner.pins import PinRequest, PinSource
from hwsigner.uri import KeyURI

HEAVY = {
    *(
        "asn1crypto",
        "argparse",
        "cryptography",
        "ctypes",
        "email",
        "http.client",
        "logging",
        "pkcs11",
        "requests",
        "socket",
    ),
    *("ssl", "tomlkit", "tpm2_pytss", "urllib.request"),
}
TSS2 = b"-----BEGIN TSS2 PRIVATE KEY-----\nMAYGBFUdJQA=\n-----END TSS2 PRIVATE KEY-----\n"


def run(script: str, *arguments: str) -> str:
    """Run a Python script in a new interpreter and return what it prints."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(hwsigner.__file__).parent.parent)}
    command = [sys.executable, "-c", script, *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key.pem"
    path.touch(0o600)
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return path


class TestWhatIsLoaded:
    def loaded(self, script: str, *arguments: str) -> set[str]:
        return set(run(f"{script}\nimport sys; print(*sys.modules)", *arguments).split())

    def test_the_package_loads_nothing(self) -> None:
        # An editable installation finds the package through these two.
        before = self.loaded("import importlib.machinery, importlib.util, typing")
        assert self.loaded("import hwsigner") - before - {"__future__"} == {"hwsigner", "hwsigner._version"}

    def test_key_uri_pin_and_errors_load_no_backend_and_no_library(self) -> None:
        loaded = self.loaded("import hwsigner.key, hwsigner.pins, hwsigner.uri, hwsigner.errors")
        assert not loaded & HEAVY
        assert not {name for name in loaded if name.startswith("hwsigner.backends.")}

    def test_a_file_key_loads_what_it_needs_and_no_more(self, key_file: Path) -> None:
        loaded = self.loaded("import sys, hwsigner; hwsigner.open_key(sys.argv[1]).sign(b'')", str(key_file))
        assert "hwsigner.backends.file" in loaded
        unneeded = {"cryptography.hazmat.primitives.serialization.pkcs12", "cryptography.x509"}
        assert not loaded & (HEAVY - {"cryptography", "email"} | unneeded)
        assert not {"hwsigner.backends.pkcs11", "hwsigner.backends.tpm2", "hwsigner.backends.file.libcrypto"} & loaded

    def test_every_public_name_is_there_when_asked_for(self) -> None:
        for name in hwsigner.__all__:
            assert getattr(hwsigner, name) is not None
        assert len(hwsigner.__all__) <= 20
        with pytest.raises(AttributeError, match="no_such_name"):
            getattr(hwsigner, "no_such" + "_name")


class TestMissingLibrary:
    SCRIPT = """
import sys
for name in ("pkcs11", "tpm2_pytss"):
    sys.modules[name] = None
import hwsigner
try:
    hwsigner.open_key(sys.argv[1])
except hwsigner.HwsignerError as error:
    print(type(error).__name__, error.exit_status, error)
else:
    print("opened")
"""

    @pytest.mark.parametrize(
        ("uri", "extra"),
        [("pkcs11:token=a", "pkcs11"), ("tpm2:handle=0x81000001", "tpm2"), ("handle:0x81000001", "tpm2")],
    )
    def test_it_is_named_with_what_to_install(self, uri: str, extra: str) -> None:
        printed = run(self.SCRIPT, uri)
        assert printed.startswith("BackendUnavailableError 3 ")
        assert f"pip install 'hwsigner[{extra}]'" in printed

    def test_a_tss2_file_needs_the_tpm_library(self, tmp_path: Path) -> None:
        (tmp_path / "tss2.pem").write_bytes(TSS2)
        assert "hwsigner[tpm2]" in run(self.SCRIPT, str(tmp_path / "tss2.pem"))

    def test_file_keys_do_without_the_others(self, key_file: Path) -> None:
        assert run(self.SCRIPT, str(key_file)) == "opened\n"


class TestTable:
    @pytest.mark.parametrize("scheme", BACKENDS)
    def test_each_backend_opens_keys_in_the_same_way(self, scheme: str) -> None:
        module = importlib.import_module(BACKENDS[scheme].module)
        parameters = inspect.signature(module.open_key).parameters
        assert list(parameters) == ["uri", "pins", "public_key"]
        assert parameters["public_key"].kind is inspect.Parameter.KEYWORD_ONLY
        if hasattr(module, "find_certificates"):
            assert list(inspect.signature(module.find_certificates).parameters) == ["uri", "pins"]

    def test_a_tpm_names_no_certificate(self) -> None:
        for uri in ("tpm2:handle=0x81000001", "handle:0x81000001"):
            with pytest.raises(UsageError, match="tpm2:handle=0x81000001 can't name a certificate"):
                find_certificates(uri)

    def test_a_malformed_uri_is_a_usage_error(self) -> None:
        for find in (open_key, find_certificates):
            with pytest.raises(UsageError, match="percent-encoding"):
                find("pkcs11:token=%")

    def test_a_parsed_uri_will_do(self, key_file: Path) -> None:
        assert open_key(KeyURI.parse(str(key_file))).public_key() == open_key(str(key_file)).public_key()

    def test_a_key_closes_at_the_end_of_with(self, key_file: Path) -> None:
        with open_key(str(key_file)) as key:
            assert key.sign(b"message")
        with pytest.raises(hwsigner.HwsignerError, match="closed"):
            key.sign(b"message")


class TestContentDecides:
    @pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"text\n" * 1000])
    def test_a_tss2_file_is_the_tpms(self, tmp_path: Path, before: bytes) -> None:
        path = tmp_path / "key.pem"
        path.write_bytes(before + TSS2)
        uri = KeyURI.parse(f"file:{path}?tcti=swtpm&pin-value=4711")
        assert resolve(uri) == KeyURI("tpm2", uri.path, uri.query)
        assert resolve(uri).pin_value == "4711"

    @pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----", b"TSS2 PRIVATE KEY"])
    def test_any_other_file_is_a_file(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "key.pem"
        path.write_bytes(content)
        assert resolve(KeyURI.parse(str(path))).scheme == "file"

    def test_a_pipe_is_left_unread(self) -> None:
        read, write = os.pipe()
        with os.fdopen(read, "rb") as reader, os.fdopen(write, "wb") as writer:
            writer.write(TSS2)
            writer.close()
            assert resolve(KeyURI.parse(f"/dev/fd/{read}")).scheme == "file"
            assert reader.read() == TSS2

    def test_what_is_missing_is_the_file_backends_to_say(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "missing"):
            assert resolve(KeyURI.parse(str(path))).scheme == "file"
            with pytest.raises(KeyNotFoundError, match=str(path)):
                open_key(str(path))

    def test_other_schemes_are_not_looked_into(self) -> None:
        uri = KeyURI.parse("pkcs11:token=a")
        assert resolve(uri) is uri


class TestPinSource:
    def test_of_text_a_callable_a_source_and_nothing(self) -> None:
        uri, request = KeyURI.parse("pkcs11:token=a"), PinRequest("user PIN", "token 'a'")
        source = PinSource("x")
        assert pin_source(source) is source
        assert pin_source("4711").get(uri, request) == "4711"
        assert pin_source(lambda request: request.subject).get(uri, request) == "token 'a'"
        assert pin_source(None).stored(uri, request) is None
        assert pin_source("").stored(uri, request) == ""
