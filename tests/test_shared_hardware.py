"""A module that leaves shared hardware changed fails, and its failure names the test that did it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared_hardware import Watch

IMPORTS = """
import subprocess
import pytest
from softhsm.command import ToolError, run
from softhsm.yubikey import YubiKey
pytestmark = pytest.mark.hardware

def lists(softhsm, pin):
    login = ["--token-label", softhsm.label, "--login", "--pin", pin]
    command = ["pkcs11-tool", "--module", softhsm.module, "-O", *login]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin", **softhsm.env}, capture_output=True).returncode == 0

def limit(swtpm, tries):
    run(["tpm2_dictionarylockout", "-s", "-n", str(tries), "-t", "1000", "-l", "1000"], swtpm.env)

def send_wrong_auth_value(swtpm, folder):
    swtpm.persist(0x81000101, "ecc256", "right")
    with pytest.raises(ToolError):
        run(["tpm2_sign", "-c", "0x81000101", "-p", "wrong", "-o", str(folder / "signature"), __file__], swtpm.env)
    run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81000101"], swtpm.env)
"""
# Leaves everything as it was.
TIDY = """
@pytest.mark.usefixtures("any_auth_values")
def test_auth_value_and_limit(swtpm, tmp_path):
    limit(swtpm, 4)
    send_wrong_auth_value(swtpm, tmp_path)

@pytest.fixture(scope="module")
def handle(swtpm):
    swtpm.persist(0x81000104, "ecc256")
    yield
    run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", "0x81000104"], swtpm.env)

def test_handle_of_the_module(handle):
    pass

def test_wrong_pin_and_the_right_one(softhsm):
    assert [lists(softhsm, "9999"), lists(softhsm, softhsm.pin)] == [False, True]
"""
LEAVING = """
def test_nothing(swtpm, softhsm, pcsc):
    pass

def test_limit(swtpm):
    limit(swtpm, 9)

def test_auth_value(swtpm, tmp_path):
    send_wrong_auth_value(swtpm, tmp_path)

def test_handle(swtpm):
    swtpm.persist(0x81000102, "ecc256")

def test_pcr(swtpm):
    run(["tpm2_pcrextend", f"23:sha256={'11' * 32}"], swtpm.env)

def test_index(swtpm):
    run(["tpm2_nvdefine", "-Q", "0x01c20001", "-C", "o", "-s", "8"], swtpm.env)

def test_object(swtpm, tmp_path):
    run(["tpm2_createprimary", "-Q", "-c", str(tmp_path / "primary")], swtpm.env)

def test_session(swtpm, tmp_path):
    run(["tpm2_startauthsession", "-S", str(tmp_path / "session")], swtpm.env)

def test_hierarchy(swtpm):
    run(["tpm2_changeauth", "-Q", "-c", "e", "new"], swtpm.env)

def test_pin(softhsm):
    assert not lists(softhsm, "9999")

def test_card(pcsc, tmp_path):
    YubiKey(tmp_path / "card.json", 4711).insert(pcsc)

def test_last(swtpm, softhsm, pcsc):
    pass
"""
LATER = """
def test_nothing(swtpm, softhsm, pcsc):
    pass
"""
# What the failure says was changed, by the test that it names.
LEFT = {
    "test_limit": ["no more TPM: 0x3 wrong auth values allowed", "TPM: 0x9 wrong auth values allowed"],
    "test_auth_value": ["no more TPM: 0x0 wrong auth values counted", "TPM: 0x1 wrong auth values counted"],
    "test_handle": ["TPM: persistent handle 0x81000102"],
    "test_pcr": [f"no more TPM: PCR 23 {'00' * 32}", "TPM: PCR 23"],
    "test_index": ["TPM: NV index 0x1c20001"],
    "test_object": ["TPM: transient object 0x80000000"],
    "test_session": ["TPM: saved session 0x2000000"],
    "test_hierarchy": ["no more TPM: 0x400 flags", "TPM: 0x402 flags"],
    "test_pin": ["SoftHSM: PIN flags 0x10000 of token"],
    "test_card": ["a card in reader 0"],
}


@pytest.mark.usefixtures("hardware")
def test_module_that_leaves_shared_hardware_changed_is_named_with_its_tests(short_folder: Path) -> None:
    for name, tests in (("test_1", TIDY), ("test_2", LEAVING), ("test_3", LATER)):
        (short_folder / f"{name}.py").write_text(IMPORTS + tests)
    folder = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (folder, folder.parent)))}
    options = "-p emulators -p shared_hardware -p yubikeys -p no:randomly -o markers=hardware -rE --tb=short"
    command = [sys.executable, "-m", "pytest", *options.split()]
    done = subprocess.run(command, cwd=short_folder, env=env, capture_output=True, text=True, timeout=120)
    assert set(re.findall(r"^ERROR (\S+)", done.stdout, re.MULTILINE)) == {"test_2.py::test_last"}, done.stdout
    changes = re.split(r"; |\n|test_2.py has left in the hardware that tests share: ", done.stdout)
    for test, facts in LEFT.items():
        since = [change for change in changes if change.endswith(f", since {test}")]
        assert len(since) == len(facts), (test, since, done.stdout)
        assert all(change.startswith(fact) for change, fact in zip(since, facts, strict=True)), (since, facts)


def test_change_by_a_fixture_of_the_module_is_named_as_such() -> None:
    facts = {"one"}
    watch = Watch(lambda: frozenset(facts))
    watch.note("test_one")
    facts.symmetric_difference_update({"one", "two"})
    ended = "since a fixture of the module ended"
    assert watch.changes() == [f"no more one, {ended}", f"two, {ended}"]


def test_change_is_named_once() -> None:
    facts: set[str] = set()
    watch = Watch(lambda: frozenset(facts))
    facts.add("one")
    watch.note("test_one")
    assert [watch.changes(), watch.changes()] == [["one, since test_one"], []]


def test_change_that_a_test_undoes_is_not_named() -> None:
    facts = {"one"}
    watch = Watch(lambda: frozenset(facts))
    facts.clear()
    watch.note("test_one")
    facts.add("one")
    watch.note("test_two")
    assert watch.changes() == []
