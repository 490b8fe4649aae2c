"""The trial of opencryptoki, whose daemon and files are in namespaces of their own."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hwsigner.trial import TrialReport, Verdict
from trial.token_trials import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.root]
PIN = "73190264"
_CONFIGURATION = "version opencryptoki-3.0\nslot 3\n{\nstdll = libpkcs11_sw.so\ntokversion = 3.12\n}\n"
# $1: the configuration. The arguments after it: the trial.
_SCRIPT = f"""
set -e
mkdir -p /run/opencryptoki /run/lock/opencryptoki
for folder in /var/lib/opencryptoki /run/opencryptoki /run/lock/opencryptoki /dev/shm; do
    mount -t tmpfs none $folder
done
mkdir -p /var/lib/opencryptoki/swtok/TOK_OBJ /run/lock/opencryptoki/swtok
mount --bind "$1" /etc/opencryptoki/opencryptoki.conf
shift
pkcsslotd
echo hushed | pkcsconf -I -c 3 -S 87654321
pkcsconf -P -c 3 -S 87654321 -n 76543210
pkcsconf -u -c 3 -S 76543210 -n 12345678
pkcsconf -p -c 3 -U 12345678 -n {PIN}
exec "$@"
"""


def test_trial_of_opencryptoki_misses_only_a_serial_number_and_leaves_nothing(tmp_path: Path) -> None:
    configuration = tmp_path / "opencryptoki.conf"
    configuration.write_text(_CONFIGURATION)
    [module, *_] = glob.glob("/usr/lib/*/pkcs11/libopencryptoki.so")
    trial = [sys.executable, "-m", "hwsigner.trial", "token", module, "--yes", "--write", "hushed"]
    unshare = ["unshare", "--mount", "--ipc", "--pid", "--fork", "--mount-proc", "sh", "-c", _SCRIPT, "sh"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HWSIGNER_PIN": PIN}
    command = [*unshare, str(configuration), *trial, "--output", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110)
    assert "Nothing that it made is left on the token" in done.stdout, done.stdout + done.stderr
    [path] = tmp_path.glob("trial-token-*.json")
    report = TrialReport.from_json(path.read_text())
    differing = {one.id: one.answer for one in report.results if one.verdict == Verdict.DIFFERS}
    assert differing.items() <= {"token.names": "label"}.items()
    assert report.counts[Verdict.EXPECTED] > 80
