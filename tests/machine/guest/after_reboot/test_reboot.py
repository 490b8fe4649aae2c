"""The same machine after a reboot: everything answers by itself."""

from __future__ import annotations

from machine.guest.commands import credentials, done, run, user_environment, wait_until


def test_first_caller_after_boot_gets_credentials() -> None:
    assert "SessionToken" in credentials("web", "www-data")


def test_pin_is_there_after_boot() -> None:
    assert "SessionToken" in credentials("pin", "alice")


def test_lingering_user_has_an_agent_after_boot() -> None:
    wait_until(lambda: run("systemctl", "is-active", "user@1000.service").stdout.strip() == "active")
    assert "SessionToken" in credentials("own", "alice", **user_environment("alice"))


def test_enrolled_profile_its_timer_and_the_registrar_are_there_after_boot() -> None:
    assert "SessionToken" in credentials("hosted", "alice")
    for unit in ("hwsigner-renew@hosted.timer", "hwsigner-registrar.service"):
        assert done("systemctl", "is-active", unit).strip() == "active"
