from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from alive import is_alive
from emulators import InProcessSoftHSM
from hwsigner.key import open_key
from softhsm.command import ToolError, run
from softhsm.token import SoftHSM
from softhsm.tpm import SoftTPM

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("hardware")


def run_softhsm(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "softhsm", *arguments]
    environment = {"PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"], "HOME": os.environ["HOME"]}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, waiting up to a minute for it."""
    deadline = time.monotonic() + 60
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


def test_token_keys_are_where_the_uris_say(softhsm: InProcessSoftHSM) -> None:
    softhsm.generate("web", b"\x0a", "EC:secp384r1")
    key = load_der_public_key(softhsm.public_key(b"\x0a"))
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"
    uri = softhsm.uri("web").partition("?")[0]
    tool = ["p11tool", "--provider", softhsm.module, "--export", f"{uri};type=public", "--outder"]
    exported = subprocess.run(tool, env=os.environ | softhsm.env, capture_output=True, timeout=60)
    assert load_der_public_key(exported.stdout) == key, exported.stderr


def test_tokens_added_later_are_seen_by_a_loaded_module(softhsm: InProcessSoftHSM) -> None:
    softhsm.generate("first", b"\x0c", "EC:prime256v1")
    open_key(softhsm.uri("first"), softhsm.pin).close()
    softhsm.add_token("later", "4321")
    softhsm.generate("rsa", b"\x01", "rsa:2048")
    with open_key(softhsm.uri("rsa"), "4321") as key:
        assert key.public_key() == softhsm.public_key(b"\x01")


def test_deleted_objects_are_gone(softhsm: InProcessSoftHSM) -> None:
    softhsm.generate("gone", b"\x0b", "EC:prime256v1")
    softhsm.delete("pubkey", b"\x0b")
    with pytest.raises(ToolError, match="p11tool"):
        softhsm.public_key(b"\x0b")


def test_tpm_key_file_and_handle_have_different_keys(swtpm: SoftTPM, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    swtpm.create_key_file(path, "RSA:2048")
    assert path.read_bytes().startswith(b"-----BEGIN TSS2 PRIVATE KEY-----\n")
    assert isinstance(load_der_public_key(swtpm.public_key(path)), rsa.RSAPublicKey)
    swtpm.persist(0x81000101, "ecc256")
    assert isinstance(load_der_public_key(swtpm.public_key(0x81000101)), ec.EllipticCurvePublicKey)
    run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81000101"], swtpm.env)


@pytest.mark.usefixtures("any_auth_values")  # A TPM that lost its power may count a wrong one.
def test_tpm_restart_keeps_persistent_keys(swtpm: SoftTPM) -> None:
    swtpm.persist(0x81000102, "ecc256")
    before = swtpm.public_key(0x81000102)
    swtpm.restart()
    assert swtpm.public_key(0x81000102) == before
    run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81000102"], swtpm.env)


def test_tpm_socket_path_is_named_when_it_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="shorter path"):
        SoftTPM(tmp_path / ("long" * 30)).start()


def test_make_prints_uris_of_real_keys_and_stop_ends_the_tpm(short_folder: Path) -> None:
    made = run_softhsm("make", str(short_folder / "hw"))
    assert made.returncode == 0, made.stderr
    pid = int((short_folder / "hw" / "tpm" / "swtpm.pid").read_text())
    try:
        assert is_alive(pid)
        uris = [line for line in made.stdout.splitlines() if line.startswith(("pkcs11:", "tpm2:"))]
        assert len(uris) == 5
        exported = dict(
            line.removeprefix("export ").split("=", 1) for line in made.stdout.splitlines() if "export" in line
        )
        assert exported["SOFTHSM2_CONF"] == str(SoftHSM(short_folder / "hw" / "token").conf)
        tpm = SoftTPM(short_folder / "hw" / "tpm")
        keys = [load_der_public_key(tpm.public_key(key)) for key in (short_folder / "hw" / "tpm-ec.pem", 0x81000100)]
        assert all(isinstance(key, ec.EllipticCurvePublicKey) for key in keys)
    finally:
        stopped = run_softhsm("stop", str(short_folder / "hw"))
    assert stopped.returncode == 0, stopped.stderr
    assert has_ended(pid)


def test_stop_is_an_error_when_no_tpm_runs(tmp_path: Path) -> None:
    stopped = run_softhsm("stop", str(tmp_path / "typo"))
    assert (stopped.returncode, stopped.stdout) == (1, "")
    assert stopped.stderr == f"softhsm: no emulated TPM runs in {tmp_path / 'typo'}\n"


def test_stop_leaves_other_processes_alone_when_the_pid_file_is_stale(tmp_path: Path) -> None:
    folder = tmp_path / "hw" / "tpm"
    folder.mkdir(parents=True)
    with subprocess.Popen(["sleep", "30"]) as bystander:
        (folder / "swtpm.pid").write_text(f"{bystander.pid}\n")
        assert run_softhsm("stop", str(tmp_path / "hw")).returncode == 0
        assert bystander.poll() is None
        bystander.terminate()


def test_output_of_make_can_be_run_by_a_shell(short_folder: Path) -> None:
    folder = short_folder / "a b$"
    made = run_softhsm("make", str(folder))
    try:
        assert made.returncode == 0, made.stderr
        script = made.stdout[made.stdout.index("export") :] + 'printf %s "$TPM2TOOLS_TCTI"'
        shell = subprocess.run(["sh", "-euc", script], env={}, capture_output=True, text=True)
        assert (shell.stdout, shell.stderr) == (f"swtpm:path={folder}/tpm/socket", "")
        assert shlex.quote(str(folder / "token" / "softhsm2.conf")) in made.stdout
    finally:
        assert run_softhsm("stop", str(folder)).returncode == 0


def test_make_leaves_no_swtpm_when_it_fails(short_folder: Path) -> None:
    tool = short_folder / "bin" / "softhsm2-util"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nexit 3\n")
    tool.chmod(0o755)
    made = run_softhsm("make", str(short_folder / "hw"), path=tool.parent)
    assert made.returncode == 1
    assert made.stderr.startswith("softhsm: softhsm2-util ")
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert [command for command in commands if os.fsencode(short_folder) in command] == []


def test_stop_names_the_pid_file_when_it_has_no_pid(tmp_path: Path) -> None:
    pid_file = tmp_path / "tpm" / "swtpm.pid"
    pid_file.parent.mkdir()
    pid_file.touch()
    stopped = run_softhsm("stop", str(tmp_path))
    assert stopped.returncode == 1
    assert stopped.stderr.startswith(f"softhsm: {pid_file} contains no process ID")


@pytest.mark.parametrize("own", [True, False], ids=["started here", "started by another process"])
def test_swtpm_is_killed_when_it_hangs(short_folder: Path, monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    monkeypatch.setattr("softhsm.tpm._STOP_SECONDS", 0.05)
    tpm = SoftTPM(short_folder)
    tpm.start()
    pid = int((short_folder / "swtpm.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    (tpm if own else SoftTPM(short_folder)).stop()
    assert has_ended(pid)
    tpm.stop()


def test_swtpm_is_named_when_it_does_not_end(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softhsm.tpm._STOP_SECONDS", 0.05)
    monkeypatch.setattr("softhsm.tpm._KILL_SECONDS", 0.05)
    tpm = SoftTPM(short_folder)
    tpm.start()
    pid = int((short_folder / "swtpm.pid").read_text())
    monkeypatch.setattr(os, "kill", lambda *_: None)
    with pytest.raises(ToolError, match=f"process {pid}, does not exit"):
        SoftTPM(short_folder).stop()
    monkeypatch.undo()
    assert (short_folder / "swtpm.pid").exists()
    tpm.stop()


def test_make_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = run_softhsm("make", str(tmp_path))
    assert made.returncode == 1
    assert made.stderr.startswith(f"softhsm: {tmp_path} is not empty")
