"""A signature can be followed by reading a few files: the way of each backend is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from emulators import InProcessSoftHSM
from frames import Frames, count_frames, described
from hwsigner._system.environment import state_folders
from hwsigner.errors import printable
from softhsm.command import run
from softhsm.tabrmd import ResourceManager
from softhsm.tpm import SoftTPM

HANDLE = 0x81004750
# Prints what opening a key and a later signature pass through. In a process of its own: nothing is open there yet, and
# GLib ends a process whose bus goes away.
PROGRAM = """
import json, sys
from frames import count_frames
from hwsigner.key import open_key
keys = []
opening = count_frames(lambda: keys.append(open_key(sys.argv[1])))
with keys[0] as key:
    key.sign(b"first")
    signing = count_frames(lambda: key.sign(b"message"))
print(json.dumps([opening, signing]))
"""


class Followed(NamedTuple):
    """The frames of opening a key, and of a warm signature."""

    opening: Frames
    signing: Frames


def follow(uri: str, env: dict[str, str]) -> Followed:
    """Open a key in a process of its own and sign twice; return what that passes through."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")}
    tests = Path(__file__).parent
    environment = {**kept, "PYTHONPATH": os.pathsep.join(map(str, (tests, tests.parent))), **env}
    command = [sys.executable, "-c", PROGRAM, uri]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return Followed(*(Frames(*frames) for frames in json.loads(done.stdout)))


@pytest.fixture(scope="module")
def manager(swtpm: SoftTPM) -> Iterator[ResourceManager]:
    with ResourceManager(swtpm) as made:
        yield made


@pytest.fixture(scope="module", params=["file", "handle"])
def tpm_key(request: pytest.FixtureRequest, swtpm: SoftTPM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What names the key in a URI: it has neither a policy nor an auth value."""
    if request.param == "handle":
        swtpm.persist(HANDLE, "ecc256")
        yield f"handle={HANDLE:#x}"
        run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", hex(HANDLE)], swtpm.env)
    else:
        path = tmp_path_factory.mktemp("key") / "key.pem"
        swtpm.create_key_file(path, "EC:P-256")
        yield f"path={path}"


def test_tpm_signature_passes_few_files_behind_a_resource_manager(tpm_key: str, manager: ResourceManager) -> None:
    opening, signing = follow(f"tpm2:{tpm_key}?tcti={manager.tcti}", manager.env)
    assert set(signing.files) == described("TPM behind a resource manager")
    assert len(opening.files) <= 16, opening.files
    assert len(signing.files) <= 6, signing.files
    assert len(signing.calls) <= 20, signing.calls


def test_tpm_signature_passes_few_files_without_a_resource_manager(tpm_key: str, swtpm: SoftTPM) -> None:
    opening, signing = follow(f"tpm2:{tpm_key}?tcti={swtpm.tcti}", {})
    assert set(signing.files) == described("TPM alone") | described("TPM behind a resource manager")
    assert set(opening.files) <= described("Opening a TPM key")
    assert len(opening.files) <= 16, opening.files
    assert len(signing.files) <= 7, signing.files
    assert len(signing.calls) <= 28, signing.calls


def test_token_signature_passes_few_files(softhsm: InProcessSoftHSM) -> None:
    softhsm.generate("P-256", b"\x01", "EC:prime256v1")
    uri = f"pkcs11:token={softhsm.label};object=P-256?module-path={softhsm.module}&pin-value={softhsm.pin}"
    opening, signing = follow(uri, softhsm.env)
    assert set(signing.files) == described("Token")
    assert len(opening.files) <= 20, opening.files
    assert len(signing.files) <= 5, signing.files
    assert len(signing.calls) <= 20, signing.calls


class TestCountFrames:
    def test_generator_counts_once(self) -> None:
        frames = count_frames(lambda: list(state_folders("any")))
        assert frames.files == ["_system/environment.py"]
        assert frames.calls.count("_system/environment.py: state_folders") == 1

    def test_calls_count_as_often_as_they_are_made(self) -> None:
        def use(times: int) -> Callable[[], object]:
            return lambda: [printable("text") for _ in range(times)]

        assert [count_frames(use(times)).calls for times in (0, 3)] == [[], ["errors.py: printable"] * 3]
