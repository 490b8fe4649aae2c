"""The packages' life: installed in an older version, upgraded, removed, purged. Nothing of them stays."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from roots import call

from packages.root import Root
from packages.traces import leave_traces

OLDER = "0.8.0-1"
BOTH = ("hwsigner", "hwsigner-credentials")


def live(root: Root, program: Path, client: Path) -> None:
    """an older version installed, upgraded, removed and purged"""
    version = _field(program, "Version")
    root.apt("update")
    # All that the package needs, so that the states before and after differ by the package alone.
    others = _field(program, "Depends").replace(f"hwsigner-credentials (= {version}), ", "")
    root.apt("satisfy", others, _field(program, "Recommends"))
    # Where systemd notes when a timer last ran.
    timers = root.path / "var/lib/systemd/timers"
    timers.mkdir(parents=True, exist_ok=True)
    before = root.state()
    with tempfile.TemporaryDirectory(prefix="hwsigner-deb-") as temporary:
        root.apt("install", *root.put(*(_older(package, Path(temporary)) for package in (program, client))))
    (gone,) = root.path.glob("usr/lib/hwsigner/lib/python3*/site-packages/hwsigner/gone.py")
    assert list(gone.parent.glob("__pycache__/gone.*.pyc")), "the installation must compile the modules"
    root.apt("install", *root.put(program, client))
    assert root.run("dpkg-query", "--show", "--showformat=${Version}", "hwsigner") == version
    assert not list(gone.parent.rglob("gone.*")), "the upgrade must delete a module that is no longer there"
    leave_traces(root)
    (timers / "stamp-hwsigner-renew@web.timer").touch()
    root.apt("remove", *BOTH)
    assert root.has("var/lib/hwsigner/srk")
    assert not root.has("usr/lib/hwsigner")
    root.apt("purge", *BOTH)
    # The administrator's files, and the users that they may belong to.
    assert root.has("etc/hwsigner/web.key")
    left = [line for line in root.state() - before if " /etc/hwsigner" not in line]
    names = ("hwsigner", "hwsigner-registrar")
    expected = [f"{kind} {name}" for kind in ("group", "user") for name in names]
    assert sorted(line.split(":")[0] for line in left) == expected, left
    shutil.rmtree(root.path / "etc/hwsigner")
    root.apt("install", *root.put(program, client))
    (root.path / "etc/hwsigner/config.toml").touch()  # as retire leaves it
    root.apt("purge", *BOTH)
    changed = root.state() ^ before
    assert not changed, "\n".join(sorted(changed))
    print("Upgraded, removed and purged: nothing is left.", flush=True)


def _older(package: Path, folder: Path) -> Path:
    """Return the same package with an older version, and with a module that is no longer there."""
    name = package.name.partition("_")[0]
    tree, built = folder / name, folder / f"{name}_{OLDER}.deb"
    call("dpkg-deb", "--raw-extract", package, tree)
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text().replace(_field(package, "Version"), OLDER))
    for module in tree.glob("usr/lib/hwsigner/lib/python3*/site-packages/hwsigner/errors.py"):
        shutil.copy(module, module.with_name("gone.py"))
    call("dpkg-deb", "--root-owner-group", "--build", tree, built)
    return built


def _field(package: Path, name: str) -> str:
    """Return a field of a package's control file."""
    done = subprocess.run(["dpkg-deb", "--field", package, name], check=True, capture_output=True, text=True)
    return done.stdout.strip()
