"""Folders as the kubelet of Kubernetes 1.36 writes them for the volumes of a Pod: files are links through `..data`."""

from __future__ import annotations

import itertools
import os
import shutil
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
        self._files: dict[str, bytes] = {}
        path.mkdir()
        self._give(path, 0o777 if group is None else 0o2777)
        self.update(files)
        for name in files:
            (path / name).symlink_to(f"..data/{name}")

    def update(self, files: dict[str, bytes]) -> None:
        """Give files of the volume new content, all by one rename. The folder with the old content is removed."""
        self._files |= files
        folder = self.path / f"..2026_12_01_08_27_{next(self._numbers)}"
        folder.mkdir()
        for name, data in self._files.items():
            (folder / name).write_bytes(data)
            self._give(folder / name, self._mode)
        self._give(folder, 0o755)
        data_link = self.path / "..data"
        old = data_link.resolve() if data_link.is_symlink() else None
        (self.path / "..data_tmp").symlink_to(folder.name)
        os.rename(self.path / "..data_tmp", data_link)
        if old:
            shutil.rmtree(old)

    def _give(self, path: Path, mode: int) -> None:
        if self._group is not None:
            os.chown(path, -1, self._group)
        path.chmod(mode)


def read_only(source: Path, target: Path) -> str:
    """Return a script that mounts a folder read-only, as the container's runtime does with these volumes."""
    return f"mkdir -p {target}; mount --bind {source} {target}; mount -o remount,bind,ro {target}"
