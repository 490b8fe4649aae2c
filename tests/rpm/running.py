"""The scriptlets while systemd runs, in a container: an upgrade restarts services, and erasing stops them all."""

from __future__ import annotations

from pathlib import Path

from packages.booted import run_booted
from rpm.life import make_older
from rpm.root import RpmRoot

ARN = "arn:aws:rolesanywhere:eu-central-1:123456789012"
ID = "/00000000-0000-4000-8000-000000000000"
SCRIPT = f"""
pid() {{ systemctl show --property=MainPID --value "$1"; }}
user() {{ systemctl --user --machine=joan@ "$@"; }}
units() {{ "${{1-systemctl}}" list-units --plain --no-legend --state=active,activating,failed 'hwsigner-*'; }}
rpm --nodeps --install $OLDER
[ -z "$(units)" ]
cd /etc/hwsigner
openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=web -keyout web.key -out web.pem \\
    -addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature
hwsigner profile add web --certificate /etc/hwsigner/web.pem --private-key /etc/hwsigner/web.key \\
    --trust-anchor-arn {ARN}:trust-anchor{ID} --profile-arn {ARN}:profile{ID} \\
    --role-arn arn:aws:iam::123456789012:role/web
mv /root/.config/hwsigner/config.toml .
chgrp hwsigner *
chmod 640 *
systemctl enable --now hwsigner-agent.socket hwsigner-serve@web.socket hwsigner-serve@web hwsigner-renew@web.timer
systemctl start hwsigner-agent.service
# A user serves the same profile, at another port.
useradd --create-home --groups hwsigner joan
mkdir -p /home/joan/.config/hwsigner /etc/systemd/user/hwsigner-serve@.service.d
cp config.toml /home/joan/.config/hwsigner
chown -R joan: /home/joan/.config
cat > /etc/systemd/user/hwsigner-serve@.service.d/port.conf << END
[Service]
ExecStart=
ExecStart=/usr/bin/hwsigner serve %i --port=9912
END
loginctl enable-linger joan
for second in $(seq 30); do [ -S /run/user/$(id -u joan)/bus ] && break; sleep 1; done
user start hwsigner-agent.service hwsigner-serve@web.service hwsigner-renew@web.timer
pgrep --uid joan --full 'bin/hwsigner serve'
agent=$(pid hwsigner-agent.service)
serve=$(pid hwsigner-serve@web.service)
[ "$agent" != 0 ]
[ "$serve" != 0 ]
[ -n "$(units)" ]
rpm --nodeps --upgrade $NEWER
[ "$(pid hwsigner-serve@web.service)" != "$serve" ]
[ "$(pid hwsigner-serve@web.service)" != 0 ]
# As a trigger in Fedora's package systemd does at the end.
systemctl reload-or-restart --marked
[ "$(pid hwsigner-agent.service)" != "$agent" ]
[ "$(pid hwsigner-agent.service)" != 0 ]
rpm --nodeps --erase hwsigner hwsigner-credentials
[ -z "$(units)" ]
[ -z "$(units user)" ]
[ -z "$(pgrep --uid joan --full bin/hwsigner)" ]
"""


def run_services(root: RpmRoot, _source: Path, program: Path, client: Path) -> None:
    """an older version installed, upgraded and erased in a container, while systemd and the services run"""
    root.prepare(program, client)
    programs = ("dbus-user-session", "libpam-systemd", "openssl", "procps", "systemd-sysv")
    root.apt("install", "--no-install-recommends", *programs)
    older, newer = (" ".join(packages) for packages in (make_older(root, program, client), root.put(program, client)))
    run_booted(root, f"OLDER='{older}' NEWER='{newer}'\n{SCRIPT}")
    print("Nothing started, then services restarted, then all stopped.", flush=True)
