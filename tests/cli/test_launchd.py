"""`hwsigner launchd`: the property lists that it writes, by the rules of launchd.plist(5), and what it refuses.

launchd itself is not here.
"""

from __future__ import annotations

import os
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from hwsigner._agent.client import user_address
from hwsigner._config import profiles
from hwsigner._system import launchd
from judges import needs_linux
from scene import Outcome

Call = Callable[..., Outcome]
PROGRAM = Path(sys.executable).with_name("hwsigner")
SERVICES = (("agent",), ("renew", "web"), ("serve", "web"), ("update", "web"))
# What launchd.plist(5) says of the keys.
TYPES: dict[str, Any] = {
    "Label": str,
    "ProgramArguments": [str],
    "EnvironmentVariables": {"*": str},
    "StandardErrorPath": str,
    "Umask": int,
    "SoftResourceLimits": {"Core": int},
    "HardResourceLimits": {"Core": int},
    "RunAtLoad": bool,
    "KeepAlive": {"SuccessfulExit": bool},
    "ThrottleInterval": int,
    "StartInterval": int,
    "StartCalendarInterval": [{"Minute": int}],
}
SOCKET = {
    **dict.fromkeys(("SockType", "SockNodeName", "SockServiceName", "SockFamily", "SockPathName"), str),
    "SockPathMode": int,
}


def check_types(value: object, wanted: Any, place: str) -> None:
    """Check a value of a property list. Python's True is an int, and launchd's is not."""
    if isinstance(wanted, dict):
        assert isinstance(value, dict), place
        for key, one in value.items():
            assert isinstance(key, str)
            assert key in wanted or "*" in wanted, f"{place} has {key}"
            check_types(one, wanted.get(key, wanted.get("*")), f"{place} {key}")
    elif isinstance(wanted, list):
        assert isinstance(value, list), place
        assert value, place
        for one in value:
            check_types(one, wanted[0], place)
    else:
        assert type(value) is wanted, f"{place} is {value!r}"


def check(path: Path) -> dict[str, Any]:
    """Return a property list, once it is known to be one that launchd takes."""
    status = path.stat()
    assert (status.st_mode & 0o7777, status.st_uid, path.is_symlink()) == (0o644, os.getuid(), False)
    assert ET.fromstring(path.read_text()).tag == "plist"
    job: dict[str, Any] = plistlib.loads(path.read_bytes())
    sockets = job.get("Sockets", {}).get("Listeners", [])
    listed = [sockets] if isinstance(sockets, dict) else sockets
    check_types({key: value for key, value in job.items() if key != "Sockets"}, TYPES, "the list")
    for one in listed:
        check_types(one, SOCKET, "Sockets")
    assert path.name == f"{job['Label']}.plist"
    assert os.path.isabs(job["ProgramArguments"][0])
    assert os.access(job["ProgramArguments"][0], os.X_OK)
    assert os.path.isabs(job["StandardErrorPath"])
    return job


@pytest.fixture
def mac(tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of a user of a Mac, who is not root, with the profiles `web` and `a@b.c`."""
    home = tmp_path / "Ada's <home> & more"
    (home / ".config/hwsigner").mkdir(parents=True)
    (home / ".config/hwsigner/config.toml").write_text('[profile.web]\n[profile."a@b.c"]\n')
    monkeypatch.setattr(profiles, "SYSTEM_FILE", str(tmp_path / "absent.toml"))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(sys, "argv", [str(PROGRAM)])
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() or 501)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    return home


def lists(mac: Path) -> Path:
    return mac / "Library" / "LaunchAgents"


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service[0])
def test_property_list_is_one_that_launchd_takes(mac: Path, call: Call, service: tuple[str, ...]) -> None:
    done = call("launchd", "install", *service)
    assert (done.status, done.err) == (0, "")
    path = lists(mac) / f"{'.'.join(('hwsigner', *service))}.plist"
    job = check(path)
    assert job["ProgramArguments"][:2] == [str(PROGRAM), service[0]]
    assert job["EnvironmentVariables"]["XDG_RUNTIME_DIR"] == os.environ["XDG_RUNTIME_DIR"]
    assert job["Umask"] == 0o077
    assert job["SoftResourceLimits"] == job["HardResourceLimits"] == {"Core": 0}
    assert call("launchd", "show", *service).out == path.read_text()


def test_agent_is_started_by_its_first_client_where_clients_look(mac: Path, call: Call) -> None:
    call("launchd", "install")
    job = check(lists(mac) / "hwsigner.agent.plist")
    socket = job["Sockets"]["Listeners"]
    assert (socket["SockPathName"], socket["SockPathMode"]) == (user_address(os.environ).socket, 0o600)
    assert not {"RunAtLoad", "KeepAlive"} & job.keys()
    folder = Path(socket["SockPathName"]).parent  # launchd does not make it.
    assert folder.stat().st_mode & 0o7777 == 0o700


def test_renewal_looks_four_times_an_hour_or_as_often_as_asked(mac: Path, call: Call) -> None:
    call("launchd", "install", "renew", "web")
    job = check(lists(mac) / "hwsigner.renew.web.plist")
    assert job["ProgramArguments"][1:] == ["renew", "--if-due", "web"]
    minutes = [each["Minute"] for each in job["StartCalendarInterval"]]
    assert [later - first for first, later in pairwise(minutes)] == [15, 15, 15]
    assert 0 <= minutes[0] < 15
    call("launchd", "install", "renew", "web", "--every", "20")
    job = check(lists(mac) / "hwsigner.renew.web.plist")
    assert (job["StartInterval"], job["RunAtLoad"]) == (20, True)
    assert "StartCalendarInterval" not in job


def test_serve_has_its_port_held_by_launchd(mac: Path, call: Call) -> None:
    call("launchd", "install", "serve", "web", "--port", "9912")
    job = check(lists(mac) / "hwsigner.serve.web.plist")
    sockets = job["Sockets"]["Listeners"]
    assert {(one["SockNodeName"], one["SockServiceName"]) for one in sockets} == {
        ("127.0.0.1", "9912"),
        ("::1", "9912"),
    }
    assert job["ProgramArguments"][1:] == ["serve", "web", "--port", "9912"]


def test_update_writes_the_section_of_its_profile_and_not_the_users_default(mac: Path, call: Call) -> None:
    call("launchd", "install", "update", "a@b.c")
    job = check(lists(mac) / "hwsigner.update.a@b.c.plist")
    assert job["ProgramArguments"][1:] == ["update", "--config-profile", "a@b.c", "--profile", "a@b.c"]


def test_install_prints_the_commands_that_load_and_stop_it(mac: Path, call: Call) -> None:
    done = call("launchd", "install", "renew", "web")
    commands = [shlex.split(found) for found in re.findall(r": (launchctl [^;\n]+)", done.out)]
    domain = f"gui/{os.getuid()}"
    assert commands == [
        ["launchctl", "bootout", f"{domain}/hwsigner.renew.web"],
        ["launchctl", "bootstrap", domain, str(lists(mac) / "hwsigner.renew.web.plist")],
        ["launchctl", "kickstart", "-k", f"{domain}/hwsigner.renew.web"],
        ["launchctl", "print", f"{domain}/hwsigner.renew.web"],
    ]


def test_install_changes_nothing_when_it_runs_again(mac: Path, call: Call) -> None:
    call("launchd", "install", "renew", "web")
    path = lists(mac) / "hwsigner.renew.web.plist"
    before = path.stat().st_ino
    assert f"unchanged {path}" in call("launchd", "install", "renew", "web").out
    assert path.stat().st_ino == before


def test_program_in_a_folder_with_an_odd_name_is_run(mac: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    program = mac / 'bin "quoted" & <more> $HOME %i é' / "hwsigner"
    program.parent.mkdir()
    shutil.copy(PROGRAM, program)
    monkeypatch.setattr(sys, "argv", [str(program)])
    call("launchd", "install", "renew", "web")
    job = check(lists(mac) / "hwsigner.renew.web.plist")
    assert job["ProgramArguments"][0] == str(program)
    done = subprocess.run([job["ProgramArguments"][0], "version"], capture_output=True, text=True)
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["a\nb", "a\x1bb", "a\udcffb"])
def test_path_that_no_property_list_can_have_is_refused(
    mac: Path, call: Call, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program = mac / name / "hwsigner"
    program.parent.mkdir()
    shutil.copy(PROGRAM, program)
    monkeypatch.setattr(sys, "argv", [str(program)])
    done = call("launchd", "install", "renew", "web")
    assert (done.status, done.out) == (2, "")
    assert "can't be written into a property list" in done.err
    assert not lists(mac).exists()


@pytest.mark.parametrize("name", ["nosuch", 'a"b', "a\nb", "<&>", "../x", "-x", "a b"])
def test_profile_that_is_not_there_is_refused(mac: Path, call: Call, name: str) -> None:
    done = call("launchd", "install", "renew", name)
    assert (done.status, done.out) == (2, "")
    assert not lists(mac).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("instal",),
        ("install", "agnet"),
        ("install", "renew"),
        ("install", "agent", "web"),
        ("install", "--every", "60"),
        ("install", "renew", "web", "--every", "9"),
        ("install", "renew", "web", "--port", "80"),
        ("uninstall", "serve", "web", "--port", "80"),
        ("uninstall", "renew"),
        ("install", "renew", "web", "web"),
    ],
)
def test_wrong_arguments_are_refused(mac: Path, call: Call, arguments: tuple[str, ...]) -> None:
    done = call("launchd", *arguments)
    assert (done.status, done.out) == (2, "")
    assert not lists(mac).exists()


def test_root_has_no_agents(mac: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    done = call("launchd", "install")
    assert (done.status, done.out) == (2, "")
    assert "without sudo" in done.err


def test_uninstall_takes_what_install_wrote_and_nothing_else(mac: Path, call: Call) -> None:
    call("launchd", "install")
    call("launchd", "install", "renew", "web")
    call("launchd", "install", "renew", "a@b.c")
    (lists(mac) / "hwsigner.mine.plist").write_text("<plist/>\n")
    (lists(mac) / "com.example.plist").touch()
    done = call("launchd", "uninstall", "renew", "web")
    assert f"launchctl bootout gui/{os.getuid()}/hwsigner.renew.web\n" in done.out
    assert not (lists(mac) / "hwsigner.renew.web.plist").exists()
    done = call("launchd", "uninstall")
    assert (done.status, done.err) == (0, "")
    assert {path.name for path in lists(mac).iterdir()} == {"hwsigner.mine.plist", "com.example.plist"}
    assert re.findall("bootout .*/(.*)", done.out) == ["hwsigner.agent", "hwsigner.renew.a@b.c"]
    assert call("launchd", "uninstall").out == f"nothing to remove in {lists(mac)}\n"


def test_uninstall_works_without_the_profile(mac: Path, call: Call) -> None:
    call("launchd", "install", "renew", "web")
    (mac / ".config/hwsigner/config.toml").unlink()
    assert call("launchd", "uninstall", "renew", "web").status == 0
    assert list(lists(mac).iterdir()) == []


def test_file_of_another_program_is_neither_replaced_nor_removed(mac: Path, call: Call) -> None:
    lists(mac).mkdir(parents=True)
    path = lists(mac) / "hwsigner.renew.web.plist"
    path.write_text("<plist/>\n<!-- -->\nWritten by `hwsigner launchd install`.\n")
    for action in ("install", "uninstall"):
        done = call("launchd", action, "renew", "web")
        assert (done.status, done.out) == (2, "")
        assert "was not written by hwsigner launchd install" in done.err
    assert path.exists()


def test_two_profiles_whose_files_macos_takes_for_one_are_refused(mac: Path, call: Call) -> None:
    with (mac / ".config/hwsigner/config.toml").open("a") as file:
        file.write("[profile.WEB]\n")
    call("launchd", "install", "renew", "web")
    done = call("launchd", "install", "renew", "WEB")
    assert (done.status, done.out) == (2, "")
    assert "hwsigner.renew.web.plist" in done.err


def test_socket_with_a_path_that_macos_has_no_room_for_is_refused(
    mac: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"/{'x' * 90}")
    done = call("launchd", "install")
    assert (done.status, done.out) == (2, "")
    assert "longer than 103 bytes" in done.err


def test_folder_of_the_socket_that_others_can_use_is_refused(mac: Path, call: Call) -> None:
    folder = Path(os.environ["XDG_RUNTIME_DIR"], "hwsigner")
    folder.mkdir()
    folder.chmod(0o755)
    done = call("launchd", "install")
    assert done.status == 1
    assert "only you can use" in done.err
    assert not lists(mac).exists()


@needs_linux
def test_systemd_and_launchd_name_each_other(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    on_linux = call("launchd", "install")
    assert (on_linux.status, on_linux.out) == (2, "")
    assert on_linux.err == "hwsigner: hwsigner launchd needs macOS. On Linux, use hwsigner systemd install --user\n"
    monkeypatch.setattr(sys, "platform", "darwin")
    on_mac = call("systemd", "install", "--user")
    assert on_mac.status
    assert "needs Linux. Use hwsigner launchd install" in on_mac.err


def test_files_are_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/Users/ada")
    assert launchd.file_of("hwsigner.agent") == "/Users/ada/Library/LaunchAgents/hwsigner.agent.plist"
