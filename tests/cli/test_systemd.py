"""`hwsigner systemd`: the units that it writes, what systemd says of them, and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hwsigner
from hwsigner._agent.client import START_LIMIT
from hwsigner._cli import systemd
from judges import needs_systemd
from scene import Outcome

pytestmark = needs_systemd


UNITS = Path(hwsigner.__file__).parent / "_units"
PROGRAM = Path(sys.executable).with_name("hwsigner")
# systemd-analyze rates a system service from 0.0 (closed) to 10.0.
MOST_EXPOSED = 2.0
# A renewal writes files that only root may write, and the agent only read.
EXPOSED_AS_ROOT = 2.4
IPV6_FREEBIND = 78  # As in <linux/in6.h>.


@pytest.fixture(params=["system", "user"])
def units(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of the system's units or of a user's, with the path of the program under test."""
    folder = tmp_path / str(request.param)
    folder.mkdir()
    for unit in (UNITS / folder.name).iterdir():
        (folder / unit.name.replace("@.", "@web.")).write_text(systemd._filled(unit, PROGRAM))
    return folder


@pytest.fixture
def user_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without systemd: `systemctl` is a program that succeeds. Returns the folder of the units."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "systemctl").write_text("#!/bin/sh\nexit 0\n")
    (binaries / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "argv", [str(PROGRAM)])
    return tmp_path / "config" / "systemd" / "user"


def test_systemd_accepts_all_units(units: Path, tmp_path: Path) -> None:
    scope = ["--user"] if units.name == "user" else []
    done = subprocess.run(
        ["systemd-analyze", *scope, "verify", *sorted(units.iterdir())],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("service", sorted((UNITS / "system").glob("*.service")), ids=lambda path: path.name)
def test_system_service_is_sandboxed(service: Path, tmp_path: Path) -> None:
    path = tmp_path / service.name.replace("@.", "@web.")
    path.write_text(systemd._filled(service, PROGRAM))
    assert exposure(path) <= (EXPOSED_AS_ROOT if service.name == "hwsigner-renew@.service" else MOST_EXPOSED)


def test_service_stays_sandboxed_with_each_change_that_the_docs_suggest(tmp_path: Path) -> None:
    text = "".join(path.read_text() for path in Path("docs").glob("*/*.md"))
    changes = re.findall(r"# systemctl edit (\S+)@web\.service\n(\[Service\]\n.*?)```", text, re.DOTALL)
    assert changes
    for name, change in changes:
        path = tmp_path / f"{name}@web.service"
        path.write_text(systemd._filled(UNITS / "system" / f"{name}@.service", PROGRAM) + change)
        assert exposure(path) <= MOST_EXPOSED


def exposure(unit: Path) -> float:
    """Return how exposed systemd finds a service."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    return float(found[1])


def test_secrets_are_neither_swapped_nor_dumped(units: Path) -> None:
    for unit in units.glob("*.service"):
        lines = unit.read_text().splitlines()
        assert {"LimitCORE=0", "MemorySwapMax=0", "NoNewPrivileges=yes", "UMask=0077"} <= set(lines)
        # In a user namespace, the agent could not tell its clients' users apart.
        assert not [line for line in lines if line.startswith("PrivateUsers=")]


def test_journald_drops_no_audit_line_of_what_gives_credentials_out(units: Path) -> None:
    for unit in ("hwsigner-agent.service", "hwsigner-serve@web.service"):
        assert "LogRateLimitIntervalSec=0" in (units / unit).read_text().splitlines()


def test_registrar_runs_as_a_user_of_its_own() -> None:
    users = {
        service.name: re.findall("^User=(.+)$", service.read_text(), re.MULTILINE)
        for service in (UNITS / "system").glob("*.service")
    }
    assert users.pop("hwsigner-registrar.service") == ["hwsigner-registrar"]
    assert ["hwsigner-registrar"] not in users.values()


def test_install_makes_each_user_that_a_unit_runs_as() -> None:
    text = "".join(service.read_text() for service in (UNITS / "system").glob("*.service"))
    made = re.findall("^u (.+?) ", (UNITS / "hwsigner.sysusers").read_text(), re.MULTILINE)
    assert set(made) == set(re.findall("^User=(.+)$", text, re.MULTILINE))


def test_uninstall_names_all_users_and_folders_that_stay() -> None:
    text = "".join(service.read_text() for service in (UNITS / "system").glob("*.service"))
    folders = re.findall(r"^StateDirectory=([\w-]+)", text, re.MULTILINE)
    users = re.findall("^User=(.+)$", text, re.MULTILINE)
    named = set(re.findall(r"[^ ;]+", systemd._REMOVE))
    assert named == {"userdel", "rm", "-rf", *users, *(f"/var/lib/{folder}" for folder in folders)}


def test_system_s_agent_may_lock_all_of_its_memory() -> None:
    assert "LimitMEMLOCK=infinity" in (UNITS / "system" / "hwsigner-agent.service").read_text().splitlines()


def test_start_that_hangs_is_tried_again_while_clients_wait(units: Path) -> None:
    lines = (units / "hwsigner-agent.service").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    assert int(values["TimeoutStartSec"]) + int(values["RestartSec"]) < START_LIMIT


def test_sockets_are_where_clients_look(units: Path) -> None:
    lines = (units / "hwsigner-agent.socket").read_text().splitlines()
    expected = {
        "system": {"ListenStream=/run/hwsigner/agent.sock", "SocketMode=0666", "DirectoryMode=0755"},
        "user": {"ListenStream=%t/hwsigner/agent.sock", "SocketMode=0600", "DirectoryMode=0700"},
    }
    assert expected[units.name] <= set(lines)


@pytest.mark.parametrize("scope", ["system", "user"])
def test_port_of_serve_is_held_where_ipv6_is_switched_off(scope: str) -> None:
    lines = (UNITS / scope / "hwsigner-serve@.socket").read_text().splitlines()
    addresses = [line.partition("=")[2] for line in lines if line.startswith("ListenStream=")]
    assert addresses == ["127.0.0.1:9911", "[::1]:9911"]
    with socket.socket(socket.AF_INET6) as listener:
        if "FreeBind=yes" in lines:  # As systemd does it.
            listener.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        listener.bind(("2001:db8::1", 0))  # Like ::1 without IPv6, it is no address of this machine.


def test_group_of_the_tpm_without_a_name_is_named_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def group(_: Path) -> str:
        raise KeyError("no such group")

    device = tmp_path / "tpmrm0"
    device.touch()
    monkeypatch.setattr(systemd, "_TPM", device)
    monkeypatch.setattr(Path, "group", group)
    assert systemd._groups() == f"SupplementaryGroups={device.stat().st_gid}"


def test_install_writes_units_that_run_this_program(user_install: Path, call: Callable[..., Outcome]) -> None:
    done = call("systemd", "install", "--user")
    assert (done.status, done.err) == (0, "")
    assert f"ExecStart={PROGRAM} agent" in (user_install / "hwsigner-agent.service").read_text()
    assert "systemctl --user enable --now hwsigner-agent.socket" in done.out
    assert {path.name for path in user_install.iterdir()} == {path.name for path in (UNITS / "user").iterdir()}


def test_install_changes_nothing_when_it_runs_again(user_install: Path, call: Callable[..., Outcome]) -> None:
    call("systemd", "install", "--user")
    before = {path: path.stat().st_ino for path in user_install.iterdir()}
    again = call("systemd", "install", "--user")
    assert again.out.count("unchanged ") == len(before)
    assert {path: path.stat().st_ino for path in user_install.iterdir()} == before


def test_install_says_how_to_enable_the_units(user_install: Path, call: Callable[..., Outcome]) -> None:
    named = re.findall(r"systemctl --user enable --now (\S+)", call("systemd", "install", "--user").out)
    assert named == ["hwsigner-agent.socket", "hwsigner-renew@PROFILE.timer"]
    for unit in named:
        assert "[Install]" in (user_install / unit.replace("PROFILE", "")).read_text()


def test_uninstall_removes_what_install_wrote(user_install: Path, call: Callable[..., Outcome]) -> None:
    call("systemd", "install", "--user")
    (user_install / "mine.service").touch()
    done = call("systemd", "uninstall", "--user")
    assert (done.status, done.err) == (0, "")
    assert [path.name for path in user_install.iterdir()] == ["mine.service"]
    assert call("systemd", "uninstall", "--user").status == 0


def test_uninstall_removes_the_drop_ins_of_timers_and_not_the_administrator_s(
    user_install: Path, call: Callable[..., Outcome]
) -> None:
    call("systemd", "install", "--user")
    for name, files in {"web": ["50-hwsigner.conf"], "db": ["50-hwsigner.conf", "mine.conf"], "new": []}.items():
        folder = user_install / f"hwsigner-renew@{name}.timer.d"
        folder.mkdir()
        for file in files:
            (folder / file).touch()
    assert call("systemd", "uninstall", "--user").status == 0
    left = sorted(str(path.relative_to(user_install)) for path in user_install.glob("**/*"))
    assert left == ["hwsigner-renew@db.timer.d", "hwsigner-renew@db.timer.d/mine.conf"]


@pytest.mark.parametrize(
    ("action", "problem"),
    [("install", "wrote .*/hwsigner-agent.service"), ("uninstall", "ran systemctl --user disable .*")],
)
def test_lost_reader_is_an_error_that_says_what_was_done(
    user_install: Path, call: Callable[..., Outcome], action: str, problem: str
) -> None:
    if action == "uninstall":
        call("systemd", "install", "--user")
    reader, writer = os.pipe()
    os.close(reader)
    command = [str(PROGRAM), "systemd", action, "--user"]
    with open(writer, "wb") as stdout:
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert re.match(f"hwsigner: {problem}, but stdout can't be written: Broken pipe", done.stderr)


@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_unit_of_someone_else_stays(user_install: Path, call: Callable[..., Outcome], action: str) -> None:
    user_install.mkdir(parents=True)
    unit = user_install / "hwsigner-agent.service"
    unit.write_text("[Service]\nExecStart=/mine\n")
    done = call("systemd", action, "--user")
    assert done.status == 2
    assert f"{unit} was not written by hwsigner systemd install" in done.err
    assert unit.read_text() == "[Service]\nExecStart=/mine\n"


def test_units_of_a_package_are_not_written_again(
    user_install: Path, call: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = tmp_path / "lib" / "user" / "hwsigner-agent.socket"
    packaged.parent.mkdir(parents=True)
    packaged.touch()
    monkeypatch.setattr(systemd, "_PACKAGED", tmp_path / "lib")
    done = call("systemd", "install", "--user")
    assert done.status == 2
    assert f"a package has put the units into {packaged.parent}" in done.err
    assert "systemctl --user enable --now hwsigner-agent.socket" in done.err
    assert not user_install.exists()


def test_failing_systemctl_is_an_error(user_install: Path, call: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "bin" / "systemctl").write_text("#!/bin/sh\necho no bus >&2; exit 1\n")
    done = call("systemd", "install", "--user")
    assert done.status == 1
    assert "systemctl --user daemon-reload failed: no bus" in done.err
    assert "ran " not in done.out


def test_folder_that_can_t_be_written_is_an_error(
    user_install: Path, call: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "config").touch()
    done = call("systemd", "install", "--user")
    assert (done.status, done.out) == (1, "")
    unit = user_install / "hwsigner-agent.service"
    assert done.err == f"hwsigner: can't write {unit}: Not a directory. Check who may write its folder\n"


@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_unit_that_can_t_be_read_is_an_error(user_install: Path, call: Callable[..., Outcome], action: str) -> None:
    unit = user_install / "hwsigner-agent.service"
    unit.mkdir(parents=True)
    done = call("systemd", action, "--user")
    assert (done.status, done.out) == (1, "")
    assert done.err == f"hwsigner: can't read {unit}: Is a directory. Check who may read it\n"


@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_nothing_is_written_where_systemd_is_missing(
    user_install: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, action: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = call("systemd", action, "--user")
    assert (done.status, done.out, user_install.exists()) == (1, "", False)
    assert done.err == "hwsigner: systemctl is not installed. Run this where systemd runs\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "install|uninstall is missing. Write hwsigner systemd install|uninstall"),
        (["install"], "systemd needs one of --system and --user"),
        (["install", "--user", "--system"], "systemd needs one of --system and --user"),
        (["start", "--user"], "systemd has no action 'start'"),
    ],
)
def test_invalid_arguments_exit_with_status_2(call: Callable[..., Outcome], arguments: list[str], message: str) -> None:
    done = call("systemd", *arguments)
    assert (done.status, done.out) == (2, "")
    assert message in done.err


def test_program_that_other_users_cannot_reach_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "closed" / "hwsigner"
    program.parent.mkdir(mode=0o700)
    program.touch(mode=0o755)
    with pytest.raises(hwsigner.errors.UsageError, match=f"can't reach {program}"):
        systemd._check_reachable(program)


def test_program_whose_path_a_unit_cannot_name_is_refused(
    user_install: Path, call: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "100 %" / "hwsigner"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    done = call("systemd", "install", "--user")
    assert done.status == 2
    assert "has characters that units can't name" in done.err
    assert not user_install.exists()


def test_program_in_a_home_folder_is_refused() -> None:
    with pytest.raises(hwsigner.errors.UsageError, match="is in a home folder"):
        systemd._check_reachable(Path("/home/alice/venv/bin/hwsigner"))


def test_program_for_every_user_is_accepted() -> None:
    systemd._check_reachable(Path("/usr/bin/env"))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program of root's behind links: bin/hwsigner -> ../opt/hwsigner, and opt -> real."""
    for folder in ("real", "bin"):
        (tmp_path / folder).mkdir(mode=0o755)
    (tmp_path / "real" / "hwsigner").touch(mode=0o755)
    (tmp_path / "opt").symlink_to(tmp_path / "real")
    (tmp_path / "bin" / "hwsigner").symlink_to("../opt/hwsigner")
    return tmp_path / "bin" / "hwsigner"


@pytest.mark.root
def test_program_that_only_root_can_change_is_accepted(program: Path) -> None:
    systemd._check_owner(program)
    systemd._check_owner(program / "in" / "a_zip.py")
    systemd._check_owner(Path("/usr/bin/env"))


@pytest.mark.root
@pytest.mark.parametrize("place", ["real/hwsigner", "real", "bin", "."])
@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_program_that_other_users_can_write_is_refused(program: Path, tmp_path: Path, place: str, mode: int) -> None:
    (tmp_path / place).chmod(mode)
    problem = f"root's units would run {program}, and other users can change .*{Path(place).name}.* mode {mode:04o}"
    with pytest.raises(hwsigner.errors.UsageError, match=problem) as caught:
        systemd._check_owner(program)
    assert "chmod go-w" in caught.value.hint


@pytest.mark.root
@pytest.mark.parametrize("place", ["real/hwsigner", "real", "bin", "bin/hwsigner", "opt", "."])
def test_program_that_belongs_to_another_user_is_refused(program: Path, tmp_path: Path, place: str) -> None:
    os.chown(tmp_path / place, 1234, -1, follow_symlinks=False)
    with pytest.raises(hwsigner.errors.UsageError, match="belongs to user 1234"):
        systemd._check_owner(program)


@pytest.mark.root
def test_units_of_root_do_not_run_what_other_users_can_write(
    program: Path, tmp_path: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    monkeypatch.setattr(systemd, "_check_reachable", lambda _: None)
    monkeypatch.setattr(systemd, "_is_packaged", lambda **_: False)
    monkeypatch.setattr(systemd, "write_file", lambda path, *_: written.append(path))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(sys, "argv", [str(program)])
    (tmp_path / "real").chmod(0o777)
    done = call("systemd", "install", "--system")
    assert (done.status, done.out, written) == (2, "", [])
    assert f"other users can change {tmp_path}" in done.err
