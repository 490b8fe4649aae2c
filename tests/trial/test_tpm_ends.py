"""A trial of a TPM that ends before its time: by a signal, by SIGKILL, or by a TPM that fails."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.tpm2.tpms import flush_handles, handles_in
from hwsigner.trial.tpm.state import Journal
from softhsm.command import run
from softhsm.tabrmd import ResourceManager
from softhsm.tpm import SoftTPM
from tpm_proxy import FAULTS, Fault, TPMProxy
from trial.tpms import Trials, killed_at, seen

WRITES = ("--write", "0x81000200-0x8100020f", "--write", "0x01c20000-0x01c2000f")
# One question of each kind of thing that is loaded, and those that write.
SOME = (
    "keys.p-256",
    "keys.restricted*",
    "auth.session",
    "policies.or",
    "endorsement.activate",
    "room.*",
    "sharing.stays",
)
FLUSH_CONTEXT = 0x165
ONLY = tuple(flag for name in (*SOME, "writing.*") for flag in ("--only", name))


@pytest.fixture
def tpm(hardware: None, short_folder: Path) -> Iterator[SoftTPM]:
    """A TPM of this test's own."""
    with SoftTPM(short_folder) as tpm:
        yield tpm


@pytest.fixture
def trials(tpm: SoftTPM, tmp_path: Path) -> Trials:
    return Trials(tpm, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("question", ["keys.p-384", "endorsement.quote", "room.objects", "writing.taken"])
def test_trial_that_a_signal_ends_leaves_the_tpm_as_it_was_and_a_report(
    trials: Trials, number: signal.Signals, question: str
) -> None:
    before = seen(trials.tpm)
    process = trials.start("--yes", *WRITES)
    assert process.stderr
    for line in process.stderr:
        if f" {question}:" in line:
            process.send_signal(number)
            break
    output, errors = process.communicate()
    assert process.returncode == 130, output + errors
    assert "The TPM is as it was" in errors
    assert seen(trials.tpm) == before
    assert [each.id for each in trials.report().results][-1] != "end.changed"


@pytest.fixture
def proxy(tpm: SoftTPM, short_folder: Path) -> Iterator[TPMProxy]:
    with TPMProxy(tpm, short_folder) as proxy:
        yield proxy


def _commands(trials: Trials, proxy: TPMProxy) -> int:
    """Return how many commands a trial sends."""
    status, output = trials.run(*ONLY, *WRITES, tcti=proxy.tcti)
    assert status == 0, output
    return len(proxy.exchanges)


def _killed(
    trials: Trials, proxy: TPMProxy, number: int, with_signal: signal.Signals = signal.SIGKILL
) -> tuple[int, str]:
    """Send a trial a signal with a command that the TPM executes; return its exit status, and what it printed."""
    process: subprocess.Popen[str] | None = None

    def victim() -> subprocess.Popen[str]:
        assert process
        return process

    proxy.decide = killed_at(victim, number, with_signal)
    process = trials.start("--yes", *ONLY, *WRITES, tcti=proxy.tcti)
    output, errors = process.communicate()
    proxy.decide = lambda command: "pass"
    return process.returncode, output + errors


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_trial_that_ctrl_c_ends_at_any_command_leaves_the_tpm_as_it_was(
    trials: Trials, proxy: TPMProxy, part: int
) -> None:
    total, before = _commands(trials, proxy), seen(trials.tpm)
    for number in (3 * part, 12 + 5 * part, 40 + part * (total - 40) // 4):
        status, output = _killed(trials, proxy, number, signal.SIGINT)
        assert (status, seen(trials.tpm)) == (130, before), f"command {number} of {total}: {output}"
        assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_what_a_killed_trial_left_is_removed_by_clean(trials: Trials, proxy: TPMProxy, part: int) -> None:
    total, before = _commands(trials, proxy), seen(trials.tpm)
    for number in range(10 + part * total // 8, total, total):
        assert _killed(trials, proxy, number)[0] == -signal.SIGKILL
        status, output = trials.run("--clean", tcti=proxy.tcti)
        assert (status, seen(trials.tpm)) == (0, before), f"command {number} of {total}: {output}"


@pytest.mark.slow
@pytest.mark.parametrize("question", ["keys.p-384", "sharing.second-process", "writing.persistent", "writing.index"])
def test_a_trial_that_was_killed_behind_a_resource_manager_leaves_nothing_after_clean(
    trials: Trials, question: str
) -> None:
    with ResourceManager(trials.tpm) as manager:
        before = seen(trials.tpm)
        process = trials.start("--yes", *WRITES, tcti=manager.tcti, **manager.env)
        assert process.stderr
        for line in process.stderr:
            if f" {question}:" in line:
                process.kill()
                break
        process.communicate()
        status, output = trials.run("--clean", tcti=manager.tcti, **manager.env)
        assert (status, seen(trials.tpm)) == (0, before), output


@pytest.mark.slow
def test_what_others_load_after_a_trial_was_killed_stays(trials: Trials, proxy: TPMProxy) -> None:
    total = _commands(trials, proxy)
    _killed(trials, proxy, total // 4)
    left = handles_in(trials.tpm)
    flush_handles(trials.tpm, left)
    run(["tpm2_createprimary", "-Q", "-G", "ecc"], trials.tpm.env)
    foreign = seen(trials.tpm)
    assert trials.run("--clean", tcti=proxy.tcti)[0] == 0
    assert seen(trials.tpm) == foreign


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_trial_of_a_tpm_that_fails_once_leaves_it_as_it_was(trials: Trials, proxy: TPMProxy, fault: Fault) -> None:
    total, before = _commands(trials, proxy), seen(trials.tpm)
    for number in range(30, total, total // 5):
        proxy.at(number, fault)
        status, output = trials.run(*ONLY, *WRITES, tcti=proxy.tcti)
        # An answer that is lost while hwsigner itself opens a key leaves the key there, which the trial flushes.
        assert status in (0, 1), output
        assert fault == 0x101 or trials.differing().keys() <= {"end.changed"}, output
        assert seen(trials.tpm) == before, f"command {number} of {total}: {output}"


def test_a_tpm_that_keeps_what_is_flushed_is_an_error(trials: Trials, proxy: TPMProxy) -> None:
    proxy.decide = lambda command: 0 if int.from_bytes(command[6:10]) == FLUSH_CONTEXT else "pass"
    status, output = trials.run("--only", "keys.p-256", tcti=proxy.tcti)
    assert status == 2
    assert "the TPM could not be left as it was: it keeps objects of the trial that were flushed" in output
    proxy.decide = lambda command: "pass"
    assert trials.run("--clean", tcti=proxy.tcti)[0] == 0
    assert handles_in(trials.tpm) == []


def test_a_second_trial_of_a_tpm_is_refused_while_the_first_one_runs(trials: Trials) -> None:
    journal = Journal(trials.tpm.tcti)
    status, output = trials.run("--only", "basics.lockout")
    journal.end()
    assert status == 3
    assert "another trial of this TPM runs" in output
