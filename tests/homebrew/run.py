"""Check the Homebrew formula without Homebrew: `python tests/homebrew/run.py FORMULA PROGRAMS`.

Ruby loads it with stand-ins for what Homebrew gives a formula, and runs its test with hwsigner's programs in a folder.
RuboCop checks its style. The rules are those of Homebrew's cops, as far as they concern a formula like this. Copies
with one fault each must be refused.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PARTS = ["desc", "homepage", "url", "sha256", "license", "depends_on", "resource", "install", "caveats", "test"]
PYPI = re.compile(r"https://files\.pythonhosted\.org/packages/[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{60}/[^/]+")
PURE = re.compile(r"(\.tar\.gz|\.zip|[.-]py3[^-]*-none-any\.whl)")
# What is replaced in a copy, by what, and a part of what is said.
FAULTS = (
    ('desc "AWS', 'desc "An AWS', "begins with an article"),
    ('desc "AWS', 'desc "Hwsigner: AWS', "begins with the name"),
    ("YubiKeys, HSMs", "YubiKeys, other PKCS #11 tokens, HSMs", "is longer than 80"),
    (' files"\n', ' files."\n', "ends with a full stop"),
    ('homepage "https:', 'homepage "http:', "homepage is not https"),
    (
        '  depends_on "cmake" => :build\n  depends_on "ninja"',
        '  depends_on "ninja" => :build\n  depends_on "cmake"',
        "order",
    ),
    ('  license "Apache-2.0"\n', "", "no license"),
    ('resource "boto3"', 'resource "zoto3"', "resources are not sorted"),
    (
        "https://files.pythonhosted.org/packages/de/cf/",
        "https://files.pythonhosted.org/packages/source/a/",
        "not a file of PyPI",
    ),
    ("class Hwsigner", "class HwSigner", "class"),
    ("  end\nend\n", "  end\n", "syntax"),
)


def main(formula: str, programs: str) -> int:
    """Check the formula, and that faults are found. Return the exit status."""
    problems = [*check(Path(formula)), *check_style(Path(formula)), *check_test(Path(formula), programs)]
    for problem in problems:
        print(f"{formula}: {problem}", file=sys.stderr)
    text = Path(formula).read_text()
    with tempfile.TemporaryDirectory(prefix="hwsigner-formula-") as folder:
        copy = Path(folder, "hwsigner.rb")
        for old, new, wanted in FAULTS:
            assert wanted in "\n".join(check(_changed(copy, text, old, new))), new
        assert "StringLiterals" in "".join(check_style(_changed(copy, text, '"keygen"', "'keygen'")))
        assert "status 2" in "".join(check_test(_changed(copy, text, "--subject CN=test", "--subject"), programs))
    print(f"The formula has {text.count('  resource ')} resources. All of {len(FAULTS) + 2} faults are found.")
    return 1 if problems else 0


def _changed(copy: Path, text: str, old: str, new: str) -> Path:
    assert old in text, old
    copy.write_text(new.join(text.rsplit(old, 1)))
    return copy


def check(formula: Path) -> Iterator[str]:
    """Yield what is wrong with what a formula says."""
    done = _run("ruby", FOLDER / "load.rb", formula)
    if done.returncode:
        yield done.stderr
        return
    loaded = json.loads(done.stdout)
    said = [(part, value) for part, value in loaded["said"]]
    if loaded["name"] != formula.stem.capitalize():
        yield f"the class {loaded['name']} is not the file's"
    yield from _description(next(value for part, value in said if part == "desc"), formula.stem)
    yield from _order([part for part, _ in said], [value for part, value in said if part == "depends_on"])
    yield from _files(dict(said), [value for part, value in said if part == "resource"])


def check_style(formula: Path) -> Iterator[str]:
    """Yield what RuboCop says."""
    style = _run("rubocop", "--config", FOLDER / "rubocop.yml", "--format", "emacs", "--cache", "false", formula)
    if style.returncode:
        yield style.stdout + style.stderr


def check_test(formula: Path, programs: str) -> Iterator[str]:
    """Yield why a formula's test fails, or its completions are not made, with the programs in a folder."""
    done = _run("ruby", FOLDER / "load.rb", formula, Path(programs).resolve())
    if done.returncode:
        yield done.stderr


def _description(text: str, name: str) -> Iterator[str]:
    if len(text) > 80:
        yield "desc is longer than 80 characters"
    if re.match(r"(the|an?)\s", text, re.IGNORECASE):
        yield "desc begins with an article"
    if re.match(rf"{name}\b", text, re.IGNORECASE) or text[0].islower():
        yield "desc begins with the name or a small letter"
    if text.endswith("."):
        yield "desc ends with a full stop"


def _order(parts: list[str], dependencies: list[Any]) -> Iterator[str]:
    """Yield what is missing, and parts and dependencies that are not in Homebrew's order."""
    yield from (f"there is no {part}" for part in PARTS if part not in parts)
    if [PARTS.index(part) for part in parts] != sorted(PARTS.index(part) for part in parts):
        yield f"the parts are not in order: {parts}"
    # Those that only building needs are first.
    named = [next(iter(one.items())) if isinstance(one, dict) else (one, "") for one in dependencies]
    if named != sorted(named, key=lambda one: (one[1] != "build", one[0])):
        yield f"the dependencies are not in order: {named}"


def _files(said: dict[str, Any], resources: list[dict[str, str]]) -> Iterator[str]:
    """Yield what is wrong with what Homebrew downloads."""
    for part in ("homepage", "url"):
        if not said[part].startswith("https://"):
            yield f"the {part} is not https"
    names = [one["name"] for one in resources]
    if names != sorted(set(names)):
        yield "the resources are not sorted"
    for one in resources:
        if not PYPI.fullmatch(one["url"]) or not PURE.search(one["url"]):
            yield f"{one['url']} is not a file of PyPI that Homebrew installs"
    for digest in [said["sha256"], *(one["sha256"] for one in resources)]:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            yield f"{digest} is not a SHA-256"


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
