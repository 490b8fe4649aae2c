"""The clients: how to run each one and find its version."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clients.outputs import IMDS, Output

HERE = Path(__file__).parent
REGION = "us-east-1"
_ARN = re.compile(r"arn:aws:sts::[^\s\"]+")


@dataclass(frozen=True)
class Client:
    """A client.

    Attributes:
        command: calls AWS and prints whom AWS takes it for. Those of SDKs do so for each line of stdin. `INSTALLED`
            stands for the folder that `make test-clients` installs into, `HERE` for this one.
        version: prints its version.
    """

    command: str
    version: str

    def run(self, installed: Path, output: Output, lines: str = "\n") -> list[str]:
        """Run it with the credentials of an output, and return the caller ARNs that it prints."""
        done = subprocess.run(
            self._words(installed, output),
            env=_environ(installed, output),
            input=lines,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return _ARN.findall(done.stdout)

    @contextmanager
    def converse(self, installed: Path, output: Output) -> Iterator[Callable[[], str]]:
        """Start it, and yield a function that makes it call AWS once and returns the caller's ARN."""
        with subprocess.Popen(
            self._words(installed, output),
            env=_environ(installed, output),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            stdin, stdout = process.stdin, process.stdout
            assert stdin
            assert stdout

            def call() -> str:
                stdin.write("\n")
                stdin.flush()
                return stdout.readline().strip()

            try:
                yield call
            finally:
                process.kill()

    def find_version(self, installed: Path) -> str:
        """Return its version, digits and dots.

        Raises:
            FileNotFoundError: it is not installed.
        """
        command = _replaced(self.version, installed)
        done = subprocess.run(command, env=_own_environ(installed), capture_output=True, text=True, timeout=60)
        found = re.search(r"\d+(\.\d+)+", done.stdout)
        assert found, done.stderr
        return found[0]

    def _words(self, installed: Path, output: Output) -> list[str]:
        return [*output.way.wrapper, *_replaced(self.command, installed)]


_DEBIAN = "/usr/bin/dpkg-query --show --showformat=${Version}"
_CALL = "sts get-caller-identity --output=text --query=Arn"
_NODE_VERSION = "console.log(require('@aws-sdk/client-sts/package.json').version)"

CLIENTS = {
    "AWS CLI v1": Client(f"INSTALLED/python/bin/aws {_CALL}", "INSTALLED/python/bin/aws --version"),
    "AWS CLI v2": Client(f"/usr/bin/aws {_CALL}", "/usr/bin/aws --version"),
    "boto3": Client("INSTALLED/python/bin/python HERE/caller.py", "INSTALLED/python/bin/python -m pip show boto3"),
    "JavaScript v3": Client("/usr/bin/node HERE/caller.js", f"/usr/bin/node --eval={_NODE_VERSION}"),
    "Ruby v3": Client("/usr/bin/ruby HERE/caller.rb", f"{_DEBIAN} ruby-aws-sdk-core"),
    "Go v2": Client("INSTALLED/caller", f"{_DEBIAN} golang-github-aws-aws-sdk-go-v2-dev"),
    "rclone": Client("/bin/sh HERE/caller.sh", "/usr/bin/rclone version"),
}


def _replaced(command: str, installed: Path) -> list[str]:
    return [word.replace("INSTALLED", str(installed)).replace("HERE", str(HERE)) for word in command.split(" ")]


def _own_environ(installed: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "NODE_PATH": str(installed / "node" / "node_modules"), "LANG": "C.UTF-8"}


def _environ(installed: Path, output: Output) -> dict[str, str]:
    """Return the variables that lead a client to the service and the output, and no others."""
    url = output.stage.service.url
    return {
        **output.stage.environ(),
        **_own_environ(installed),
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL_STS": url,
        # More than the default of one second: the machine may be busy.
        "AWS_METADATA_SERVICE_TIMEOUT": "20",
        "AWS_EC2_METADATA_DISABLED": str(IMDS not in output.way.environ).lower(),
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_S3_ENDPOINT": url,
        "RCLONE_S3_ENV_AUTH": "true",
        "RCLONE_S3_PROVIDER": "Other",
        "RCLONE_S3_REGION": REGION,
        **output.way.environ,
    }
