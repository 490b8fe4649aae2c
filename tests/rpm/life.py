"""The RPMs' life: installed in an older version, upgraded, erased. What stays is what the page says."""

from __future__ import annotations

import re
from pathlib import Path

from packages.traces import leave_traces
from pages import ROOT
from rpm.root import RpmRoot

BOTH = ("hwsigner", "hwsigner-credentials")
OLDER = "0.8.0"
LOGROTATE = "etc/logrotate.d/hwsigner"
# The administrator's files, the services' folders, and the users that they may belong to.
STAYS = re.compile(
    r"(user|group) hwsigner(-registrar)?:|.* /(etc|var/lib|var/log)/hwsigner"
    r"|.* /etc/logrotate\.d/hwsigner\.rpm(new|save) "
)
# An older version has this in place of what builds: the files of the RPMs, with other settings of logrotate, and with a
# module that the upgrade deletes.
REPACK = f"""
%global __os_install_post %{{nil}}
%prep
%build
%install
cp -a /packages/files/. %{{buildroot}}
cp %{{buildroot}}%{{_datadir}}/licenses/hwsigner-credentials-*/LICENSE .
rm -r %{{buildroot}}%{{_datadir}}/licenses
echo '# Older.' >> %{{buildroot}}/{LOGROTATE}
cp %{{buildroot}}%{{site}}/hwsigner/errors.py %{{buildroot}}%{{site}}/hwsigner/gone.py
%{{__python3}} -m compileall -q %{{buildroot}}%{{site}}/hwsigner/gone.py

"""


def live(root: RpmRoot, _source: Path, program: Path, client: Path) -> None:
    """an older version installed, upgraded and erased"""
    root.prepare(program, client)
    older = make_older(root, program, client)
    # An administrator's own, and so not a package's to delete.
    (root.path / "etc/systemd/system/hwsigner-own@.timer").write_text("[Install]\nWantedBy=timers.target\n")
    root.run("systemctl", "enable", "hwsigner-own@web.timer")
    before = root.state()
    root.rpm("--install", *older)
    (gone,) = root.path.glob("usr/lib64/hwsigner/lib/python3*/site-packages/hwsigner/gone.py")
    edited = root.path / LOGROTATE
    edited.write_text("# Edited.\n")
    leave_traces(root)
    (root.path / "etc/hwsigner").chmod(0o700)
    enabled = set(root.path.glob("etc/systemd/system/*.wants/hwsigner-*"))
    assert len(enabled) == 4, enabled
    root.rpm("--upgrade", *root.put(program, client), warning=f"/{LOGROTATE} created as /{LOGROTATE}.rpmnew")
    assert root.run("rpm", "--query", "hwsigner").strip() == program.stem
    assert not list(gone.parent.rglob("gone.*")), "the upgrade must delete a module that is no longer there"
    assert edited.read_text() == "# Edited.\n"
    assert (root.path / "etc/hwsigner").stat().st_mode & 0o777 == 0o755
    assert set(root.path.glob("etc/systemd/system/*.wants/hwsigner-*")) == enabled
    root.rpm("--erase", *BOTH, warning=f"/{LOGROTATE} saved as /{LOGROTATE}.rpmsave")
    assert root.has("var/lib/hwsigner/srk")
    assert root.has("etc/hwsigner/web.key")
    _check_state(root, before)
    root.rpm("--install", *root.put(program, client))
    root.rpm("--erase", *BOTH)
    _check_state(root, before)
    print("Upgraded and erased: nothing else is left.", flush=True)


def _check_state(root: RpmRoot, before: set[str]) -> None:
    """See that nothing differs from a state before, but for what stays when the packages are erased."""
    changed = [line for line in root.state() ^ before if not STAYS.match(line)]
    assert not changed, "\n".join(sorted(changed))


def make_older(root: RpmRoot, program: Path, client: Path) -> list[str]:
    """Make the same packages with an older version, by the same spec. Return their paths in the root."""
    folder = root.path / "packages"
    (folder / "files").mkdir()
    for package in root.put(program, client):
        root.run("sh", "-ec", f"rpm2archive --nocompression {package} | tar --extract --directory /packages/files")
    spec = (ROOT / "packaging" / "rpm" / "hwsigner.spec").read_text()
    spec = re.sub(r"^Source.*\n", "", spec, flags=re.MULTILINE)
    spec = re.sub(r"^Version:.*", f"Version: {OLDER}", spec, flags=re.MULTILINE)
    spec = re.sub(r"^%prep\n.*?(?=^%post\n)", lambda _: REPACK, spec, flags=re.MULTILINE | re.DOTALL)
    (folder / "older.spec").write_text(spec)
    (folder / "debian.macros").write_text((ROOT / "packaging" / "rpm" / "debian.macros").read_text())
    rpmbuild = ("rpmbuild", "--quiet", "--nodeps", "--define=_topdir /packages/older", "--load=/packages/debian.macros")
    root.run(*rpmbuild, "-bb", "/packages/older.spec")
    return [f"/{path.relative_to(root.path)}" for path in (folder / "older").rglob("*.rpm")]
