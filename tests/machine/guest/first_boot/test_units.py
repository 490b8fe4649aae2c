"""The units on a machine that has just booted: installed, started, killed, stopped, reloaded."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from pathlib import Path

import pytest

from machine.guest.commands import (
    BIN,
    CONFIG,
    ENDPOINT,
    PACKAGES,
    agent_pid,
    credentials,
    done,
    run,
    user_environment,
    wait_until,
)
from machine.guest.first_boot.setting_up import HWSIGNER, PASSWORD, Machine, tpm2
from softhsm.piv_state import PIN

DROP_INS = Path("/etc/systemd/system/hwsigner-agent.service.d")
SERIAL = 10000001  # of the emulated YubiKey
# A program that gets a URL with a token.
GET = """\
import sys, urllib.request
url, token = sys.argv[1:]
print(urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": token})).read().decode())
"""


@pytest.mark.skipif(bool(PACKAGES), reason="the package has the units")
def test_install_writes_the_units_once(machine: Machine) -> None:
    first = done(HWSIGNER, "systemd", "install", "--system")
    assert len(re.findall(r"wrote (/etc/systemd/system/\S+)", first)) == 10
    assert "wrote" not in done(HWSIGNER, "systemd", "install", "--system")


@pytest.mark.skipif(not PACKAGES, reason="install has written the units")
def test_package_brings_the_units_and_starts_none(machine: Machine) -> None:
    assert "a package has put the units" in run(HWSIGNER, "systemd", "install", "--system").stderr
    # The status is not 0 if there are none.
    for listed in (("list-units",), ("list-unit-files", "--state=enabled")):
        assert run("systemctl", *listed, "--no-legend", "hwsigner-*").stdout == ""


def test_units_are_closed_and_systemd_understands_them(machine: Machine) -> None:
    folder = Path("/usr/lib/systemd/system" if PACKAGES else "/etc/systemd/system")
    units = [str(path) for path in folder.glob("hwsigner-*.*")]
    assert len(units) == 10
    assert "SupplementaryGroups=tss" in (folder / "hwsigner-agent.service").read_text()
    verified = run("systemd-analyze", "--man=no", "verify", *(unit.replace("@.", "@web.") for unit in units))
    assert (verified.returncode, verified.stderr) == (0, "")
    for unit in units:
        if unit.endswith(".service"):
            level = re.search(
                r"exposure level for \S+: ([0-9.]+)", done("systemd-analyze", "security", "--offline=true", unit)
            )
            assert level, unit
            # The renewal writes files as root.
            assert float(level[1]) <= (2.4 if "hwsigner-renew@" in unit else 2.0), unit


def test_system_agent_starts_with_its_first_client(machine: Machine) -> None:
    machine.profile("web", "handle:0x81000110", 'allow-users = ["www-data"]')
    done("chgrp", "hwsigner", CONFIG)
    CONFIG.chmod(0o640)
    done("systemctl", "enable", "--now", "hwsigner-agent.socket")
    assert agent_pid() == 0
    assert "SessionToken" in credentials("web", "www-data")
    assert agent_pid() != 0


def test_agent_refuses_a_user_that_allow_users_does_not_name(machine: Machine) -> None:
    refused = run(BIN / "hwsigner-credentials", "--profile", "web", user="alice")
    assert refused.returncode == 7
    assert "allow-users" in refused.stderr


def test_killed_agent_comes_back(machine: Machine) -> None:
    pid = agent_pid()
    os.kill(pid, signal.SIGKILL)
    assert "SessionToken" in credentials("web", "www-data")
    wait_until(lambda: agent_pid() not in (0, pid))


@pytest.mark.parametrize("is_running", [True, False])
def test_socket_comes_back_when_its_folder_is_removed(machine: Machine, is_running: bool) -> None:
    if not is_running:
        done("systemctl", "stop", "hwsigner-agent.service")
    done("rm", "-rf", "/run/hwsigner")
    wait_until(Path("/run/hwsigner/agent.sock").exists)
    assert "SessionToken" in credentials("web", "www-data")


def test_client_says_that_the_socket_is_gone(machine: Machine) -> None:
    done("systemctl", "stop", "hwsigner-agent.socket")
    done("rm", "-rf", "/run/hwsigner")
    refused = run(BIN / "hwsigner-credentials", "--profile", "web", user="www-data")
    assert refused.returncode == 7
    assert "no agent listens at /run/hwsigner/agent.sock" in refused.stderr
    assert not Path("/run/hwsigner").exists()
    done("systemctl", "start", "hwsigner-agent.socket")
    assert "SessionToken" in credentials("web", "www-data")


def test_watchdog_ends_a_stopped_agent(machine: Machine) -> None:
    DROP_INS.mkdir()
    (DROP_INS / "watchdog.conf").write_text("[Service]\nWatchdogSec=8\n")
    done("systemctl", "daemon-reload")
    done("systemctl", "restart", "hwsigner-agent.service")
    pid = agent_pid()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: agent_pid() not in (0, pid))
    assert "SessionToken" in credentials("web", "www-data")


def test_client_waits_for_an_agent_whose_first_start_hangs(machine: Machine) -> None:
    """systemd ends the start after TimeoutStartSec, and tries again."""
    hang = "ExecStartPre=/bin/sh -c 'mkdir /var/lib/hwsigner/started && sleep 1000 || true'"
    (DROP_INS / "hang.conf").write_text(f"[Service]\nTimeoutStartSec=8\n{hang}\n")
    done("systemctl", "daemon-reload")
    done("systemctl", "restart", "--no-block", "hwsigner-agent.service")
    try:
        wait_until(Path("/var/lib/hwsigner/started").exists)
        assert "SessionToken" in credentials("web", "www-data")
    finally:
        (DROP_INS / "hang.conf").unlink()
        done("systemctl", "daemon-reload")
        done("systemctl", "restart", "hwsigner-agent.service")


def test_refusal_is_a_warning_in_the_journal(machine: Machine) -> None:
    command = ("journalctl", "--no-pager", "-o", "cat", "-u", "hwsigner-agent.service")
    assert "profile 'web': user 1000 was refused" in done(*command, "-p", "warning")
    assert "session created" in done(*command)
    assert "session created" not in done(*command, "-p", "warning")


def test_key_goes_from_an_empty_handle_to_a_role_and_away_again(machine: Machine) -> None:
    key = "handle:0x81000112"
    done(HWSIGNER, "keygen", key)
    leaf = Path("/tmp/life.pem")
    leaf.write_bytes(machine.certify("life", key))
    installed = json.loads(done(HWSIGNER, "install-certificate", leaf, key, "--nv-index=0x01c20000", "--json"))
    assert json.loads(done(HWSIGNER, "show", key, "--json"))["properties"]["fixedTPM"] is True
    flags = [*machine.flags, f"--certificate={installed['certificate']}", f"--private-key={installed['privateKey']}"]
    session = done(HWSIGNER, "credential-process", f"--endpoint={ENDPOINT}", *flags)
    assert "SessionToken" in session
    done(HWSIGNER, "delete", key, "--yes")
    assert run(HWSIGNER, "show", key).returncode == 3


def test_reload_brings_a_new_profile(machine: Machine) -> None:
    machine.profile("late", "handle:0x81000110", 'allow-users = ["alice"]')
    done("systemctl", "reload", "hwsigner-agent.service")
    assert "SessionToken" in credentials("late", "alice")


def test_pin_comes_from_an_encrypted_credential(machine: Machine) -> None:
    done(HWSIGNER, "keygen", "handle:0x81000111", HWSIGNER_PIN=PASSWORD)
    machine.profile("pin", "handle:0x81000111", 'allow-users = ["alice"]', pin=PASSWORD)
    sealed = Path("/etc/credstore.encrypted/hwsigner.profile-pin.pin")
    sealed.parent.mkdir(exist_ok=True)
    done("systemd-creds", "encrypt", "--with-key=tpm2", f"--name={sealed.name}", "-", sealed, input=PASSWORD)
    (DROP_INS / "pin.conf").write_text(f"[Service]\nLoadCredentialEncrypted={sealed.name}:{sealed}\n")
    done("systemctl", "daemon-reload")
    done("systemctl", "restart", "hwsigner-agent.service")
    assert "SessionToken" in credentials("pin", "alice")
    assert "SessionToken" in credentials("web", "www-data")


def test_unit_with_a_dynamic_user_is_served_by_its_group_and_has_its_audit_line(machine: Machine) -> None:
    before = CONFIG.read_text()
    done("groupadd", "--system", "aws-web")
    machine.profile("dynamic", "handle:0x81000110", 'allow-users = ["@aws-web"]')
    with CONFIG.open("a") as config:
        config.write('[monitoring]\naudit-log = "/var/log/hwsigner/audit.log"\naudit = "required"\n')
    (DROP_INS / "proc.conf").write_text("[Service]\nProtectProc=default\n")
    done("systemctl", "daemon-reload")
    done("systemctl", "restart", "hwsigner-agent.service")
    unit = ("systemd-run", "--wait", "--pipe", "--property=DynamicUser=yes")
    ask = (str(BIN / "hwsigner-credentials"), "--profile", "dynamic")
    asked = done(
        *unit, "--unit=dynamic", "--property=SupplementaryGroups=aws-web", "sh", "-c", f"id -u; {' '.join(ask)}"
    )
    uid, _, printed = asked.partition("\n")
    assert "SessionToken" in json.loads(printed)
    assert run(*unit, *ask).returncode == 7
    [line] = map(json.loads, Path("/var/log/hwsigner/audit.log").read_text().splitlines())
    assert (line["uid"], line["profile"], line["unit"]) == (int(uid), "dynamic", "dynamic.service")
    assert line["pidfd_id"] > 0
    CONFIG.write_text(before)
    (DROP_INS / "proc.conf").unlink()
    done("systemctl", "daemon-reload")
    done("systemctl", "restart", "hwsigner-agent.service")


def test_key_comes_from_a_credential_and_is_not_warned_of(machine: Machine) -> None:
    key = Path("/etc/credstore.encrypted/file.key")
    plain = Path("/run/file.key")
    done(HWSIGNER, "keygen", plain)
    done("systemd-creds", "encrypt", "--with-key=tpm2", f"--name={key.name}", plain, key)
    machine.profile("file", str(plain), 'allow-users = ["alice"]')
    plain.unlink()
    given = Path("/run/credentials/hwsigner-agent.service", key.name)
    CONFIG.write_text(CONFIG.read_text().replace(str(plain), str(given)))
    (DROP_INS / "key.conf").write_text(f"[Service]\nLoadCredentialEncrypted={key.name}:{key}\n")
    done("systemctl", "daemon-reload")
    done("systemctl", "restart", "hwsigner-agent.service")
    assert "SessionToken" in credentials("file", "alice")
    status = given.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) in ((0o440, 0), (0o400, int(done("id", "-u", "hwsigner"))))
    assert str(given) not in done(
        "journalctl", "--no-pager", "-o", "cat", "-u", "hwsigner-agent.service", "-p", "warning"
    )
    unit = (
        "systemd-run",
        "--wait",
        "--pipe",
        "--property=DynamicUser=yes",
        f"--property=LoadCredentialEncrypted={key.name}:{key}",
    )
    done(
        *unit, "sh", "-c", f"{HWSIGNER} csr --strict $CREDENTIALS_DIRECTORY/{key.name} --subject=CN=x --out=/tmp/x.csr"
    )


def test_key_with_a_policy_signs_until_its_pcr_changes(machine: Machine) -> None:
    file = Path("/etc/hwsigner/pcr-key.pem")
    done(HWSIGNER, "keygen", f"tpm2:path={file}", "--pcrs=sha256:16")
    machine.profile("pcr", str(file), 'allow-users = ["alice"]')
    done("chown", "hwsigner", file)
    done("systemctl", "reload", "hwsigner-agent.service")
    assert "SessionToken" in credentials("pcr", "alice")
    tpm2("pcrextend", f"16:sha256={'ab' * 32}")
    done("systemctl", "restart", "hwsigner-agent.service")
    refused = run(BIN / "hwsigner-credentials", "--profile", "pcr", user="alice")
    assert refused.returncode == 3
    assert "PCR sha256:16 has another value than the policy wants" in refused.stderr
    tpm2("pcrreset", "16")
    done("systemctl", "restart", "hwsigner-agent.service")
    assert "SessionToken" in credentials("pcr", "alice")


def test_user_agent_runs_with_linger(machine: Machine) -> None:
    home = Path("/home/alice")
    key = home / "key.pem"
    done(HWSIGNER, "keygen", key, user="alice")
    config = home / ".config" / "hwsigner" / "config.toml"
    config.parent.mkdir(parents=True)
    machine.profile("own", str(key), file=config, user="alice")
    done("chown", "-R", "alice:alice", home)
    done("loginctl", "enable-linger", "alice")
    wait_until(lambda: run("systemctl", "is-active", "user@1000.service").stdout.strip() == "active")
    environment = user_environment("alice")
    if not PACKAGES:
        done(HWSIGNER, "systemd", "install", "--user", user="alice", **environment)
    done("systemctl", "--user", "enable", "--now", "hwsigner-agent.socket", user="alice", **environment)
    assert "SessionToken" in credentials("own", "alice", **environment)

    def is_ready() -> bool:
        return "own\tready" in done(HWSIGNER, "agent", "status", user="alice", **environment)

    wait_until(lambda: is_ready() or not credentials("own", "alice", **environment))


def test_serve_gives_credentials_at_a_port_that_systemd_holds(machine: Machine) -> None:
    done("systemctl", "enable", "--now", "hwsigner-serve@web.socket")
    done("systemctl", "enable", "--now", "hwsigner-serve@web.service")
    token = Path("/var/lib/hwsigner-serve/web").rglob("*token*")
    found = next(path for path in token if path.is_file()).read_text()
    get = ("/usr/bin/python3", "-c", GET, "http://127.0.0.1:9911/credentials/web", found)
    # Until the first session is there, the answer is 503.
    wait_until(lambda: run(*get, user="hwsigner").returncode == 0)
    answer = done(*get, user="hwsigner")
    assert json.loads(answer)["RoleArn"].startswith("arn:aws:iam::")


def test_agent_uses_a_yubikey_through_pcscd_with_polkit(machine: Machine) -> None:
    done("systemctl", "start", "pcscd.service")
    card = ("/opt/pytest/bin/python", "/tests/machine/guest/card.py", "/run/card")
    done("systemd-run", "--unit=card", "--setenv=PYTHONPATH=/tests", *card)
    wait_until(lambda: Path("/run/card/public.der").exists())
    uri = Path("/run/card/uri").read_text()
    machine.profile("card", uri, 'allow-users = ["alice"]', pin=PIN)
    (DROP_INS / "card.conf").write_text(f"[Service]\nSetCredential=hwsigner.pin.{SERIAL}:{PIN}\n")
    done("systemctl", "daemon-reload")
    done("systemctl", "restart", "hwsigner-agent.service")
    assert "SessionToken" in credentials("card", "alice")


def test_user_without_a_seat_is_told_of_polkit(machine: Machine) -> None:
    refused = run(HWSIGNER, "list", user="alice")
    assert refused.returncode != 0
    assert "polkit" in refused.stderr
