"""The trial of emulated YubiKeys, through libykcs11 and OpenSC's module."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from hwsigner.trial import TrialReport
from hwsigner.trial.token.questions import QUESTIONS
from softhsm.pcsc import SoftPcsc
from softhsm.yubikey import OPENSC, YKCS11, YubiKey, find_module
from terminals import Terminal
from trial.token_trials import TrialRun

NAME = "hushed-subject"
pytestmark = pytest.mark.slow


@pytest.fixture
def card(yubikey: YubiKey) -> YubiKey:
    """A card with keys in 9a and 9c, which wants the PIN for each signature."""
    yubikey.write_chuid()
    for slot in (0x9A, 0x9C):
        yubikey.generate(slot)
        yubikey.self_sign(slot, NAME)
    return yubikey


def contents(card: YubiKey) -> object:
    """Return all that is on the card."""
    return asdict(card.state)


def identifying(card: YubiKey) -> list[str]:
    """Return what no report may have."""
    return [NAME, str(card.serial), f"{card.serial:x}", card.pin]


# Behind OpenSC's module, another process that uses the card ends the login.
@pytest.mark.parametrize(("module", "differing"), [(YKCS11, set()), (OPENSC, {"sign.second-process", "fork.parent"})])
def test_trial_of_a_yubikey_reads_signs_and_changes_nothing(
    card: YubiKey, tmp_path: Path, module: str, differing: set[str]
) -> None:
    before = contents(card)
    run = TrialRun(find_module(module), tmp_path, "--yes", "--sign-with", "01", pin=card.pin).finish()
    assert run.differing.keys() <= differing, run.output
    assert run.answers["sign.ecdsa"] == "r and s, each as long as the order"
    assert run.answers["keygen.p256"] == "not asked: nothing is written without --write"
    assert run.report.target["keys that want the PIN for each signature"] == "1"
    assert set(card.pin_tries) == {0x9000}
    assert contents(card) == before
    texts = "".join(path.read_text() for path in tmp_path.iterdir())
    assert [one for one in identifying(card) if one in texts] == []


@pytest.mark.parametrize("module", [YKCS11, OPENSC])
def test_nothing_is_written_on_a_piv_card(card: YubiKey, tmp_path: Path, module: str) -> None:
    before = contents(card)
    only = ("--only", "keygen.*", "--only", "write.*")
    run = TrialRun(find_module(module), tmp_path, "--yes", "--write", "0", *only, pin=card.pin).finish()
    assert run.answers["keygen.p256"].startswith("not asked: a PIV card keeps no labels")
    assert "hwsigner: no question was asked. The report says why" in run.output
    assert (run.status, contents(card)) == (2, before)


@pytest.mark.parametrize("module", [YKCS11, OPENSC])
def test_no_pin_is_sent_while_a_yubikey_counts_a_wrong_one(card: YubiKey, tmp_path: Path, module: str) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    for folder, pin in zip(folders, ("999999", card.pin), strict=True):
        folder.mkdir()
        run = TrialRun(find_module(module), folder, "--yes", pin=pin, XDG_STATE_HOME=str(folder)).finish()
        assert run.answers["key.names"].startswith("not asked: ")
    assert card.pin_tries == [0x63C2]
    # OpenSC's module does not show it. The trial asks the card itself.
    assert run.differing == ({"token.pin-count": "an earlier try failed"} if module == YKCS11 else {}), run.output
    assert "an earlier try failed" in run.answers["key.names"]


def test_removed_card_costs_the_questions_after_it_only(card: YubiKey, tmp_path: Path) -> None:
    run = TrialRun(find_module(YKCS11), tmp_path, "--yes", pin=card.pin)
    run.read_until("login.shared")
    card.remove()
    run.finish()
    assert run.answers["login.shared"] == "yes"
    assert run.answers["login.again"] == "the login failed with TokenRemovedError"
    assert [one.id for one in run.report.results] == [one.id for one in QUESTIONS]


@pytest.mark.parametrize("module", [YKCS11, OPENSC])
def test_user_is_asked_for_the_pin_and_to_pull_the_card(
    card: YubiKey, pcsc: SoftPcsc, tmp_path: Path, module: str
) -> None:
    terminal = Terminal(tmp_path)
    only = ("--only", "login.shared", "--only", "token.pulled", "--output", str(tmp_path))
    command = (sys.executable, "-m", "hwsigner.trial", "token", find_module(module), *only)
    names = ("HOME", "XDG_STATE_HOME", "PCSCLITE_CSOCK_NAME")
    process = terminal.start(*command, **{name: os.environ[name] for name in names if name in os.environ})
    keys, screen = process.stdin, process.stdout
    assert keys is not None
    assert screen is not None

    def answer(question: bytes) -> None:
        shown = b""
        while not shown.endswith(question):
            read = screen.read(1)
            assert read, shown
            shown += read

    def enter(text: bytes = b"") -> None:
        keys.write(text + b"\n")
        keys.flush()

    answer(b"Go on? [y/N] ")
    enter(b"y")
    terminal.shown_until("user PIN for token")
    terminal.wait_until_silent()
    terminal.type(card.pin.encode() + b"\n")
    answer(b"then press Enter: ")
    card.remove()
    enter()
    answer(b"then press Enter: ")
    card.insert(pcsc)
    enter()
    process.communicate(timeout=60)
    terminal.close()
    [path] = tmp_path.glob("trial-token-*.json")
    found = {one.id: one.answer for one in TrialReport.from_json(path.read_text()).results}
    assert found == {"login.shared": "yes", "token.pulled": "its login has ended"}


def test_user_is_not_asked_for_twenty_touches(yubikey: YubiKey, tmp_path: Path) -> None:
    yubikey.generate(0x9A, touch_policy=2)
    yubikey.self_sign(0x9A, NAME)
    yubikey.sensor.delay = 1.2
    flags = ("--yes", "--sign-with", "01", "--only", "sign.*")
    run = TrialRun(find_module(YKCS11), tmp_path, *flags, pin=yubikey.pin).finish()
    yubikey.sensor.reset()
    assert run.answers["sign.ecdsa"] == "r and s, each as long as the order", run.output
    assert run.answers["sign.long-digest"] == "it signs the leftmost bits"
    assert run.answers["sign.threads"] == "not asked: a signature takes over a second, as if it waits for a touch"
