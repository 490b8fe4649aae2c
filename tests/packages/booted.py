"""A root that systemd-nspawn boots: a script runs in it while systemd does."""

from __future__ import annotations

import subprocess

from packages.root import Root

# The system powers off once it ends.
UNIT = """
[Unit]
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart={command}
StandardOutput=file:{log}
StandardError=inherit
[Install]
WantedBy=multi-user.target
"""
# The agent locks memory.
NSPAWN = ("--quiet", "--register=no", "--keep-unit", "--private-network", "--capability=CAP_IPC_LOCK", "--boot")


def run_booted(root: Root, script: str) -> None:
    """Boot a root that has systemd, run a script of sh in it, and power it off. The script must succeed."""
    root.put()
    (root.path / "packages/script").write_text(f"{script}\ntouch /packages/passed\n")
    (root.path / "etc/systemd/system/script.service").write_text(
        UNIT.format(command="/bin/sh -eux /packages/script", log="/packages/log")
    )
    root.run("systemctl", "enable", "script.service")
    environment = {"PATH": "/usr/sbin:/usr/bin", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
    command = ["systemd-nspawn", *NSPAWN, f"--directory={root.path}"]
    booted = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
    log = root.path / "packages/log"
    assert root.has("packages/passed"), log.read_text() if log.exists() else booted
