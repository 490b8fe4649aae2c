"""What the trials share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from hwsigner.trial.asking import interrupt, on_signals


@pytest.fixture
def ignored() -> Iterator[signal.Signals]:
    """A signal that is ignored, as nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield signal.SIGHUP
    signal.signal(signal.SIGHUP, before)


def test_signal_that_nohup_ignores_does_not_end_a_trial(ignored: signal.Signals) -> None:
    with on_signals(interrupt):
        os.kill(os.getpid(), ignored)
    assert signal.getsignal(ignored) is signal.SIG_IGN


def test_signal_interrupts_a_trial_and_its_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), on_signals(interrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
