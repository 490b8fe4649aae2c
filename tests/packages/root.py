"""A new root, in which packages are installed and programs run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from roots import entering, unpack

_APT = ("apt-get", "-o", "Acquire::Retries=10", "-o", "Dpkg::Use-Pty=0", "--quiet=2")


class Root:
    """A root, made from an archive.

    Attributes:
        path: its folder.
    """

    def __init__(self, archive: Path, path: Path) -> None:
        self.path = path
        unpack(archive, path)

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name, relative to the root."""
        return (self.path / name).exists()

    def try_to(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command as root."""
        words = entering(self.path, *command, variables={"DEBIAN_FRONTEND": "noninteractive", **variables})
        return subprocess.run(words, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def run(self, *command: str, **variables: str) -> str:
        """Run a command that must succeed, and return what it prints."""
        done = self.try_to(*command, **variables)
        assert done.returncode == 0, f"{command}: status {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, *command: str) -> Iterator[IO[str]]:
        """Run a command for as long as the block takes. Yields its stdout."""
        words = entering(self.path, *command)
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            try:
                yield process.stdout
            finally:
                process.kill()  # Of unshare, and so of all in it.

    def put(self, *packages: Path) -> list[str]:
        """Copy packages into the root. Return their paths there."""
        folder = self.path / "packages"
        folder.mkdir(exist_ok=True)
        for package in packages:
            shutil.copy(package, folder)
        return [f"/packages/{package.name}" for package in packages]

    def apt(self, action: str, *names: str) -> None:
        """Have apt install, satisfy, remove or purge something."""
        self.run(*_APT, action, "--yes", *names)

    def state(self) -> set[str]:
        """Return a line for each file, user and group, without those that change with any package."""
        left_out = " -o ".join(f"-path {name}" for name in _LEFT_OUT)
        found = self.run("sh", "-c", f"find / \\( {left_out} \\) -prune -o -printf '%y %#m %u:%g %p -> %l\\n'")
        users, groups = (self.run("getent", kind) for kind in ("passwd", "group"))
        return {
            *found.splitlines(),
            *(f"user {line}" for line in users.splitlines()),
            *(f"group {line}" for line in groups.splitlines()),
        }


# The kernel's, the tests' own, and what dpkg, apt, rpm and the programs that they call write for every package.
_LEFT_OUT = (
    *("/proc", "/sys", "/dev", "/tmp", "/packages", "/root"),
    *(
        "/var/lib/dpkg",
        "/var/lib/apt",
        "/var/lib/rpm",
        "/var/cache",
        "/var/log/apt",
        "/var/log/dpkg.log",
        "/etc/.pwd.lock",
    ),
)
