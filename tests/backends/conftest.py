"""Keys of a TPM and of a token as fixtures, and the notices that a test shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.tpm2.tpms import PASSWORD, Tools, handles_in
from emulators import InProcessSoftHSM
from hwsigner._system import environment, notices
from shared_hardware import reset_lockout
from softhsm.command import run
from softhsm.tpm import SoftTPM
from tpm_proxy import TPMProxy


@pytest.fixture
def refused_auth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where a test's processes keep which keys' auth values were refused."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(environment, "_TEMPORARY", str(tmp_path / "temporary"))
    return tmp_path / "state" / "hwsigner" / "refused-pins"


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> InProcessSoftHSM:
    """A token with a key."""
    softhsm.generate("P-256", b"\x01", "EC:prime256v1")
    return softhsm


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The notices that were shown."""
    lines: list[str] = []
    notices.set_notifier(lines.append)
    yield lines
    notices.set_notifier(None)


@pytest.fixture
def tools(swtpm: SoftTPM, tmp_path: Path, refused_auth: Path) -> Iterator[Tools]:
    made = Tools(swtpm, tmp_path)
    yield made
    reset_lockout(swtpm)
    assert made.flush() == []


@pytest.fixture(scope="module")
def key_files(swtpm: SoftTPM, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Key files by kind, made by tpm2-openssl when they are first wanted."""
    folder = tmp_path_factory.mktemp("keys")

    def key_file(kind: str) -> Path:
        path = folder / f"{kind}.pem"
        if not path.exists():
            algorithm, _, size = kind.replace("P-", "EC-P-", 1).partition("-")
            swtpm.create_key_file(path, f"{algorithm}:{size}")
        return path

    return key_file


@pytest.fixture(scope="module")
def locked_file(swtpm: SoftTPM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key file with an auth value."""
    path = tmp_path_factory.mktemp("locked") / "key.pem"
    swtpm.create_key_file(path, "EC:P-256", PASSWORD)
    return path


@pytest.fixture
def ec_file(key_files: Callable[[str], Path]) -> Path:
    return key_files("P-256")


@pytest.fixture
def persistent_parent(tools: Tools, request: pytest.FixtureRequest) -> Iterator[str]:
    """A persistent storage key; the fixture's parameter is its auth value."""
    primary, handle = tools.path("primary"), "0x81004713"
    auth = ["-p", request.param] if request.param else []
    tools.run("tpm2_createprimary", "-Q", "-G", "ecc", "-c", str(primary), *auth)
    tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", str(primary), handle)
    yield handle
    run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", handle], tools.tpm.env)


@pytest.fixture
def proxy(swtpm: SoftTPM, short_folder: Path) -> Iterator[TPMProxy]:
    """A proxy to the TPM. Nothing that came through it is left there at the end."""
    with TPMProxy(swtpm, short_folder) as made:
        yield made
    assert handles_in(swtpm) == []
