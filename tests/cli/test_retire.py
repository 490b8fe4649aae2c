"""`hwsigner retire`: all that ends is named first, and a second run completes the first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

import certs
from agent.homes import Home, run_agent
from emulator import planes
from emulators import InProcessSoftHSM
from hwsigner._cli import retire
from hwsigner._config import profiles as config
from hwsigner._system import systemd
from hwsigner.enrolment import retirement
from hwsigner.key.management import delete_key
from judges import needs_long_socket_paths, needs_systemd
from revocations import Account, Machine, account, denied, interrupted
from softhsm.tpm import SoftTPM
from terminals import Terminal

pytestmark = pytest.mark.process

__all__ = ["account"]

COMMENTED = "# First\n\n[profile.other]\nregion = 'eu-west-1' # keep\n\n# About web\n"
REST = "\n# Last\n[profile.third]\nregion = 'eu-west-2'\n"


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of config.toml; there is no system's file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(config, "SYSTEM_FILE", str(tmp_path / "none"))
    return tmp_path / "config"


@pytest.fixture
def machine(account: Account, config_home: Path) -> Machine:
    """A machine with the profile web, in a file with other profiles and comments."""
    made = account.machine()
    account.call("profile", "add", "web", *account.flags(made))
    file = config_home / "hwsigner" / "config.toml"
    file.write_text(COMMENTED + file.read_text() + REST)
    return made


def with_ca(account: Account, *flags: str) -> list[str]:
    folder = account.folder
    return [*flags, f"--ca-key={folder / 'ca.key'}", f"--ca={folder / 'ca.pem'}", f"--endpoint={account.emulator.url}"]


def is_retired(account: Account, machine: Machine, config_home: Path) -> bool:
    text = (config_home / "hwsigner" / "config.toml").read_text()
    return not machine.key.exists() and text == COMMENTED + REST


def test_certificate_key_and_profile_are_gone_and_the_rest_stays(
    account: Account, machine: Machine, config_home: Path
) -> None:
    assert account.call("credential-process", "--profile=web").status == 0
    copy = account.folder / "stolen.key"
    copy.write_bytes(machine.key.read_bytes())
    copy.chmod(0o600)
    outcome = account.call("retire", "web", "--yes", *with_ca(account, "--reason=cessationOfOperation"))
    assert (outcome.status, outcome.err) == (0, "")
    assert is_retired(account, machine, config_home)
    assert account.revoked() == {machine.serial}
    refused = account.credentials(Machine(machine.certificate, machine.path, copy))
    assert (refused.status, "revoked" in refused.err) == (5, True)


def test_all_is_named_before_anything_is_gone(
    account: Account, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool, int]] = []
    monkeypatch.setattr(
        retire, "print_outcome", lambda _, text: seen.append((text, machine.key.exists(), len(account.lists())))
    )
    assert account.call("retire", "web", "--yes", *with_ca(account)).status == 0
    named, key_is_there, lists = seen[0]
    assert (key_is_there, lists) == (True, 0)
    for words in (f"decimal {machine.serial}", str(machine.key), "[profile.web]", "import the first CRL"):
        assert words in named


def test_without_the_ca_it_says_what_an_administrator_must_do(
    account: Account, machine: Machine, config_home: Path
) -> None:
    outcome = account.call("retire", "web", "--yes")
    assert (outcome.status, outcome.err) == (0, "")
    command = (
        f"hwsigner aws revoke --serial 0x{machine.serial:x} --trust-anchor-arn {account.emulator.trust_anchor_arn}"
    )
    assert command in outcome.out
    assert is_retired(account, machine, config_home)
    assert account.lists() == []


def test_section_of_the_sdks_file_that_stays_is_named(account: Account, machine: Machine) -> None:
    out = account.call("retire", "web", "--yes").out
    assert "~/.aws/config stays as it is: remove a section there that names profile 'web'\n" in out


@needs_systemd
def test_timer_of_the_renewal_ends_before_anything_is_gone(
    account: Account, machine: Machine, config_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "_BOOTED", "/absent")
    link = config_home / "systemd" / "user" / "timers.target.wants" / "hwsigner-renew@web.timer"
    link.mkdir(parents=True)
    failed = account.call("retire", "web", "--yes")
    assert (failed.status, machine.key.exists()) == (1, True)
    assert f"the timer hwsigner-renew@web.timer is still enabled: {link}: Is a directory" in failed.err
    link.rmdir()
    link.symlink_to("/usr/lib/systemd/user/hwsigner-renew@.timer")
    outcome = account.call("retire", "web", "--yes")
    assert "done: disable the timer hwsigner-renew@web.timer" in outcome.out
    assert (outcome.status, link.is_symlink(), machine.key.exists()) == (0, False, False)


def test_registrar_that_lets_the_chip_renew_is_named(account: Account, machine: Machine) -> None:
    account.call("profile", "edit", "web", "--issuer=registrar", "--issuer-url=https://registrar.example.com:8443")
    assert "its chip can still get a new one" in account.call("retire", "web", "--yes").out


def test_profile_that_shares_the_key_is_named(account: Account, machine: Machine) -> None:
    account.call("profile", "add", "twin", *account.flags(machine))
    assert "Profile 'twin' names the same key" in account.call("retire", "web", "--yes").out


def test_profile_that_names_the_key_by_another_path_is_named(account: Account, machine: Machine) -> None:
    link = account.folder / "link.key"
    link.symlink_to(machine.key)
    account.call("profile", "add", "twin", *account.flags(Machine(machine.certificate, machine.path, link)))
    assert "Profile 'twin' names the same key" in account.call("retire", "web", "--yes").out


def test_profile_that_was_changed_after_it_was_shown_stays(
    account: Account, machine: Machine, config_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = config_home / "hwsigner" / "config.toml"
    changed = file.read_text().replace(str(machine.key), str(account.folder / "renewed.key"))

    def print_outcome(*_: str) -> None:
        file.write_text(changed)

    monkeypatch.setattr(retire, "print_outcome", print_outcome)
    outcome = account.call("retire", "web", "--yes")
    assert (outcome.status, "'web' has changed since it was shown" in outcome.err) == (1, True)
    assert file.read_text() == changed


def test_certificate_is_revoked_if_only_the_look_at_its_new_list_fails(account: Account, machine: Machine) -> None:
    with interrupted("GetCrl", denied("GetCrl")):
        assert account.call("retire", "web", "--yes", *with_ca(account)).status == 0
    assert account.revoked() == {machine.serial}
    assert not machine.key.exists()


@pytest.mark.parametrize("operation", ["GetTrustAnchor", "ListCrls", "ImportCrl"])
def test_nothing_is_deleted_when_the_certificate_can_t_be_revoked(
    account: Account, machine: Machine, operation: str
) -> None:
    with interrupted(operation, denied(operation)):
        outcome = account.call("retire", "web", "--yes", *with_ca(account))
    assert (outcome.status, f"rolesanywhere:{operation}" in outcome.err) == (5, True)
    assert machine.key.exists()
    assert account.call("profile", "list").out.count("web\t") == 1


@pytest.mark.parametrize("stage", ["revoke", "delete", "remove"])
def test_run_after_one_that_was_killed_completes_it(
    account: Account, machine: Machine, config_home: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if stage == "revoke":
            with interrupted("ImportCrl", KeyboardInterrupt(), after=True):
                assert account.call("retire", "web", "--yes", *with_ca(account)).status == 130
        elif stage == "delete":
            patch.setattr(
                retirement, "delete_key", lambda uri, ask, pins, **m: (delete_key(uri, ask, pins, **m), killed())
            )
            assert account.call("retire", "web", "--yes", *with_ca(account)).status == 130
            assert not machine.key.exists()
        else:
            patch.setattr(retirement, "remove_profile", killed)
            assert account.call("retire", "web", "--yes", *with_ca(account)).status == 130
    outcome = account.call("retire", "web", "--yes", *with_ca(account))
    assert (outcome.status, outcome.err) == (0, "")
    assert "was revoked at" in outcome.out
    assert ("is gone already" in outcome.out) == (stage != "revoke")
    assert is_retired(account, machine, config_home)
    assert account.revoked() == {machine.serial}


def test_missing_certificate_keeps_the_key_if_it_should_be_revoked(account: Account, machine: Machine) -> None:
    machine.path.unlink()
    outcome = account.call("retire", "web", "--yes", *with_ca(account))
    assert (outcome.status, outcome.out, machine.key.exists()) == (4, "", True)


@needs_long_socket_paths
def test_running_agent_closes_the_profile(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(account.folder, account.ca, account.emulator)
    home.write_profiles(web={}, other={})
    monkeypatch.setenv("XDG_CONFIG_HOME", home.environ["XDG_CONFIG_HOME"])
    with run_agent(home) as running:
        assert b'"Version"' in running.get("web")
        assert account.call("retire", "web", "--yes").status == 0
        assert b'"Version"' not in running.get("web")
        assert b'"Version"' in running.get("other")


def test_profile_in_a_file_that_can_t_be_changed_keeps_everything(
    account: Account, machine: Machine, config_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, access = str(config_home / "hwsigner"), os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and (str(path), mode) != (folder, os.W_OK))
    outcome = account.call("retire", "web", "--yes", *with_ca(account))
    assert (outcome.status, outcome.out, machine.key.exists(), account.lists()) == (1, "", True, [])
    hint = "Run it as the owner. If its file system is read-only here, run it where it is not"
    problem = f"you can't change {folder}/config.toml, which has profile 'web'"
    assert outcome.err == f"hwsigner: {problem}. {hint}\n"


@pytest.mark.parametrize("data", [b"", b"damaged", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_key_that_can_t_be_read_is_not_taken_for_gone(account: Account, machine: Machine, data: bytes) -> None:
    machine.key.write_bytes(data)
    outcome = account.call("retire", "web", "--yes", *with_ca(account))
    assert (outcome.status, outcome.out, machine.key.exists(), account.lists()) == (3, "", True, [])
    assert "keep the key with --keep-key" in outcome.err


def test_key_stays_if_asked(account: Account, machine: Machine, config_home: Path) -> None:
    outcome = account.call("retire", "web", "--yes", "--keep-key", *with_ca(account))
    assert (outcome.status, outcome.err, machine.key.exists()) == (0, "", True)
    assert f"The key {machine.key} stays" in outcome.out
    assert account.revoked() == {machine.serial}
    assert (config_home / "hwsigner" / "config.toml").read_text() == COMMENTED + REST


def test_pin_in_the_profile_is_not_shown(account: Account, machine: Machine) -> None:
    uri = f"file:{machine.key}?pin-value=secret-pin"
    for flags in (["--keep-key"], []):
        account.call("profile", "add", "pin", f"--certificate={machine.path}", f"--private-key={uri}")
        outcome = account.call("retire", "pin", "--yes", *flags)
        assert str(machine.key) in outcome.out
        assert "secret-pin" not in outcome.out + outcome.err


def test_unknown_profile_is_an_error(account: Account) -> None:
    outcome = account.call("retire", "web", "--yes")
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)


def test_profile_without_a_key_gets_the_command_that_removes_it(account: Account) -> None:
    account.call("profile", "add", "db", "--role-arn=arn:aws:iam::123456789012:role/db")
    outcome = account.call("retire", "db", "--yes")
    assert (outcome.status, outcome.err) == (
        2,
        "hwsigner: profile 'db' names no key. Run hwsigner profile remove db\n",
    )


def test_profile_that_selects_its_certificate_is_not_removed_before_its_key(account: Account) -> None:
    account.call("profile", "add", "db", "--cert-selector=Key=x509Subject,Value=CN=db")
    outcome = account.call("retire", "db", "--yes")
    hint = "Run hwsigner delete KEY-URI, then hwsigner profile remove db"
    assert (outcome.status, outcome.err) == (2, f"hwsigner: profile 'db' names no key. {hint}\n")


COMMAND = (sys.executable, "-m", "hwsigner", "retire", "web")


@pytest.mark.slow
def test_each_step_is_asked_for(account: Account, machine: Machine, config_home: Path, terminal: Terminal) -> None:
    keys = {"AWS_ACCESS_KEY_ID": planes.KEY[0], "AWS_SECRET_ACCESS_KEY": planes.KEY[1]}
    process = terminal.start(*COMMAND, *with_ca(account), XDG_CONFIG_HOME=str(config_home), **keys)
    for verb in ("revoke", "delete", "remove"):
        shown = terminal.shown_until(f"Type yes to {verb} it: ")
        assert verb in shown
        terminal.type(b"yes\n")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert b"A running agent closes the profile" in out
    assert is_retired(account, machine, config_home)


def test_refused_step_ends_it(account: Account, machine: Machine, config_home: Path, terminal: Terminal) -> None:
    process = terminal.start(*COMMAND, XDG_CONFIG_HOME=str(config_home))
    terminal.shown_until("Type yes to delete it: ")
    terminal.type(b"no\n")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, machine.key.exists()) == (1, True)
    assert err.startswith(b"hwsigner: nothing was deleted")
    assert account.call("profile", "list").out.count("web\t") == 1


def test_without_a_terminal_it_needs_yes(account: Account, machine: Machine, config_home: Path) -> None:
    environ = {"PATH": "/usr/bin:/bin", "XDG_CONFIG_HOME": str(config_home)}
    ran = subprocess.run(COMMAND, capture_output=True, start_new_session=True, env=environ)
    assert (ran.returncode, machine.key.exists()) == (2, True)
    assert b"--yes" in ran.stderr


class TestHardware:
    @pytest.mark.slow
    def test_key_and_certificate_in_a_token_are_gone(self, account: Account, softhsm: InProcessSoftHSM) -> None:
        pin = account.folder / "pin"
        pin.touch(0o600)
        pin.write_text(softhsm.pin)
        uri = softhsm.uri("web", pin)
        self.live_and_retire(account, uri, uri)

    @pytest.mark.slow
    def test_key_and_certificate_in_a_tpm_are_gone(self, account: Account, swtpm: SoftTPM) -> None:
        uri, index = f"tpm2:handle=0x81000777?tcti={swtpm.tcti}", "0x01c20077"
        self.live_and_retire(account, uri, f"tpm2:nv={index}?tcti={swtpm.tcti}", "--nv-index", index)

    def live_and_retire(self, account: Account, uri: str, certificate: str, *install: str) -> None:
        """Make a key, get it a certificate and credentials, and retire it."""
        request, issued = account.folder / "web.csr", account.folder / "issued.pem"
        assert account.call("keygen", uri).status == 0
        assert account.call("csr", uri, "--subject=CN=web,OU=devops", f"--out={request}").status == 0
        leaf = certs.issue(account.ca, x509.load_pem_x509_csr(request.read_bytes()).public_key(), certs.Shape("web"))
        issued.write_bytes(certs.pem(leaf))
        assert account.call("install-certificate", issued, uri, *install).status == 0
        flags = [*account.flags(Machine(leaf, issued, issued))]
        flags = [flag for flag in flags if not flag.startswith(("--certificate", "--private-key"))]
        account.call("profile", "add", "web", *flags, f"--certificate={certificate}", f"--private-key={uri}")
        assert account.call("credential-process", "--profile=web").status == 0
        outcome = account.call("retire", "web", "--yes", *with_ca(account))
        assert (outcome.status, outcome.err) == (0, "")
        assert account.revoked() == {leaf.serial_number}
        assert account.call("show", uri).status == 3
        assert account.call("profile", "list").out == ""
