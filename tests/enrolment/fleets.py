"""A fleet: machines with a TPM each, two registrars behind a load balancer, a CA, and the emulator as the service."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certs
from attestation.chips import Vendor
from enrolment.fleet_machine import PROFILE, Machine
from enrolment.killable_ca import SIGN_PATH
from enrolment.killing import Killer, Program, balancer
from hwsigner.emulator import Emulator, World
from loopback import Server, ServerCA
from ports import reserve_port

ROOT = Path(__file__).parents[2]
_ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Kills:
    """How much is killed during a wave.

    Attributes:
        of_machine: the most kills of each machine's commands.
        machine_pause: the longest time between two of them, in seconds. If it is shorter than a run takes, few runs get
            far enough to be killed near their end.
        of_server: the most kills of each registrar and of the CA.
        server_pause: the longest time between two of them.
    """

    of_machine: int
    machine_pause: float
    of_server: int
    server_pause: float


@dataclass
class Fleet:
    """A fleet that runs.

    Attributes:
        folder: has everything.
        machines: those that the policy names.
        stranger: a machine with a TPM of the same vendor that the policy does not name.
        registrars: two programs.
        ca: the CA's program.
        emulator: the service.
        url: the registrars' address.
    """

    folder: Path
    machines: list[Machine]
    stranger: Machine
    registrars: list[Program]
    ca: Program
    emulator: Emulator
    url: str

    @property
    def policy(self) -> Path:
        return self.folder / "policy.toml"

    def enrol(self, machine: Machine, **instead: str) -> list[str]:
        """Return the command that enrols a machine."""
        values = {
            "private-key": machine.key,
            "tcti": machine.tpm.tcti,
            "subject": machine.subject,
            "dns": machine.dns,
            "issuer": "registrar",
            "issuer-url": self.url,
            "issuer-ca-file": str(self.folder / "tls" / "ca.pem"),
            "trust-anchor-arn": self.emulator.trust_anchor_arn,
            "profile-arn": self.emulator.profile_arn,
            "role-arn": self.emulator.role_arn,
            "endpoint": self.emulator.url,
        }
        return ["enroll", PROFILE, *(f"--{name}={value}" for name, value in (values | instead).items())]

    def wave(self, command: Callable[[Machine], list[str]], kills: Kills, chance: random.Random, limit: float) -> float:
        """Let all machines run a command side by side until each has succeeded. Return the seconds that it took."""
        victims: list[tuple[Callable[[random.Random], None], int, float]] = [
            *((machine.strike, kills.of_machine, kills.machine_pause) for machine in self.machines),
            *((one.strike, kills.of_server, kills.server_pause) for one in (*self.registrars, self.ca)),
        ]
        began = time.monotonic()
        with ExitStack() as stack, ThreadPoolExecutor(len(self.machines)) as pool:
            for strike, most, pause in victims:
                stack.enter_context(Killer(strike, random.Random(chance.random()), pause=pause, most=most))
            tasks = [pool.submit(one.keep_trying, began + limit, *command(one)) for one in self.machines]
            for task in tasks:
                task.result()
        return time.monotonic() - began

    def take_out(self, machine: Machine) -> None:
        """Remove a machine from the policy, as an administrator does."""
        text = self.policy.read_text()
        edited = re.sub(rf"(?ms)^\[machine\.{machine.name}\]\n.*?(?=^\[|\Z)", "", text)
        assert edited != text
        new = self.policy.with_suffix(".new")
        new.write_text(edited)
        new.rename(self.policy)

    def audit(self) -> list[dict[str, Any]]:
        """Return the audit lines of both registrars."""
        lines = [line for one in self.registrars for line in one.log.read_text().splitlines()]
        return [json.loads(line) for line in lines if not line.startswith("hwsigner: registrar on ")]

    def issued(self) -> list[dict[str, Any]]:
        """Return what the CA has written down."""
        return [json.loads(line) for line in (self.folder / "ca" / "issued").read_text().splitlines()]


@contextmanager
def running(folder: Path, size: int, chance: random.Random) -> Iterator[Fleet]:
    """Start a fleet in a folder with a short path. Its policy names the machines; none is enrolled."""
    with ExitStack() as stack:
        vendor = _vendor(folder)
        *machines, stranger = (_machine(vendor, folder / f"m{number:02}") for number in range(size + 1))
        for machine in (*machines, stranger):
            stack.enter_context(machine.tpm)
        authority = certs.make_ca("Fleet CA")
        emulator = stack.enter_context(Emulator(World.simple(authority.certificate)))
        ca = _ca(folder / "ca", authority)
        registrars = [_registrar(folder, vendor, ca.port, number) for number in range(2)]
        server = stack.enter_context(Server(balancer([one.port for one in registrars], chance)))
        fleet = Fleet(folder, machines, stranger, registrars, ca, emulator, f"https://127.0.0.1:{server.port}")
        _allow(fleet)
        for program in (ca, *registrars):
            stack.callback(program.stop)
            program.start()
        for program in (ca, *registrars):
            program.wait_until_ready()
        yield fleet


def _vendor(folder: Path) -> Vendor:
    (folder / "vendor").mkdir()
    return Vendor(folder / "vendor")


def _machine(vendor: Vendor, folder: Path) -> Machine:
    keys = folder / "home" / "keys"
    keys.mkdir(parents=True, mode=0o700)
    (folder / "tpm").mkdir()
    return Machine(f"web-{folder.name[1:]}", folder / "home", vendor.make(folder / "tpm"))


def _ca(folder: Path, authority: certs.Authority) -> Program:
    folder.mkdir()
    (folder / "ca.pem").write_bytes(authority.pem)
    certs.write_key(folder / "ca.key", authority.key)
    (folder / "issued").touch(0o600)
    port = reserve_port()
    program = str(Path(__file__).with_name("killable_ca.py"))
    return Program([sys.executable, program, str(folder), str(port)], port, folder / "log", _ENVIRONMENT)


def _registrar(folder: Path, vendor: Vendor, ca: int, number: int) -> Program:
    tls = folder / "tls"
    if not tls.exists():
        tls.mkdir()
        ServerCA(tls).context("127.0.0.1")
        certificate = next(tls.glob("127*.pem")).rename(tls / "server.pem")
        certificate.chmod(0o600)
        (folder / "token").touch(0o600)
        (folder / "token").write_text("s.fleet")
    port = reserve_port()
    values: Mapping[str, object] = {
        "policy": folder / "policy.toml",
        "keys": folder / "sealing",
        "roots": vendor.roots,
        "port": port,
        "tls-certificate": tls / "server.pem",
        "per-address": 10**6,
        "per-minute": 10**6,
        "issuer": "vault",
        "issuer-url": f"http://127.0.0.1:{ca}{SIGN_PATH}",
        "issuer-secret": f"file:{folder / 'token'}",
    }
    flags = [f"--{name}={value}" for name, value in values.items()]
    command = [sys.executable, "-m", "hwsigner", "registrar", *flags]
    return Program(command, port, folder / f"registrar-{number}.log", _ENVIRONMENT)


def _allow(fleet: Fleet) -> None:
    """Make the sealing keys and the policy, by the digits that each machine prints."""
    administrator = fleet.stranger
    done = administrator.run("registrar", "rotate-keys", f"--keys={fleet.folder / 'sealing'}")
    assert done[0] == 0, done
    for machine in fleet.machines:
        names = (f"--subject={machine.subject}", f"--dns={machine.dns}")
        done = administrator.run("registrar", "allow", chip(machine), *names, f"--policy={fleet.policy}")
        assert done[0] == 0, done


def chip(machine: Machine) -> str:
    """Return the digits that stand for a machine's TPM."""
    status, out, err = machine.run("attest", "--ek", f"--tcti={machine.tpm.tcti}")
    assert status == 0, err
    return out.strip()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
