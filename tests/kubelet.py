"""Folders as the kubelet of Kubernetes 1.36 writes them for the volumes of a Pod: files are links through `..data`."""

from __future__ import annotations

import itertools
import os
from pathlib import Path


class Volume:
    """A ConfigMap or Secret as a folder.

    Args:
        path: the folder, which is made.
        files: their content, by name.
        mode: the files' permissions.
        group: the Pod's `fsGroup`, which only root may set; None for none.
    """

    def __init__(self, path: Path, files: dict[str, bytes], *, mode: int = 0o644, group: int | None = None) -> None:
        self.path = path
        self._mode = mode
        self._group = group
        self._numbers = itertools.count(1)
        path.mkdir()
        self._give(path, 0o777 if group is None else 0o2777)
        self.update(files)
        for name in files:
            (path / name).symlink_to(f"..data/{name}")

    def update(self, files: dict[str, bytes]) -> None:
        """Put new content in place of the old, by one rename. The names stay those of the beginning."""
        folder = self.path / f"..2026_12_01_08_27_{next(self._numbers)}"
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
            self._give(folder / name, self._mode)
        self._give(folder, 0o755)
        (self.path / "..data_tmp").symlink_to(folder.name)
        os.rename(self.path / "..data_tmp", self.path / "..data")

    def _give(self, path: Path, mode: int) -> None:
        if self._group is not None:
            os.chown(path, -1, self._group)
        path.chmod(mode)


def read_only(source: Path, target: Path) -> str:
    """Return a script that mounts a folder read-only, as the container's runtime does with these volumes."""
    return f"mkdir -p {target}; mount --bind {source} {target}; mount -o remount,bind,ro {target}"
