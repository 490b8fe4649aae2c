"""The contracts find the faults of a backend: each is planted in one whose key is in a dict."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FAULTY = Path(__file__).with_name("faulty_backend.py")
# By fault, the only test of the contracts that fails.
FAULTS = {
    "": set(),
    "a PIN is not remembered": {"test_right_answer_is_remembered"},
    "an unknown label opens another key": {"test_name_of_no_key_opens_no_key"},
    "opening leaks an OSError": {"test_unreachable_key_is_a_signing_key_error"},
    "signing leaks an OSError": {"test_lost_key_signs_or_is_a_signing_key_error"},
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_contracts_find_the_fault(fault: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "--tb=no", "--noconftest", str(FAULTY)]
    done = subprocess.run(command, env={**os.environ, "FAULT": fault}, capture_output=True, text=True)
    assert set(re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE)) == FAULTS[fault], done.stdout
    assert done.returncode == bool(fault)
