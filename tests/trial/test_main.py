"""`python -m hwsigner.trial`: its exit statuses, and what it refuses before it begins."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from hwsigner.errors import HwsignerError
from hwsigner.trial import token
from hwsigner.trial.__main__ import main
from hwsigner.trial.asking import confirm
from trial_aws.__main__ import main as aws


def test_error_has_another_exit_status_than_an_answer_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> int:
        raise HwsignerError("it can't be run", "Do this")

    monkeypatch.setattr(token, "run", fail)
    assert main(["token"]) == 2


@pytest.mark.parametrize("kind", ["aws", "token"])
@pytest.mark.parametrize("folder", ["absent", "file"])
def test_folder_that_can_t_have_the_report_is_refused_before_anything_is_said(
    kind: str, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    flags = ["--output", str(tmp_path / folder)]
    status = aws([*flags, "--region", "eu-central-1"]) if kind == "aws" else main([kind, "module.so", *flags])
    assert status == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith("is not a folder that the report can be written to. Give --output FOLDER\n")


def test_error_begins_a_line_if_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(HwsignerError, match="Answer y"):
        confirm("Begin?")
    assert capsys.readouterr().out == "Begin? [y/N] \n"


def test_questions_to_a_tpm_are_listed_without_its_library() -> None:
    code = "import sys; sys.modules['tpm2_pytss'] = None; from hwsigner.trial.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "tpm", "--list"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("basics.lockout: What follows")
    assert "\nend.changed: " in done.stdout
