"""An EKS hybrid node, as nodeadm sets it up: the command lines, the SDKs' config file and the unit."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hwsigner.emulator import Emulator
from hwsigner.trust_policy import TrustPolicy
from pages import ROOT, run_shell

PAGE = "docs/how-to/eks-hybrid-nodes.md"
_INSTALLED = Path(sys.executable).with_name("hwsigner")


@dataclass(frozen=True)
class Node:
    """A machine that nodeadm has set up, in a folder in place of `/`.

    Attributes:
        environ: the only variables that kubelet passes on. HOME is not among them.
    """

    root: Path
    emulator: Emulator
    environ: dict[str, str]
    name: str = "node-01"
    proxy: bool = False

    @property
    def program(self) -> Path:
        return self.root / "usr" / "local" / "bin" / "aws_signing_helper"

    @property
    def key(self) -> Path:
        return self.root / "etc" / "iam" / "pki" / "server.key"

    @property
    def certificate(self) -> Path:
        return self.key.with_suffix(".crt")

    @property
    def credentials_file(self) -> Path:
        return self.root / "eks-hybrid" / ".aws" / "credentials"

    @property
    def flags(self) -> list[str]:
        """The flags that nodeadm writes, in its order."""
        pairs = {
            "certificate": self.certificate,
            "private-key": self.key,
            "trust-anchor-arn": self.emulator.trust_anchor_arn,
            "profile-arn": self.emulator.profile_arn,
            "role-arn": self.emulator.role_arn,
            "role-session-name": self.name,
        }
        return [word for flag, value in pairs.items() for word in (f"--{flag}", str(value))]

    @property
    def _proxy(self) -> list[str]:
        return ["--with-proxy"] if self.proxy else []

    @property
    def role(self) -> str:
        """What the ARN of the node's sessions ends with."""
        return f":assumed-role/{self.emulator.role_arn.rpartition('/')[2]}/{self.name}"

    def here(self, script: str) -> str:
        """Return a script of the page with this machine's paths."""
        script = script.replace("/opt/hwsigner/bin", str(_INSTALLED.parent))
        return script.replace("/usr/local/bin", str(self.program.parent)).replace("/etc/iam/pki", str(self.key.parent))

    def put_program(self, *, link: bool = False) -> None:
        """Install the program as the page says, or as a symbolic link."""
        self.program.parent.mkdir(parents=True, exist_ok=True)
        if link:
            self.program.symlink_to(_INSTALLED)
            return
        [command] = re.findall(
            "^install .*$", (ROOT / PAGE).read_text().split("### The program")[1].split("## Upgrades")[0], re.MULTILINE
        )
        run_shell(self.here(command), self.root, {})

    def write_config(self) -> Path:
        """Write the SDKs' config file of the node, `/etc/aws/hybrid/config`."""
        line = shlex.join([str(self.program), "credential-process", *self.flags, *self._proxy])
        sections = [
            f"[profile {name}]\nregion = us-east-1\ncredential_process = {line}\n" for name in ("default", "hybrid")
        ]
        path = self.root / "etc" / "aws" / "hybrid" / "config"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(sections))
        return path

    def write_unit(self) -> Path:
        """Write the unit that keeps the credentials file fresh."""
        command = [str(self.program), "update", *self.flags, "--region", "us-east-1", *self._proxy]
        broken = " ".join(command).replace(" --", " \\\n        --")
        path = self.root / "aws_signing_helper_update.service"
        path.write_text(
            "[Unit]\nDescription=Keeps the AWS credentials of the node fresh\n\n"
            f"[Service]\nUser=root\nEnvironment=AWS_SHARED_CREDENTIALS_FILE={self.credentials_file}\n"
            f"ExecStart={broken}\nStandardOutput=journal\nStandardError=journal\nRestart=always\nRestartSec=10\n"
            "CPUAccounting=true\nMemoryAccounting=true\n\n[Install]\nWantedBy=multi-user.target\n"
        )
        return path

    @contextmanager
    def service(self, unit: Path) -> Iterator[subprocess.Popen[str]]:
        """Run a unit's program with its environment until it has written the file."""
        text = one_line(unit.read_text())
        [command] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
        variables = dict(line.split("=", 1) for line in re.findall(r"^Environment=(.*)$", text, re.MULTILINE))
        with subprocess.Popen(
            shlex.split(command),
            env={**self.environ, "HOME": str(self.root), **variables},
            cwd="/",
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stderr
                line = process.stderr.readline()
                assert line.startswith(f"hwsigner: wrote [default] of {self.credentials_file}, good until "), line
                yield process
            finally:
                process.kill()


def one_line(text: str) -> str:
    """Join lines that end with a backslash to those that follow."""
    return text.replace("\\\n", " ")


def page_policy(trust_anchor_arn: str) -> TrustPolicy:
    [text] = re.findall(r"```json\n(.*?)```", (ROOT / PAGE).read_text(), re.DOTALL)
    return TrustPolicy(json.loads(text.replace("TRUST-ANCHOR-ARN", trust_anchor_arn)))


def environment(root: Path, emulator: Emulator, **more: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "XDG_STATE_HOME": str(root / "state"),
        "AWS_ENDPOINT_URL_ROLESANYWHERE": emulator.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        **more,
    }
