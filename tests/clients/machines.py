"""A machine for scripts that install things: this one, with changes to its folders that only they see."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_FOLDERS = "/etc /opt /usr /var"
_MOUNTS = f"""
set -e
mount -t tmpfs none "$1"
for folder in {_FOLDERS}; do
    mkdir -p "$1$folder/new" "$1$folder/work"
    mount -t overlay overlay -o "lowerdir=$folder,upperdir=$1$folder/new,workdir=$1$folder/work" "$folder"
done
echo ready
exec sleep infinity
"""
_SECONDS = 600


@dataclass(frozen=True)
class Machine:
    """A mount namespace, which lives as long as its process. Running systemd is not part of it."""

    process: subprocess.Popen[str]
    environ: Mapping[str, str]

    def run(self, *command: str | Path) -> str:
        """Run a command there, and return its stdout."""
        inside = ["nsenter", f"--target={self.process.pid}", "--mount", "--", *map(str, command)]
        done = subprocess.run(inside, env=dict(self.environ), capture_output=True, text=True, timeout=_SECONDS)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


@contextmanager
def open_machine(folder: Path, environ: Mapping[str, str]) -> Iterator[Machine]:
    """Open a machine. It needs root, and leaves nothing behind.

    Args:
        folder: an empty folder.
        environ: the environment of all commands. systemd's tools are told that systemd does not run.
    """
    everything = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "SYSTEMD_OFFLINE": "1", **environ}
    command = ["unshare", "--mount", "--propagation=private", "sh", "-c", _MOUNTS, "sh", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield Machine(process, everything)
        finally:
            process.kill()
