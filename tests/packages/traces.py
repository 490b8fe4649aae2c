"""What use of the packages leaves behind."""

from __future__ import annotations

from packages.root import Root


def leave_traces(root: Root) -> None:
    """Make what the services and an administrator leave behind."""
    for trace in (
        "lib/hwsigner/srk",
        "lib/hwsigner-serve/web/token",
        "lib/hwsigner-registrar/keys",
        "log/hwsigner/log",
    ):
        path = root.path / "var" / trace
        path.parent.mkdir(parents=True)
        path.touch()
    root.run("chown", "-R", "hwsigner-registrar:", "/var/lib/hwsigner-registrar")
    root.run("systemctl", "enable", "hwsigner-agent.socket", "hwsigner-registrar.service", "hwsigner-renew@web.timer")
    (root.path / "etc/hwsigner/web.key").touch()
    # Bytecode that a run as root would write.
    root.run("hwsigner", "profile", "list")
