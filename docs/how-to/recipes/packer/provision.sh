#!/bin/bash
# Installs hwsigner into an image. Its wheel, and one of tpm2-pytss, are in /var/cache: no compiler is needed.
set -euo pipefail

apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install -y python3-venv tpm2-tools # brings libtss2
python3 -m venv /opt/hwsigner
wheel="$(echo /var/cache/hwsigner-*.whl)"
/opt/hwsigner/bin/pip install --find-links /var/cache --only-binary tpm2-pytss "hwsigner[tpm2] @ file://$wheel"
rm "$wheel" /var/cache/tpm2_pytss-*.whl

SYSTEMD_OFFLINE=1 /opt/hwsigner/bin/hwsigner systemd install --system
mkdir -p /etc/hwsigner /etc/pki
SYSTEMD_OFFLINE=1 systemctl enable hwsigner-first-boot.service hwsigner-agent.socket hwsigner-renew@web.timer

# The image is copied: it must hold no key and no identity.
if ls /etc/pki/*.tss2 /etc/pki/*.key /etc/hwsigner/config.toml 2>/dev/null; then
    echo "These files must not be in the image" >&2
    exit 1
fi
truncate --size=0 /etc/machine-id
rm -f /etc/ssh/ssh_host_*
