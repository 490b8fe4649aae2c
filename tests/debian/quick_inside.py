"""Follow the quick start of a server and of a build agent, as root: `debian.tutorial` runs this in a container.

The TPM and AWS are emulated, so the key URIs name its TCTI, and the profiles the emulator.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from pages import shell_blocks

_AWS = """
mkdir -p tpm && swtpm socket --tpm2 --daemon --tpmstate dir=$PWD/tpm --flags not-need-init,startup-clear \\
    --server type=unixio,path=$PWD/tpm/socket,mode=0666 --ctrl type=unixio,path=$PWD/tpm/socket.ctrl,mode=0666
hwsigner emulator --empty > emulator.env 2> emulator.log &
until grep -qs ^secret-access-key= emulator.env; do sleep 0.1; done
value() { sed -n "s/^$1=//p" emulator.env; }
export AWS_ENDPOINT_URL=$(value endpoint) AWS_PAGER=
export AWS_ACCESS_KEY_ID=$(value access-key-id) AWS_SECRET_ACCESS_KEY=$(value secret-access-key)
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout ca.key -out ca.pem -days 3650 \\
    -subj "/CN=Example CA" -addext keyUsage=critical,keyCertSign,cRLSign
useradd gitlab-runner
"""
_CERTIFY = "openssl x509 -req -in web.csr -CA ca.pem -CAkey ca.key -copy_extensions copy -days 90 -out web.pem\n"
_CLEAN_UP = """
hwsigner systemd uninstall --system || systemctl disable --now hwsigner-agent.socket hwsigner-agent.service
hwsigner profile remove web --system
"""


def _emulated(script: str) -> str:
    """Return the commands of a page for the emulated TPM and AWS, with a CA that issues what is asked for."""
    for kind in ("trust-anchor", "role", "profile"):
        script = script.replace(f"--{kind}-arn ARN", f"--{kind}-arn $(sed -n 's/^{kind}-arn = //p' setup.out)")
    script = script.replace("tpm2:path=/etc/hwsigner/web.tss2", '"tpm2:path=/etc/hwsigner/web.tss2?tcti=$TCTI"')
    script = script.replace("handle:0x81000100", '"handle:0x81000100?tcti=$TCTI"')
    script = re.sub(r"^(hwsigner profile add .*)$", r'\1 --endpoint "$AWS_ENDPOINT_URL"', script, flags=re.M)
    return re.sub(r"^hwsigner install-certificate", f"{_CERTIFY}\\g<0>", script, flags=re.M)


if __name__ == "__main__":
    folder = Path("/srv/quick")
    folder.mkdir()
    setup = shell_blocks("docs/start/quick.md", "## Once, in AWS", "| Machine")
    server = shell_blocks("docs/start/quick.md", "## A server with a TPM", "## A YubiKey")
    build_agent = shell_blocks("docs/start/quick.md", "## A build agent", "## If something fails")
    lines = [
        _AWS,
        setup.replace("# asks", "--yes > setup.out"),
        "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY",
        'TCTI="swtpm:path=$PWD/tpm/socket"',
        _emulated(server),
        _CLEAN_UP,
        _emulated(build_agent),
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8"}
    done = subprocess.run(
        ["sh", "-eux"],
        input="\n".join(lines),
        cwd=folder,
        env=environment,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
    )
    assert done.stdout.count("assumed-role/web/") == 2, done.stdout
