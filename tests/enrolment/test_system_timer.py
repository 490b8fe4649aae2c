"""The system's renewal timer under a systemd of its own: its sandboxed service sets how often it looks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import certs
import judges
from packages.booted import UNIT

PROGRAM = Path(sys.executable).with_name("hwsigner")
TIMER = "hwsigner-renew@web.timer"
# Where hwsigner is installed: the service has a /tmp and no /root of ours.
PLACES = f"{Path(__file__).parents[2]} {sys.prefix} {sys.base_prefix}"
DROP_IN = Path(f"/etc/systemd/system/{TIMER}.d/50-hwsigner.conf")
# In namespaces of its own, with changes to /etc and /var that only they see.
BOOT = """
set -e
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /sys/fs/cgroup/machine && echo 0 > /sys/fs/cgroup/machine/cgroup.procs
mount -t tmpfs none "$1/changes"
for folder in etc var; do
    mkdir -p "$1/changes/$folder/new" "$1/changes/$folder/work"
    folders=upperdir=$1/changes/$folder/new,workdir=$1/changes/$folder/work
    mount -t overlay overlay -o "lowerdir=/$folder,$folders" "/$folder"
done
mount -t tmpfs none /run
ln -sf /dev/null /etc/systemd/system/tmp.mount
cp "$1/script.service" /etc/systemd/system
exec env -i container=test PATH=/usr/sbin:/usr/bin /usr/lib/systemd/systemd --system --unit=script.service
"""
SCRIPT = """
mkdir -p /etc/pki && cd /etc/pki
cp {folder}/ca.* {folder}/issue .  # The service has a /tmp of its own.
echo -days 9 > validity
export LANG=C.UTF-8 HOME=/root
date_in() {{ date -u -d "$1" +%Y%m%d%H%M%SZ; }}
look() {{
    echo LOOK
    openssl x509 -req -in web.csr -CA ca.pem -CAkey ca.key -copy_extensions copy \\
        -not_before "$(date_in '-9 days')" -not_after "$(date_in '+10 minutes')" -out /etc/pki/web.crt
    echo "-not_before $(date_in now) -not_after $(date_in "$1")" > validity
    systemctl start hwsigner-renew@web.service
    systemctl show {timer} -p TimersMonotonic -p TimersCalendar
    ls {drop_in} || true
}}
{program} systemd install --system
mkdir /etc/systemd/system/hwsigner-renew@.service.d
printf '[Service]\\nBindReadOnlyPaths=%s\\n' '{places}' > /etc/systemd/system/hwsigner-renew@.service.d/place.conf
systemctl daemon-reload
{program} enroll web --system --private-key /etc/pki/web.key --subject CN=web --issuer-command /etc/pki/issue
{program} csr /etc/pki/web.key --subject CN=web --out web.csr
systemctl start {timer}
look '+1 hour'
look '+9 days'
touch {folder}/passed
"""


@judges.needs_openssl_3_5
@pytest.mark.root
@pytest.mark.slow
def test_service_of_the_system_s_timer_sets_its_pace_and_takes_it_back(ca: certs.Authority, tmp_path: Path) -> None:
    (tmp_path / "changes").mkdir()
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    certs.write_key(tmp_path / "ca.key", ca.key)
    issue = tmp_path / "issue"
    flags = "-CA ca.pem -CAkey ca.key -copy_extensions copy"
    issue.write_text(f"#!/bin/sh\ncd /etc/pki\nexec openssl x509 -req {flags} $(cat validity)\n")
    issue.chmod(0o755)
    values = {"folder": tmp_path, "program": PROGRAM, "places": PLACES, "timer": TIMER, "drop_in": DROP_IN}
    (tmp_path / "script").write_text(SCRIPT.format(**values))
    (tmp_path / "script.service").write_text(
        UNIT.format(command=f"/bin/sh -eu {tmp_path}/script", log=f"{tmp_path}/log")
    )
    namespaces = ("unshare", "--mount", "--pid", "--cgroup", "--fork", "--mount-proc", "--propagation=private")
    command = [*namespaces, "sh", "-c", BOOT, "sh", str(tmp_path)]
    booted = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    log = tmp_path / "log"
    text = log.read_text() if log.exists() else f"{booted}"
    assert (tmp_path / "passed").exists(), text
    hour, days = text.split("LOOK")[1:]
    assert "OnUnitInactiveUSec=45s" in hour
    assert "OnCalendar" not in hour
    assert f"\n{DROP_IN}\n" in hour
    assert "OnCalendar=*-*-* *:00/15:00" in days
    assert "OnUnitInactiveUSec" not in days
    assert f"\n{DROP_IN}\n" not in days
