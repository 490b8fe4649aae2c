"""The log and the audit log in a real journal: systemd-journald in a mount namespace with a /run of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

JOURNALD = Path("/usr/lib/systemd/systemd-journald")
# Starts the journal, runs a program whose stderr it reads, and prints what the journal has of it.
SCRIPT = f"""
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
{JOURNALD} 2>/dev/null &
while [ ! -S /run/systemd/journal/socket ] || [ ! -S /run/systemd/journal/stdout ]; do sleep 0.05; done
systemd-cat "$@"
journalctl --sync
journalctl --no-pager -t hwsigner -o json
kill $!
"""
PROGRAM = """
from hwsigner import Credentials
from hwsigner._monitoring.audit import Audit
from hwsigner._monitoring.log import Log

Log().note("error: no session", profile="web", cause="pin")
credentials = Credentials("ASIA1", "", "", None, "", "")
Audit("journal", required=True, log=print, rate=6000).give("web", credentials, 7, {"uid": 7})
"""


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(not JOURNALD.exists(), reason="systemd-journald is not installed")
def test_journal_has_the_fields_of_the_log_and_the_audit_log() -> None:
    command = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    failure, audit = map(json.loads, done.stdout.splitlines())
    assert (failure["MESSAGE"], failure["PRIORITY"], failure["HWSIGNER_CAUSE"]) == ("no session", "3", "pin")
    assert (audit["MESSAGE"], audit["HWSIGNER_ACCESS_KEY_ID"]) == ("credentials given", "ASIA1")
    assert (audit["HWSIGNER_PROFILE"], audit["HWSIGNER_UID"]) == ("web", "7")
