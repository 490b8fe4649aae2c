"""The demo's service: `hwsigner emulator`, and the keys that use it."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass, fields

# The emulator's resources have the same ARNs in every run.
TRUST_ANCHOR_ARN = "arn:aws:rolesanywhere:us-east-1:123456789012:trust-anchor/00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True)
class DemoKey:
    """A key of the demo.

    Attributes:
        profile: the name of its profile in the AWS config file.
        title: where it is, to print.
        uri: the key's path or URI.
        certificate: its certificate's path or URI.
    """

    profile: str
    title: str
    uri: str
    certificate: str

    @property
    def flags(self) -> list[str]:
        """The flags that name the key."""
        return ["--certificate", self.certificate, "--private-key", self.uri]


@dataclass(frozen=True)
class Service:
    """The emulated service: what `hwsigner emulator` prints once it is ready."""

    endpoint: str
    ca_file: str
    trust_anchor_arn: str
    profile_arn: str
    role_arn: str

    @property
    def flags(self) -> list[str]:
        """The flags of a session with this service."""
        flags = {
            "--trust-anchor-arn": self.trust_anchor_arn,
            "--profile-arn": self.profile_arn,
            "--role-arn": self.role_arn,
            "--endpoint": self.endpoint,
        }
        return [word for flag in flags.items() for word in flag]


def read_service(process: subprocess.Popen[str]) -> Service | None:
    """Return the values that the emulator prints, or None if it exits first."""
    values = {}
    for line in process.stdout or ():
        name, _, value = line.partition("=")
        values[name.replace("-", "_")] = shlex.split(value)[0]
        if name == "role-arn":
            return Service(**{each.name: values[each.name] for each in fields(Service)})
    return None
