"""The trial of a PKCS #11 module, with SoftHSM: as a user runs it, and what it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from certs import Authority, Shape, issue
from hwsigner._system import host
from hwsigner.trial import Origin, Question, Source, ask_all
from hwsigner.trial.__main__ import main
from hwsigner.trial.token import scrubbed, watching
from hwsigner.trial.token.questions import QUESTIONS
from hwsigner.trial.token.subject import TokenPlan
from hwsigner.trial.token.watching import TokenTrial
from softhsm.token import SoftHSM
from trial.token_trials import ROOT, TrialRun

LABEL, KEY, SUBJECT, KEY_ID = (
    "hushed-token-name",
    "hushed-key-name",
    "hushed-subject.example",
    bytes.fromhex("5ec2e7aa01"),
)
PIN = "73190264"
WRITING = ("--only", "keygen.*", "--only", "write.*", "--only", "sign.*")


@pytest.fixture(scope="module")
def hsm(hardware: None, tmp_path_factory: pytest.TempPathFactory, ca: Authority) -> SoftHSM:
    """A token in a folder of its own, with a key pair of each kind and a certificate."""
    hsm = SoftHSM(tmp_path_factory.mktemp("trial"))
    hsm.make()
    hsm.add_token(LABEL, PIN)
    hsm.generate(KEY, KEY_ID, "EC:prime256v1")
    hsm.generate("hushed-rsa-name", b"\2", "rsa:2048")
    leaf = issue(ca, load_der_public_key(hsm.public_key(KEY_ID)), Shape(SUBJECT))
    hsm.write_certificate(leaf.public_bytes(Encoding.DER), KEY, KEY_ID)
    return hsm


def start(hsm: SoftHSM, folder: Path, *flags: str, pin: str | None = PIN, module: str = "", **more: str) -> TrialRun:
    """Start a trial of SoftHSM, or of another module that uses it."""
    return TrialRun(module or hsm.module, folder, *flags, pin=pin, **hsm.env, **more)


_DUMP = """
import json, sys
import pkcs11
found = []
with pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2]).open(user_pin=sys.argv[3]) as session:
    for one in session.get_objects():
        shown = {}
        for name in pkcs11.Attribute:
            try:
                shown[name.name] = repr(one[name])
            except Exception as error:
                shown[name.name] = type(error).__name__
        found.append(shown)
print(json.dumps(sorted(found, key=repr)))
"""


def dump(hsm: SoftHSM) -> list[dict[str, Any]]:
    """Return all attributes of all objects on the token, read by another process."""
    command = [sys.executable, "-c", _DUMP, hsm.module, LABEL, PIN]
    done = subprocess.run(
        command, env={**os.environ, **hsm.env}, capture_output=True, text=True, check=True, timeout=60
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def object_files(hsm: SoftHSM) -> dict[str, bytes]:
    """Return the files of the objects; SoftHSM writes that of the token at each login."""
    return {path.name: path.read_bytes() for path in hsm.folder.rglob("*.object") if path.name != "token.object"}


def test_table_has_unique_ids_and_questions_and_more_than_thirty() -> None:
    ids = [one.id for one in QUESTIONS]
    assert len(set(ids)) == len(ids) > 30
    assert all(re.fullmatch(r"[a-z]+\.[a-z0-9-]+", one) for one in ids)
    assert all("?" in one.text for one in QUESTIONS)


def test_what_rests_on_a_question_is_there() -> None:
    for question in QUESTIONS:
        for place in question.rests_on:
            path, _, name = place.partition(": ")
            text = (ROOT / path).read_text()
            assert all(re.search(rf"\b{part}\b", text) for part in name.split(".") if part), place


@pytest.fixture(scope="module")
def reading(hsm: SoftHSM, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialRun, bool]:
    """A run that reads, and whether the objects are the same as before."""
    before, files = dump(hsm), object_files(hsm)
    run = start(hsm, tmp_path_factory.mktemp("reading"), "--yes").finish()
    return run, (dump(hsm), object_files(hsm)) == (before, files)


@pytest.fixture(scope="module")
def writing(hsm: SoftHSM, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialRun, bool]:
    """A run that writes, and whether the objects are the same as before."""
    before, files = dump(hsm), object_files(hsm)
    run = start(hsm, tmp_path_factory.mktemp("writing"), "--yes", "--write", LABEL).finish()
    return run, (dump(hsm), object_files(hsm)) == (before, files)


@pytest.mark.slow
def test_reading_trial_finds_softhsm_as_expected_and_changes_no_object(reading: tuple[TrialRun, bool]) -> None:
    run, is_unchanged = reading
    assert (run.status, run.differing, is_unchanged) == (0, {}, True), run.output
    need_a_key = ("keygen.", "write.", "sign.", "delete.", "token.pulled")
    assert run.not_asked == {one.id for one in QUESTIONS if one.id.startswith(need_a_key)}
    assert {one.why for one in run.report.results if one.id.startswith("keygen.rsa")} == {
        "nothing is written without --write"
    }


@pytest.mark.slow
def test_writing_trial_finds_softhsm_as_expected_and_deletes_what_it_made(writing: tuple[TrialRun, bool]) -> None:
    run, is_unchanged = writing
    assert (run.status, run.differing, is_unchanged) == (0, {}, True), run.output
    assert run.not_asked == {"keygen.mldsa44", "sign.mldsa", "token.pulled"}
    assert "Nothing that it made is left on the token" in run.output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reading", "writing"])
def test_report_has_nothing_that_identifies_the_token_or_its_owner(
    name: str, hsm: SoftHSM, request: pytest.FixtureRequest
) -> None:
    run: TrialRun = request.getfixturevalue(name)[0]
    info = subprocess.run(
        ["softhsm2-util", "--show-slots"], env={**os.environ, **hsm.env}, capture_output=True, text=True
    )
    [block] = (one for one in info.stdout.split("\nSlot ") if LABEL in one)
    slot, [serial] = block.split()[0], re.findall(r"Serial number: +(\w+)", block)
    secrets = [LABEL, KEY, "hushed", SUBJECT, KEY_ID.hex(), PIN, serial, slot, os.environ["HOME"], str(hsm.folder)]
    for path in run.folder.iterdir():
        text = path.read_text().lower()
        assert [one for one in secrets if one.lower() in text] == []
    target = run.report.target
    assert (target["manufacturer"], target["model"], target["firmware"]) == ("SoftHSM project", "SoftHSM v2", "2.6")
    assert target["system"] == host.name()


@pytest.mark.slow
def test_signatures_are_made_with_a_key_that_the_user_names(hsm: SoftHSM, tmp_path: Path) -> None:
    before = dump(hsm)
    flags = ("--only", "sign.*", "--sign-with")
    for name in (KEY, KEY_ID.hex()):
        folder = tmp_path / str(len(name))
        folder.mkdir()
        run = start(hsm, folder, "--yes", *flags, name).finish()
        assert run.answers["sign.ecdsa"] == "r and s, each as long as the order", run.output
        assert run.answers["sign.rsa"] == "not asked: the named key is of another type"
        assert run.status == 0
    assert dump(hsm) == before


@pytest.mark.slow
def test_key_to_sign_with_that_is_not_there_is_an_error(hsm: SoftHSM, tmp_path: Path) -> None:
    run = start(hsm, tmp_path, "--yes", "--only", "sign.ecdsa", "--sign-with", "hushed-key").finish()
    assert run.answers["sign.ecdsa"] == "not asked: no private key has the name to sign with"
    assert run.status == 3
    assert "no private key has the label or id 'hushed-key' of --sign-with. See what is there" in run.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "why", "status"),
    [
        ((), "no PIN was given", 0),
        (("--pin-source", "file:/nonexistent/hushed-place"), "the login failed with PinError", 3),
    ],
)
def test_questions_that_need_a_login_are_not_asked_without_a_pin(
    hsm: SoftHSM, tmp_path: Path, flags: tuple[str, ...], why: str, status: int
) -> None:
    run = start(hsm, tmp_path, "--yes", *flags, pin=None).finish()
    assert run.answers["key.names"] == f"not asked: {why}"
    assert run.answers["object.ec-point"] == "DER, uncompressed"
    assert (run.status, run.differing) == (status, {}), run.output
    assert "hushed-place" not in "".join(path.read_text() for path in tmp_path.iterdir())


@pytest.mark.slow
def test_wrong_pin_is_sent_once_and_not_at_all_while_the_token_counts_one(hsm: SoftHSM, tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    first.mkdir()
    second.mkdir()
    run = start(hsm, first, "--yes", pin="00000000", XDG_STATE_HOME=str(tmp_path)).finish()
    assert run.answers["key.names"] == "not asked: the token refused the PIN"
    assert run.answers["login.twice"] == "not asked: the token refused the PIN"
    assert (run.status, run.output.splitlines()[-1].split(".")[0]) == (3, f"hwsigner: wrong PIN for token '{LABEL}'")
    # SoftHSM raises the flag for one wrong PIN, and has no counter: another one would lower nothing.
    run = start(hsm, second, "--yes", XDG_STATE_HOME=str(tmp_path)).finish()
    assert run.answers["token.pin-count"] == "an earlier try failed"
    assert run.answers["key.names"].startswith("not asked: no PIN was sent, because")
    assert (run.status, "\nhwsigner: no PIN was sent, because" in run.output) == (3, True)
    dump(hsm)  # A login with the right PIN lowers the flag.


def test_nothing_is_done_without_a_yes(hsm: SoftHSM, tmp_path: Path) -> None:
    run = start(hsm, tmp_path, "--write", LABEL).finish()
    assert (run.status, list(tmp_path.iterdir())) == (2, [])
    assert "It makes key pairs and a certificate with the label hwsigner-trial-" in run.output
    assert "nothing was made" in run.output


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--write", "one", "--token", "two"), "both name the token"),
        (("--clean",), "Add --write"),
        (("--clean", "--write", LABEL), "no PIN was given. Add --pin-source file:PATH"),
        (("--token", "nonesuch"), "has no token 'nonesuch'"),
        (("--only", "nonesuch"), "the name of no question"),
    ],
)
def test_wrong_flags_are_refused(hsm: SoftHSM, tmp_path: Path, flags: tuple[str, ...], problem: str) -> None:
    run = start(hsm, tmp_path, "--yes", *flags, pin=None).finish()
    assert run.status in (1, 2, 3)
    assert problem in run.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("module", "problem"), [("/etc/passwd", "can't be used"), ("/nope.so", "does not exist")])
def test_file_that_is_no_module_is_refused(hsm: SoftHSM, tmp_path: Path, module: str, problem: str) -> None:
    run = start(hsm, tmp_path, "--yes", module=module).finish()
    assert run.status == 3
    assert f"PKCS #11 module {module} {problem}" in run.output
    assert run.output.endswith(". Give the path of a PKCS #11 module, such as libykcs11.so.2\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whole_group"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, False)]
)
def test_stopped_trial_deletes_what_it_made(
    hsm: SoftHSM, tmp_path: Path, number: signal.Signals, whole_group: bool
) -> None:
    before = dump(hsm)
    run = start(hsm, tmp_path, "--yes", "--write", LABEL, *WRITING)
    run.read_until("keygen.p256")
    assert len(object_files(hsm)) > len(before)
    (os.killpg if whole_group else os.kill)(run.process.pid, number)
    assert run.finish().status == 130, run.output
    assert "the trial was stopped. Nothing that it made is left on the token" in run.output
    assert dump(hsm) == before


@pytest.mark.slow
def test_trial_that_was_killed_cleans_up_by_itself_or_by_the_flag(hsm: SoftHSM, tmp_path: Path) -> None:
    def names() -> set[str]:
        return {path.name for path in hsm.folder.rglob("*.object")}

    before, files = dump(hsm), names()
    run = start(hsm, tmp_path, "--yes", "--write", LABEL, *WRITING)
    run.read_until("keygen.rsa2048")
    os.kill(run.process.pid, signal.SIGKILL)  # The process that uses the module goes on, and finds nobody.
    deadline = time.monotonic() + 30
    while names() != files:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)  # It logs out, and SoftHSM empties the token's file for a moment.
    assert dump(hsm) == before
    run.finish()
    run = start(hsm, tmp_path, "--yes", "--write", LABEL, *WRITING)
    run.read_until("keygen.rsa2048")
    os.killpg(run.process.pid, signal.SIGKILL)
    run.finish()
    assert len(dump(hsm)) > len(before)
    hsm.generate("hwsigner-trial-of-mine", b"\7", "EC:prime256v1")
    hsm.generate("hwsigner-trial-20260101", b"\x08", "EC:prime256v1")
    run = start(hsm, tmp_path, "--yes", "--write", LABEL, "--clean").finish()
    assert run.status == 0
    assert re.search(r"private key hwsigner-trial-[0-9a-f]{8}\n", run.output)
    assert "Not deleted: private key hwsigner-trial-20260101, whose id is not one that a trial gives" in run.output
    assert len(dump(hsm)) == len(before) + 4
    for key_id in (b"\7", b"\x08"):
        for kind in ("privkey", "pubkey"):
            hsm.delete(kind, key_id)
    assert dump(hsm) == before
    run = start(hsm, tmp_path, "--yes", "--write", LABEL, "--clean").finish()
    assert (run.status, "No trial has left anything there" in run.output) == (0, True)


@pytest.mark.slow
def test_module_that_crashes_costs_the_question_only(hsm: SoftHSM, tmp_path: Path, shim_library: Path) -> None:
    before = dump(hsm)
    shim = {"SHIM_MODULE": hsm.module, "SHIM_CONF": str(hsm.conf), "SHIM_CRASHES": "1"}
    only = ("--only", "sign.*", "--only", "delete.*")
    run = start(hsm, tmp_path, "--yes", "--write", LABEL, *only, module=str(shim_library), **shim).finish()
    assert run.status == 1, run.output
    assert run.answers["sign.ecdsa"] == "the module ended its process by SIGABRT"
    assert run.answers["sign.begun-twice"] == "CKR_OPERATION_ACTIVE"
    assert dump(hsm) == before


def test_list_needs_no_module() -> None:
    command = [sys.executable, "-m", "hwsigner.trial", "token", "--list", "--only", "sign.*"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert "sign.ecdsa: What does CKM_ECDSA return?" in done.stdout


def test_no_text_from_a_token_reaches_a_report_that_is_scrubbed() -> None:
    trial = TokenTrial(TokenPlan("/lib/module.so"), QUESTIONS, lambda _: None)
    trial.target = {"model": "SoftHSM v2", "manufacturer": "maker 1234567890123456"}
    trial.hidden = {KEY, "SoftHSM", "yes", ""}
    answers = (f"the answer has {KEY}", f"and {Path.home()}/pin", "yes")
    question: Question[str] = Question("echo.word", "What comes back?", "yes", Source(Origin.CHOICE, "-"), (), str)
    trial.results = [next(ask_all([question], text)) for text in answers]
    report = scrubbed(trial)
    text = report.to_json() + report.to_markdown()
    assert [one for one in (KEY, str(Path.home()), "1234567890123456") if one in text] == []
    assert report.target["model"] == "SoftHSM v2"
    assert report.results[-1].answer == "yes"


@pytest.mark.parametrize("module", ["crash", "hang"])
@pytest.mark.slow
def test_module_that_ends_or_hangs_its_process_at_once_is_an_error_in_one_line(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = {"crash": "abort();", "hang": "for (;;) pause();"}[module]
    source = f"#include <stdlib.h>\n#include <unistd.h>\n__attribute__((constructor)) void begin(void) {{ {code} }}\n"
    (tmp_path / "module.c").write_text(source)
    library = tmp_path / "module.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "module.c")], check=True)
    monkeypatch.setattr(watching, "QUESTION_SECONDS", 3.0)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert main(["token", str(library), "--yes", "--output", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert {"crash": "ended its process by SIGABRT", "hang": "no answer in 3 s"}[module] in shown
