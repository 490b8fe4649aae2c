"""open_key and the backends: what is loaded when, what is said when a library is missing, and backends of others."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hwsigner
from hwsigner import backends
from hwsigner._pins import PinRequest, PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends import BACKENDS, Backend, register
from hwsigner.errors import BackendUnavailableError, CertificateError, KeyNotFoundError, PluginError, UsageError
from hwsigner.key import find_certificates, open_key
from hwsigner.key.listing import list_tokens
from hwsigner.key.management import delete_key, describe_key, generate_key
from judges import needs_tpm

HEAVY = {
    *(
        "asn1crypto",
        "argparse",
        "cryptography",
        "ctypes",
        "email",
        "http.client",
        "importlib.metadata",
        "logging",
        "pkcs11",
        "requests",
        "socket",
    ),
    *("ssl", "tomlkit", "tpm2_pytss", "urllib.request"),
}
TSS2 = b"-----BEGIN TSS2 PRIVATE KEY-----\nMAYGBFUdJQA=\n-----END TSS2 PRIVATE KEY-----\n"


def run(script: str, *arguments: str, path: Path | None = None) -> str:
    """Run a Python script in a new interpreter, with a folder of modules, and return what it prints."""
    root = Path(hwsigner.__file__).parent.parent
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{root}:{path}" if path else str(root)}
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


class TestLoadedModules:
    def loaded(self, script: str, *arguments: str) -> set[str]:
        return set(run(f"{script}\nimport sys; print(*sys.modules)", *arguments).split())

    def test_importing_the_package_loads_only_its_version(self) -> None:
        # An editable installation finds the package through these two.
        before = self.loaded("import importlib.machinery, importlib.util, typing")
        assert self.loaded("import hwsigner") - before - {"__future__"} == {"hwsigner", "hwsigner._version"}

    def test_key_uri_pin_and_errors_load_no_backend_and_no_library(self) -> None:
        loaded = self.loaded("import hwsigner.key, hwsigner._pins, hwsigner._uri, hwsigner.errors")
        assert not loaded & HEAVY
        assert not {name for name in loaded if name.startswith("hwsigner.backends.")}

    def test_file_key_loads_only_what_it_needs(self, key_file: Path) -> None:
        loaded = self.loaded("import sys, hwsigner; hwsigner.open_key(sys.argv[1]).sign(b'')", str(key_file))
        assert "hwsigner.backends.file" in loaded
        unneeded = {"cryptography.hazmat.primitives.serialization.pkcs12", "cryptography.x509"}
        assert not loaded & (HEAVY - {"cryptography", "email"} | unneeded)
        assert not {"hwsigner.backends.pkcs11", "hwsigner.backends.tpm2", "hwsigner.backends.file.libcrypto"} & loaded

    @pytest.mark.parametrize(
        "path", ["/etc/a:b", "./x:y", "C:", "file:/x", "pkcs11:token=a", "handle:0x81000001", "env:A", "-"]
    )
    def test_entry_points_are_not_read_for_paths_and_built_in_schemes(self, path: str) -> None:
        loaded = self.loaded(f"from hwsigner import KeyURI; KeyURI.parse({path!r})")
        assert "importlib.metadata" not in loaded


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

    @needs_tpm
    @pytest.mark.parametrize(
        ("uri", "extra"),
        [("tpm2:handle=0x81000001", "tpm2"), ("handle:0x81000001", "tpm2")],
    )
    def test_missing_library_is_named_with_what_to_install(self, uri: str, extra: str) -> None:
        printed = run(self.SCRIPT, uri)
        assert printed.startswith("BackendUnavailableError 3 ")
        assert f"Run {sys.executable} -m pip install 'hwsigner[{extra}]==" in printed
        assert " with --find-links FOLDER, for a folder with the wheels of a release" in printed

    @needs_tpm
    def test_tss2_file_needs_the_tpm_library(self, tmp_path: Path) -> None:
        (tmp_path / "tss2.pem").write_bytes(TSS2)
        assert "hwsigner[tpm2]" in run(self.SCRIPT, str(tmp_path / "tss2.pem"))

    def test_file_key_opens_without_the_other_libraries(self, key_file: Path) -> None:
        assert run(self.SCRIPT, str(key_file)) == "opened\n"


class TestBuiltInBackends:
    def test_tpm_key_can_not_name_a_certificate(self) -> None:
        for uri in ("tpm2:handle=0x81000001", "handle:0x81000001"):
            with pytest.raises(UsageError, match="tpm2:handle=0x81000001 can't name a certificate"):
                find_certificates(uri)

    def test_malformed_uri_is_a_usage_error(self) -> None:
        for find in (open_key, find_certificates):
            with pytest.raises(UsageError, match="percent-encoding"):
                find("pkcs11:token=%")

    def test_parsed_uri_is_accepted(self, key_file: Path) -> None:
        assert open_key(KeyURI.parse(str(key_file))).public_key() == open_key(str(key_file)).public_key()

    def test_key_closes_at_the_end_of_with(self, key_file: Path) -> None:
        with open_key(str(key_file)) as key:
            assert key.sign(b"message")
        with pytest.raises(hwsigner.HwsignerError, match="closed"):
            key.sign(b"message")


class TestOtherBackends:
    """A backend that another package brings. `tests/backends/drawer` is a whole one."""

    DESCRIPTION = Backend("keys_in_a_drawer", install="pip install drawer")

    @pytest.fixture(autouse=True)
    def table(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Restore the table and forget which entry points and modules were read."""
        monkeypatch.setattr(backends, "BACKENDS", dict(BACKENDS))
        monkeypatch.setattr("hwsigner._uri.BACKENDS", backends.BACKENDS)
        backends._load_entry_point.cache_clear()
        yield
        backends._load_entry_point.cache_clear()
        sys.modules.pop("keys_in_a_drawer", None)

    @pytest.fixture
    def installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder on the path of modules with a package whose entry point names the module `keys_in_a_drawer`."""
        folder = tmp_path / "drawer-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: drawer\nVersion: 1\n")
        (folder / "entry_points.txt").write_text("[hwsigner.backends]\ndrawer = keys_in_a_drawer:BACKEND\n")
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    def test_registered_scheme_is_parsed(self) -> None:
        assert KeyURI.parse("drawer:number=3").scheme == "file"
        register("drawer", self.DESCRIPTION)
        assert KeyURI.parse("Drawer:number=3?pin-value=1") == KeyURI("drawer", {"number": b"3"})
        assert KeyURI.parse("drawer:number=3").backend is self.DESCRIPTION

    def test_missing_library_of_python_is_named_with_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "keys_in_a_drawer.py").write_text("import drawers\n")
        monkeypatch.syspath_prepend(tmp_path)
        register("drawer", self.DESCRIPTION)
        problem = "keys_in_a_drawer needs the Python library drawers, which is not installed. Run pip install drawer"
        with pytest.raises(BackendUnavailableError, match=problem):
            open_key("drawer:number=3")

    def test_missing_library_of_the_system_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        problem = "libtss2-esys.so.0: cannot open shared object file: No such file or directory"
        (tmp_path / "keys_in_a_drawer.py").write_text(f"raise ImportError({problem!r})\n")
        monkeypatch.syspath_prepend(tmp_path)
        register("drawer", self.DESCRIPTION)
        with pytest.raises(
            BackendUnavailableError, match=r"needs libtss2-esys\.so\.0, which is not installed"
        ) as caught:
            open_key("drawer:number=3")
        assert "package that has libtss2-esys.so.0" in caught.value.hint

    def test_registering_again_changes_nothing(self) -> None:
        register("drawer", self.DESCRIPTION)
        register("drawer", Backend("keys_in_a_drawer", install="pip install drawer"))

    @pytest.mark.parametrize("scheme", ["file", "handle", "Drawer", "d", "", "a b", "3d"])
    def test_taken_or_invalid_scheme_is_refused(self, scheme: str) -> None:
        with pytest.raises(UsageError, match=f"can't have the scheme {scheme!r}"):
            register(scheme, self.DESCRIPTION)
        assert backends.BACKENDS == BACKENDS

    def test_file_that_a_backend_recognises_is_opened_by_it(self, tmp_path: Path) -> None:
        register("drawer", Backend("keys_in_a_drawer", recognises=lambda start: start.startswith(b"DRAWER")))
        (tmp_path / "key").write_bytes(b"DRAWER 3")
        assert KeyURI.parse(str(tmp_path / "key")).resolved().scheme == "drawer"

    def test_entry_point_is_found_by_its_scheme(self, installed: Path) -> None:
        (installed / "keys_in_a_drawer.py").write_text(
            "from hwsigner.backends import Backend\n"
            "BACKEND = Backend(__name__)\n"
            "def open_key(uri, pins, *, public_key=None): return DrawerKey()\n"
            "class DrawerKey:\n"
            "    algorithm = 'AWS4-X509-ECDSA-SHA256'\n"
        )
        assert open_key("drawer:number=3").algorithm == "AWS4-X509-ECDSA-SHA256"

    def test_entry_point_that_can_not_be_loaded_is_reported(self, installed: Path) -> None:
        for code in ("raise OSError('no drawer')", "", "BACKEND = x"):
            (installed / "keys_in_a_drawer.py").write_text(code)
            with pytest.raises(BackendUnavailableError, match="keys_in_a_drawer:BACKEND, the backend for drawer: keys"):
                open_key("drawer:number=3")
            sys.modules.pop("keys_in_a_drawer", None)
            importlib.invalidate_caches()

    @pytest.mark.parametrize("code", ["raise SystemExit(0)", "BACKEND = 'drawer'", "raise OSError('right-4711')"])
    def test_entry_point_with_anything_but_a_backend_is_named(self, installed: Path, code: str) -> None:
        (installed / "keys_in_a_drawer.py").write_text(code)
        with pytest.raises(BackendUnavailableError, match="keys_in_a_drawer:BACKEND, the backend for drawer") as caught:
            open_key("drawer:number=3")
        assert "right-4711" not in str(caught.value)

    @pytest.mark.parametrize(
        ("function", "call"),
        [
            ("def open_key(*_, **__): raise SystemExit(0)", open_key),
            ("def open_key(*_, **__): raise GeneratorExit", open_key),
            ("open_key = functools.partial(int, 'drawer')", open_key),
            ("def find_certificates(*_): return None", find_certificates),
            ("def find_certificates(*_): return [b'der']", find_certificates),
            ("def list_tokens(*_, **__): return [1]", lambda uri: list(list_tokens(uri))),
            ("def list_tokens(*_, **__): yield 1", lambda uri: list(list_tokens(uri))),
            ("def list_tokens(*_, **__): return None", lambda uri: list(list_tokens(uri))),
            ("def generate_key(*_): return None", generate_key),
            ("def describe_key(*_): return {}", describe_key),
            ("def delete_key(*_): return None", lambda uri: delete_key(uri, print)),
        ],
    )
    def test_what_its_protocol_does_not_allow_is_blamed_on_the_package(
        self, installed: Path, function: str, call: Callable[[str], object]
    ) -> None:
        lines = ["import functools", "from hwsigner.backends import Backend"]
        lines += ["BACKEND = Backend(__name__, management=__name__)", function]
        (installed / "keys_in_a_drawer.py").write_text("\n".join(lines))
        blamed = r"keys_in_a_drawer\.[a-z_]+ of the package drawer 1, the backend for drawer: keys, failed: "
        with pytest.raises(PluginError, match=blamed):
            call("drawer:number=3")

    def test_no_certificates_are_a_certificate_error(self, installed: Path) -> None:
        (installed / "keys_in_a_drawer.py").write_text(
            "from hwsigner.backends import Backend\nBACKEND = Backend(__name__)\ndef find_certificates(*_): return []\n"
        )
        with pytest.raises(CertificateError, match="drawer:number=3 names no certificate"):
            find_certificates("drawer:number=3")

    def test_file_that_a_backend_fails_to_recognise_is_blamed_on_the_package(
        self, installed: Path, key_file: Path
    ) -> None:
        (installed / "keys_in_a_drawer.py").write_text(
            "from hwsigner.backends import Backend\nBACKEND = Backend(__name__, recognises=lambda start: 1 / 0)\n"
        )
        assert KeyURI.parse("drawer:number=3").scheme == "drawer"
        with pytest.raises(PluginError, match="keys_in_a_drawer of the package drawer 1"):
            open_key(str(key_file))

    def test_garbage_in_place_of_a_public_key_is_blamed_on_the_package(self, installed: Path) -> None:
        (installed / "keys_in_a_drawer.py").write_text(
            "from hwsigner.backends import Backend\n"
            "BACKEND = Backend(__name__)\n"
            "def open_key(uri, pins, *, public_key=None): return DrawerKey()\n"
            "class DrawerKey:\n"
            "    def public_key(self): return b'garbage'\n"
        )
        with pytest.raises(PluginError, match="keys_in_a_drawer of the package drawer 1"):
            open_key("drawer:number=3").public_key()

    def test_uri_of_a_missing_backend_is_a_usage_error(self) -> None:
        with pytest.raises(UsageError, match="no backend is installed for cupboard: keys"):
            open_key(KeyURI("cupboard", {}))


class TestContent:
    @pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"text\n" * 1000])
    def test_tss2_file_is_opened_by_the_tpm_backend(self, tmp_path: Path, before: bytes) -> None:
        path = tmp_path / "key.pem"
        path.write_bytes(before + TSS2)
        uri = KeyURI.parse(f"file:{path}?tcti=swtpm&pin-value=4711")
        assert uri.resolved() == KeyURI("tpm2", uri.path, uri.query)
        assert uri.resolved().pin_value == "4711"

    @pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----", b"TSS2 PRIVATE KEY"])
    def test_other_files_are_opened_by_the_file_backend(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "key.pem"
        path.write_bytes(content)
        assert KeyURI.parse(str(path)).resolved().scheme == "file"

    def test_pipe_is_left_unread(self) -> None:
        read, write = os.pipe()
        with os.fdopen(read, "rb") as reader, os.fdopen(write, "wb") as writer:
            writer.write(TSS2)
            writer.close()
            assert KeyURI.parse(f"/dev/fd/{read}").resolved().scheme == "file"
            assert reader.read() == TSS2

    def test_missing_file_is_reported_by_the_file_backend(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "missing"):
            assert KeyURI.parse(str(path)).resolved().scheme == "file"
            with pytest.raises(KeyNotFoundError, match=str(path)):
                open_key(str(path))

    def test_other_schemes_are_left_as_they_are(self) -> None:
        uri = KeyURI.parse("pkcs11:token=a")
        assert uri.resolved() is uri

    def test_certificates_in_a_tpm_key_file_are_found_despite_the_query_for_the_key(
        self, tmp_path: Path, key_file: Path
    ) -> None:
        command = ["openssl", "req", "-x509", "-key", str(key_file), "-subj", "/CN=x"]
        certificate = subprocess.run(command, check=True, capture_output=True).stdout
        path = tmp_path / "both.pem"
        path.write_bytes(TSS2 + certificate)
        assert len(find_certificates(f"file:{path}?tcti=swtpm&srk-name=00")) == 1
        path.write_bytes(certificate)
        with pytest.raises(UsageError, match="no attribute 'tcti'"):
            find_certificates(f"file:{path}?tcti=swtpm")


class TestPinSource:
    def test_text_callable_source_and_nothing_become_a_pin_source(self) -> None:
        uri, request = KeyURI.parse("pkcs11:token=a"), PinRequest("user PIN", "token 'a'")
        source = PinSource("x")
        assert PinSource.of(source) is source
        assert PinSource.of("4711").get(uri, request) == "4711"
        assert PinSource.of(lambda request: request.subject).get(uri, request) == "token 'a'"
        assert PinSource.of(None).stored(uri, request) is None
        assert PinSource.of("").stored(uri, request) == ""
