"""The setting of an enrolment's tests: the command, an issuer that is openssl, and the files that are written."""

from __future__ import annotations

import shlex
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from cryptography import x509

from scene import Outcome, Scene

SUBJECT = "CN=bamboo-01,OU=devops"


@dataclass
class Enrolment:
    """The command, its issuer and its files."""

    scene: Scene
    home: Path
    key: str = ""
    flags: list[str] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.home / "xdg" / "hwsigner" / "config.toml"

    @property
    def aws_config(self) -> Path:
        return self.home / "aws" / "config"

    @property
    def certificate(self) -> Path:
        return Path(self.key).with_suffix(".crt")

    @property
    def issued(self) -> int:
        """How many certificates the issuer has issued."""
        log = self.home / "issued"
        return len(log.read_text()) if log.exists() else 0

    def issuer(self, *changes: str, before: str = "", days: str = "2") -> str:
        """Return a command that issues by openssl, and writes that down. `changes` are more flags for openssl."""
        flags = ["-CA", str(self.home / "ca.pem"), "-CAkey", str(self.home / "ca.key"), "-copy_extensions", "copy"]
        sign = shlex.join(["openssl", "x509", "-req", *flags, "-days", days, *changes])
        text = f"{before}\n{sign} && printf x >> {shlex.quote(str(self.home / 'issued'))}"
        return shlex.join(["sh", "-c", text])

    def arguments(self, *more: str) -> list[str]:
        """Return the arguments of a first run. More flags take precedence."""
        arns = self.scene.flags(certificate=None, private_key=None)
        first = [f"--private-key={self.key}", f"--subject={SUBJECT}", f"--issuer-command={self.issuer()}"]
        return ["enroll", "web", *first, *arns, *self.flags, *more]

    def run(self, *more: str) -> Outcome:
        """Run the command as for the first time."""
        return self.scene.call(*self.arguments(*more))

    def again(self, *more: str) -> Outcome:
        """Run the command without its flags."""
        return self.scene.call("enroll", "web", *more)

    def renewal_by(self, issuer: str, *more: str) -> Outcome:
        """Give the profile another command as its issuer, and renew."""
        values = {**self.profile(), "issuer-command": issuer}
        flags = [f"--{name}={value}" for name, value in values.items() if isinstance(value, str)]
        succeeds(self.scene.call("profile", "add", "web", "--replace", *flags))
        return self.scene.call("renew", "web", *more)

    def leaf(self) -> x509.Certificate:
        """Return the first certificate of the file that the profile names."""
        return x509.load_pem_x509_certificate(Path(self.profile()["certificate"]).read_bytes())

    def gets_credentials(self) -> bool:
        """Return whether boto3 gets credentials of the profile, by the line in its config file."""
        session = boto3.Session(profile_name="web")
        found = session.get_credentials()
        assert found is not None
        return str(found.access_key).startswith("ASIA")

    def profile(self) -> dict[str, Any]:
        found: dict[str, Any] = tomllib.loads(self.config.read_text())["profile"]["web"]
        return found


def succeeds(outcome: Outcome) -> dict[str, str]:
    """Return the rows that were printed."""
    assert (outcome.status, outcome.err) == (0, "")
    return dict(line.split(maxsplit=1) for line in outcome.out.splitlines())


def refused(outcome: Outcome, status: int, *parts: str) -> None:
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (status, "", 1), outcome
    for part in parts:
        assert part in outcome.err
