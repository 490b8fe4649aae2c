"""The lock by which this user's processes take turns at a TPM."""

from __future__ import annotations

import fcntl
import stat
import threading
import time
from pathlib import Path

import pytest

from backends.tpm2.tpms import Tools, sign_and_verify
from hwsigner.backends.tpm2 import connection
from hwsigner.errors import BackendUnavailableError
from hwsigner.key import open_key

pytestmark = pytest.mark.usefixtures("refused_auth")


class TestProcessLock:
    """The lock file of a TPM without a resource manager."""

    @pytest.fixture
    def runtime(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "runtime"
        folder.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        return folder / "hwsigner"

    def test_signature_waits_for_another_process(self, tools: Tools, ec_file: Path, runtime: Path) -> None:
        with open_key(tools.tpm.uri(ec_file)) as key:
            [lock] = runtime.iterdir()
            assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
            signatures: list[bytes] = []
            thread = threading.Thread(target=lambda: signatures.append(key.sign(b"message")))
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                thread.start()
                time.sleep(0.1)
                assert signatures == []
            thread.join(60)
            assert len(signatures) == 1

    def test_process_that_keeps_the_tpm_too_long_is_an_error(
        self, tools: Tools, ec_file: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "_LONGEST_WAIT_SECONDS", 0.1)
        with open_key(tools.tpm.uri(ec_file)) as key:
            [lock] = runtime.iterdir()
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                with pytest.raises(BackendUnavailableError, match=rf"the TPM at {tools.tpm.tcti} is busy.*hangs"):
                    key.sign(b"message")
            assert key.sign(b"message")

    def test_removed_lock_file_is_replaced(
        self, tools: Tools, ec_file: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "_LONGEST_WAIT_SECONDS", 0.1)
        with open_key(tools.tpm.uri(ec_file)) as key:
            [lock] = runtime.iterdir()
            lock.unlink()
            assert key.sign(b"message")
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                with pytest.raises(BackendUnavailableError, match="is busy"):
                    key.sign(b"message")

    def test_each_tcti_has_a_lock_file_of_its_own(self, tools: Tools, ec_file: Path, runtime: Path) -> None:
        for tcti in (tools.tpm.tcti, f"swtpm:path={tools.tpm.folder}/./socket"):
            open_key(f"tpm2:path={ec_file}?tcti={tcti}").close()
        assert len(list(runtime.iterdir())) == 2

    def test_no_lock_file_is_made_behind_a_resource_manager(self, runtime: Path) -> None:
        for tcti in ("tabrmd:bus_type=session", "device:/dev/tpmrm7"):
            with pytest.raises(BackendUnavailableError):
                open_key(f"tpm2:handle=0x81000001?tcti={tcti}")
        assert not runtime.exists()

    @pytest.mark.parametrize("fault", ["symlink", "open", "file"])
    def test_folder_that_is_not_private_gets_no_lock_file(
        self, tools: Tools, ec_file: Path, runtime: Path, fault: str
    ) -> None:
        target = tools.path("target")
        target.mkdir(mode=0o700)
        if fault == "symlink":
            runtime.symlink_to(target)
        elif fault == "open":
            runtime.mkdir()
            runtime.chmod(0o770)
            target = runtime
        else:
            runtime.write_bytes(b"")
        assert sign_and_verify(tools.tpm.uri(ec_file), tools.tpm.public_key(ec_file), tools.folder)
        assert list(target.iterdir()) == []
