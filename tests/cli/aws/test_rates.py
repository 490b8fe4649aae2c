"""The commands for the AWS side when AWS takes one request a second for each kind of resource, without a burst."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import certs
from emulator.test_rates import Clock
from hwsigner._aws import failures
from hwsigner._control_plane import plan
from hwsigner.emulator import Emulator, Fault, World
from scene import Outcome

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDADMIN", "AWS_SECRET_ACCESS_KEY": "an-admins-secret"}


@dataclass
class Place:
    """An empty account, whose clock goes on only while a command waits."""

    emulator: Emulator
    folder: Path
    call: Callable[..., Outcome]
    ca: certs.Authority
    clock: Clock

    def run(self, name: str, *arguments: str) -> Outcome:
        return self.call("aws", name, *arguments, f"--endpoint={self.emulator.url}")

    def setup(self) -> Outcome:
        flags = [f"--ca={self.folder / 'ca.pem'}", "--role=web", "--match=CN=bamboo-01", "--region=us-east-1", "--yes"]
        return self.run("setup", *flags)

    def revoke(self, *arguments: str) -> Outcome:
        ca = [f"--ca={self.folder / 'ca.pem'}", f"--ca-key={self.folder / 'ca.key'}"]
        return self.run("revoke", "--profile=web", "--yes", *ca, *arguments)

    def calls(self, status: int) -> list[str]:
        return [each.action for each in self.emulator.requests if each.status == status]


@pytest.fixture
def place(tmp_path: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    ca, clock = certs.make_ca(), Clock()
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    certs.write_key(tmp_path / "ca.key", ca.key)
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "web.pem").write_bytes(certs.pem(certs.issue(ca, key.public_key(), certs.Shape("bamboo-01"))))
    monkeypatch.setattr(failures, "sleep", clock.sleep)
    with Emulator(World(rate=1), clock=clock) as emulator:
        emulator.add_credentials(*KEYS.values())
        yield Place(emulator, tmp_path, call, ca, clock)


@pytest.mark.slow
def test_setup_check_and_revoke_finish_and_say_that_they_wait(place: Place) -> None:
    certificate = f"--certificate={place.folder / 'web.pem'}"
    for run in (
        place.setup,
        lambda: place.run("check", "--profile=web", certificate),
        lambda: place.revoke("--serial=0x1"),
        lambda: place.revoke("--serial=0x2"),
        lambda: place.revoke("--renew"),
    ):
        outcome = run()
        assert (outcome.status, "of the AWS APIs" in outcome.err) == (0, False), outcome
        assert "waiting 1." in outcome.err
    assert place.calls(429)


def test_request_that_is_always_throttled_ends_and_says_what_is_in_force(place: Place) -> None:
    place.setup()
    place.revoke("--serial=0x1")
    place.emulator.misbehave(Fault("throttle", None), action="rolesanywhere:UpdateCrl")
    outcome = place.revoke("--serial=0x2")
    assert outcome.status == 5
    assert place.calls(429).count("rolesanywhere:UpdateCrl") == len(failures.PAUSES) + 1
    assert "number 1, not the new one" in outcome.err


def test_setup_waits_until_a_new_role_is_visible_and_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "sleep", place.clock.sleep)
    place.emulator.world.rate, place.emulator.world.role_delay = None, 7
    outcome = place.setup()
    assert outcome.status == 0, outcome
    assert "AWS may not see the role everywhere yet: waiting 1 s" in outcome.err
    assert place.calls(404).count("rolesanywhere:CreateProfile") == 4
    assert place.run("check", "--profile=web", f"--certificate={place.folder / 'web.pem'}").status == 0


def test_next_setup_waits_for_a_role_that_one_before_it_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "sleep", place.clock.sleep)
    place.emulator.world.rate, place.emulator.world.role_delay = None, 100
    place.emulator.misbehave(Fault("deny"), action="rolesanywhere:CreateProfile")
    assert place.setup().status == 5
    outcome = place.setup()
    assert outcome.status == 0, outcome


def test_setup_ends_when_a_new_role_never_becomes_visible(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "sleep", place.clock.sleep)
    place.emulator.world.rate, place.emulator.world.role_delay = None, 3600
    outcome = place.setup()
    assert outcome.status == 5
    assert "Already done: trust anchor: create 'web'; role: create 'web'. Run the same command again" in outcome.err


def test_pauses_end_within_half_a_minute() -> None:
    assert 20 < sum(failures.PAUSES) < 30
    assert min(failures.PAUSES) > 1
