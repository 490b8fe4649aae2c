"""The maintainer scripts while systemd runs, in a container: removing the package stops the agents of users."""

from __future__ import annotations

from pathlib import Path

from packages.booted import run_booted
from packages.root import Root

SCRIPT = """
useradd --create-home web
loginctl enable-linger web
for second in $(seq 30); do [ -S /run/user/$(id -u web)/bus ] && break; sleep 1; done
dpkg --install /packages/hwsigner*.deb
user() { systemctl --user --machine=web@ "$@"; }
user start hwsigner-agent.socket hwsigner-agent.service
user is-active hwsigner-agent.service
dpkg --remove hwsigner
[ -z "$(user list-units --plain --no-legend --state=active,activating,failed 'hwsigner-*')" ]
[ -z "$(pgrep --uid web --full bin/hwsigner)" ]
"""


def run_users(root: Root, program: Path, client: Path) -> None:
    """removed in a container, while systemd and an agent of a user run"""
    root.apt("update")
    root.apt("install", *root.put(program, client))
    root.apt("install", "--no-install-recommends", "dbus-user-session", "libpam-systemd", "procps", "systemd-sysv")
    run_booted(root, SCRIPT)
    print("Nothing of a user runs on.", flush=True)
