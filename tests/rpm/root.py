"""A root of Debian with rpm, which stands in for one of Fedora."""

from __future__ import annotations

import re
from pathlib import Path

from packages.root import Root

# What the RPMs require by name, and the packages of Debian that have it.
NAMED = {
    "coreutils": ["coreutils"],
    "openssl-libs >= 1:3": ["libssl3t64"],
    "polkit": ["polkitd"],
    "python(abi) = 3.13": ["python3"],
    "systemd": ["systemd"],
    "tpm2-tss": [
        "libtss2-esys-3.0.2-0t64",
        "libtss2-mu-4.0.1-0t64",
        "libtss2-policy0t64",
        "libtss2-rc0t64",
        "libtss2-tcti-spi-helper0t64",
        "libtss2-tctildr0t64",
        "tpm-udev",
    ],
}
LACKING = re.compile(r"^\t(.+) is needed by hwsigner-\d", re.MULTILINE)
LIBRARY = re.compile(r"(lib[\w-]+|ld-linux-x86-64)\.so\.\d+(?=\()")
# What Fedora has for the macros of systemd-rpm-macros, in short.
HELPER = """#!/bin/sh
set -eu
action="$1"
shift
now=
[ ! -d /run/systemd/system ] || now=--now
case "$action" in
    install-system-units) systemctl --quiet --no-reload preset "$@" ;;
    install-user-units) systemctl --quiet --no-reload --global preset "$@" ;;
    remove-system-units) systemctl --quiet --no-reload disable $now "$@" ;;
    remove-user-units)
        systemctl --quiet --no-reload --global disable "$@"
        [ -n "$now" ] || exit 0
        for user in $(systemctl list-units --plain --no-legend 'user@*.service' | sed 's/user@\\([0-9]*\\).*/\\1/'); do
            systemctl --user --machine="$user@" --quiet disable --now "$@"
        done
        ;;
    mark-restart-system-units)
        [ -n "$now" ] || exit 0
        for unit; do systemctl set-property "$unit" Markers=+needs-restart; done
        ;;
    *) exit 2 ;;
esac
"""


class RpmRoot(Root):
    """A root in which rpm does not look for what Debian's packages have."""

    def rpm(self, *arguments: str, warning: str = "") -> None:
        """Have rpm install, upgrade or erase something. It prints this warning only: no scriptlet fails."""
        # The plugins mount things, and this root is not a mount.
        done = self.try_to("rpm", "--nodeps", "--noplugins", *arguments)
        expected = f"warning: {warning}\n" if warning else ""
        assert (done.returncode, done.stdout + done.stderr) == (0, expected), done

    def prepare(self, *packages: Path) -> None:
        """Have apt install what the packages require, and see that nothing is lacking then."""
        tried = self.try_to("rpm", "--install", "--test", *self.put(*packages))
        lacking = set(LACKING.findall(tried.stderr))
        libraries = {found[0] for line in lacking if (found := LIBRARY.match(line))}
        files = {line for line in lacking if line.startswith("/")}
        named = {line for line in lacking - files if not LIBRARY.match(line)} - {"rtld(GNU_HASH)"}
        assert libraries, tried
        assert named == set(NAMED), tried
        self.apt("update")
        self.apt("install", "--no-install-recommends", *(package for found in NAMED.values() for package in found))
        cache = self.run("ldconfig", "--print-cache")
        assert [file for file in files if not self.has(file[1:])] == []
        assert [library for library in libraries if f"\t{library} (" not in cache] == []
        for name, text in (
            ("usr/lib/systemd/systemd-update-helper", HELPER),
            ("usr/lib/systemd/system-preset/99-default-disable.preset", "disable *\n"),
            ("usr/lib/systemd/user-preset/99-default-disable.preset", "disable *\n"),
        ):
            path = self.path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        # It is in Fedora's package filesystem.
        (self.path / "usr/share/licenses").mkdir(exist_ok=True)
