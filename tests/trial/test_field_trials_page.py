"""docs/how-to/field-trials.md: its commands, and the flags of the trials."""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from pathlib import Path

import pytest

from pages import ROOT, run_shell, shell_blocks

PAGE = "docs/how-to/field-trials.md"
PARTS = {
    "aws": "## What a trial of AWS does",
    "tpm": "## What a trial of a TPM does",
    "token": "## What a trial of a token does",
}


def flags(kind: str) -> set[str]:
    parser = argparse.ArgumentParser(add_help=False)
    import_module("trial_aws" if kind == "aws" else f"hwsigner.trial.{kind}").add_arguments(parser)
    return {name for action in parser._actions for name in action.option_strings}


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text))


@pytest.mark.slow
def test_commands_that_list_the_questions(tmp_path: Path) -> None:
    printed = run_shell(shell_blocks(PAGE, "These print the questions", "`python3` is the one"), tmp_path, {})
    for line in ("basics.lockout: ", "module.threads: "):
        assert f"\n{line}" in f"\n{printed}"


@pytest.mark.parametrize("kind", PARTS)
def test_page_has_each_flag_of_a_trial_and_no_other(kind: str) -> None:
    common, *rest = re.split(r"(?=^## )", (ROOT / PAGE).read_text(), flags=re.MULTILINE)
    (own,) = [part for part in rest if part.startswith(f"{PARTS[kind]}\n")]
    assert flags(kind) - flags_in(common) - flags_in(own) == set()
    assert flags_in(own) - flags(kind) == set()


def test_each_trial_has_a_target_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for kind in PARTS:
        module = "trial_aws" if kind == "aws" else rf"hwsigner\.trial {kind}"
        assert re.search(rf"^trial-{kind}: .* ## .*\n\t@.*/python -m {module} ", makefile, re.M)
