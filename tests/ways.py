"""How much of hwsigner's code whole commands pass through: `PYTHONPATH=tests:. .venv/bin/python tests/ways.py [WAY]…`.

Prints the calls and files of each way, the functions that are called most often, and the files. Each way is followed in
a process of its own, in which nothing of hwsigner has run before.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import certs
from agent.homes import Home, read_all, run_agent
from frames import Frames, Recorder, count_frames
from hwsigner.emulator import Emulator, World
from softhsm.tpm import SoftTPM

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDADMIN", "AWS_SECRET_ACCESS_KEY": "an-admins-secret"}
SUBJECT = "CN=bamboo-01"
_OFTEN = 40


class Command(NamedTuple):
    """A command whose way is counted.

    Attributes:
        arguments: its name and flags.
        before: the same of commands that run before it, each in a process of its own.
        environ: variables for all of them.
    """

    arguments: list[str]
    before: tuple[list[str], ...] = ()
    environ: Mapping[str, str] = {}


class Place(NamedTuple):
    """What the commands need: a folder, a TPM, a CA and the service, which trusts it."""

    folder: Path
    tpm: SoftTPM
    ca: certs.Authority
    emulator: Emulator

    @property
    def arns(self) -> list[str]:
        names = ("trust_anchor_arn", "profile_arn", "role_arn")
        flags = [f"--{name.replace('_', '-')}={getattr(self.emulator, name)}" for name in names]
        return [*flags, f"--endpoint={self.emulator.url}"]


def credential_process(place: Place) -> Command:
    """Return a cold run with a profile whose key is a key file of a TPM, after one that has noted what it found."""
    key, leaf = place.folder / "key.pem", place.folder / "leaf.pem"
    place.tpm.create_key_file(key, "EC:P-256")
    leaf.write_bytes(certs.pem(certs.issue(place.ca, place.tpm.public_key(key))))
    identity = [f"--certificate={leaf}", f"--private-key={key}"]
    added = ["profile", "add", "web", *identity, f"--tcti={place.tpm.tcti}", *place.arns]
    command = ["credential-process", "--profile=web"]
    return Command(command, (added, command))


def enroll(place: Place) -> Command:
    """Return an enrolment that makes a key in a TPM, and whose issuer is a command."""
    (place.folder / "ca.pem").write_bytes(place.ca.pem)
    ca_key = certs.write_key(place.folder / "ca.key", place.ca.key)
    # Each certificate ends a day later than the last one. What openssl says comes in parts, more or fewer of them.
    issue = f"openssl x509 -req -CA ca.pem -CAkey {ca_key} -copy_extensions copy -days $(wc -l < issued) 2> /dev/null"
    issuer = ["sh", "-c", f"cd {place.folder} && echo >> issued && {issue}"]
    flags = [
        f"--private-key=tpm2:path={place.folder / 'key.pem'}",
        f"--tcti={place.tpm.tcti}",
        f"--subject={SUBJECT}",
        f"--issuer-command={shlex.join(issuer)}",
    ]
    return Command(["enroll", "web", *flags, *place.arns])


def renew(place: Place) -> Command:
    """Return the renewal of what `enroll` leaves."""
    return Command(["renew", "web"], (enroll(place).arguments,))


def aws_setup(place: Place) -> Command:
    """Return a set-up of an account that has nothing yet, for one CA and one role."""
    (place.folder / "ca.pem").write_bytes(place.ca.pem)
    place.emulator.add_credentials(*KEYS.values())
    flags = [f"--ca={place.folder / 'ca.pem'}", "--role=web", "--match=CN=bamboo-*", "--region=us-east-1", "--yes"]
    return Command(["aws", "setup", *flags, f"--endpoint={place.emulator.url}"], environ=KEYS)


def doctor(place: Place) -> Command:
    """Return the doctor's look at the profile that `enroll` leaves."""
    return Command(["doctor"], (enroll(place).arguments,))


WAYS: dict[str, Callable[[Place], Command]] = {
    "credential-process": credential_process,
    "enroll": enroll,
    "renew": renew,
    "aws setup": aws_setup,
    "doctor": doctor,
}
AGENT = "agent"
# Our folder is last in the path: hwsigner is the one that is installed, with its extension.
PROGRAM = f"""
import json, sys
sys.path.append({str(Path(__file__).parents[1])!r})
from ways import frames_of
print(json.dumps(frames_of(sys.argv[1:])))
"""


def follow(name: str) -> Frames:
    """Return what a way passes through: one of WAYS, or AGENT for the loop's part of a request for credentials."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-") as made, contextlib.ExitStack() as stack:
        folder, ca = Path(made), certs.make_ca()
        environ = _home(folder)
        if name == AGENT:
            return _in_process([AGENT], environ)
        tpm = stack.enter_context(SoftTPM(folder / "tpm"))
        world = World() if name == "aws setup" else World.simple(ca.certificate)
        emulator = stack.enter_context(Emulator(world))
        command = WAYS[name](Place(folder, tpm, ca, emulator))
        for arguments in command.before:
            _in_process(arguments, {**environ, **command.environ})
        return _in_process(command.arguments, {**environ, **command.environ})


def _home(folder: Path) -> dict[str, str]:
    environ = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(folder)}
    for name in ("config", "state", "runtime"):
        (folder / name).mkdir(mode=0o700)
        environ[f"XDG_{name.upper()}_{'DIR' if name == 'runtime' else 'HOME'}"] = str(folder / name)
    return environ


def _in_process(arguments: list[str], environ: Mapping[str, str]) -> Frames:
    tests = Path(__file__).parent
    command = [sys.executable, "-P", "-c", PROGRAM, *arguments]
    done = subprocess.run(
        command, env={**environ, "PYTHONPATH": str(tests)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return Frames(*json.loads(done.stdout.splitlines()[-1]))


def frames_of(arguments: list[str]) -> Frames:
    """Return what a command passes through in this process."""
    if arguments == [AGENT]:
        return _frames_of_agent()
    from hwsigner._cli import main

    statuses: list[int] = []
    frames = count_frames(lambda: statuses.append(main(arguments)))
    assert statuses == [0], arguments
    return frames


def _frames_of_agent() -> Frames:
    """Return what the agent's loop passes through for a client that gets credentials which are ready."""
    recorder, is_sent = Recorder(), threading.Event()

    def begin() -> None:
        recorder.start()
        is_sent.wait(20)  # The loop meets the client and its request together.

    with _agent_home() as home, run_agent(home) as agent:
        agent.get()
        agent.settle()
        agent.server.post(begin)
        with agent.connect() as client:
            client.sendall(b"1 get web\n")
            is_sent.set()
            assert b"AccessKeyId" in read_all(client)
        agent.server.post(recorder.stop)
        agent.settle()
    return recorder.frames().between("_agent/listener.py: accept", "_agent/server.py: _run_posted")


@contextmanager
def _agent_home() -> Iterator[Home]:
    ca = certs.make_ca()
    world = World.simple(ca.certificate)
    with tempfile.TemporaryDirectory(prefix="hwsigner-") as folder, Emulator(world) as emulator:
        home = Home(Path(folder), ca, emulator)
        home.write_profiles(web={})
        yield home


def _report(name: str) -> None:
    frames = follow(name)
    print(f"{name}: {len(frames.calls)} calls, {len(frames.files)} files")
    for call, number in Counter(frames.calls).most_common(_OFTEN):
        print(f"{number:6} {call}")
    print("\n".join(f"       {file}" for file in frames.files), end="\n\n")


if __name__ == "__main__":
    for _name in sys.argv[1:] or [*WAYS, AGENT]:
        _report(_name)
