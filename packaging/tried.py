"""`make tried`: add reports of field trials to trials/, and write what README and the pages say of them.

The paragraphs and tables after `<!-- made from trials/: NAME -->` are made, and nothing else.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from hwsigner.errors import HwsignerError, printable
from hwsigner.trial import Result, Scrubber, TrialReport, Verdict

ROOT = Path(__file__).parents[1]
FILES = ("README.md", "SECURITY.md", "docs/reference/tried.md", "docs/start/macos.md")
_KINDS = {"aws": "AWS", "tpm": "real TPMs", "token": "real tokens"}
_MADE = re.compile(r"^(<!-- made from trials/: (\w+) -->\n)(?:.+\n)+", re.MULTILINE)
# What emulators, simulators and tokens in software call themselves, and what reaches them.
_EMULATED = re.compile(
    r"emulat|simulat|another endpoint|swtpm|mssim|libtpms|sw\s+tpm|xcg ftpm|softhsm|soft ?token|softokn|\bnss\b|mozilla"
    r"|gnome|kryoptic|^soft$",
    re.IGNORECASE,
)
_SHOWN = ("service", "region", "vendor", "vendor string", "manufacturer", "model", "firmware", "module", "system")
# What a question's id and a version consist of.
_ID, _VERSION = re.compile(r"[a-z0-9][a-z0-9.-]*"), re.compile(r"\d+(\.\w+)*")


def problems(report: TrialReport) -> Iterator[str]:
    """Yield what keeps a report from being published."""
    emulated = [name for name, value in report.target.items() if _EMULATED.search(value)]
    ids = [each.id for each in report.results]
    asked = [each for each in report.results if each.verdict != Verdict.NOT_ASKED]
    wrong = {
        f"its kind is {report.kind!r}, and not {', '.join(_KINDS)}": report.kind not in _KINDS,
        "its version is not one of hwsigner": not _VERSION.fullmatch(report.version),
        "its day is in the future": report.day > datetime.now(UTC).date(),
        "it does not say what was tried": not report.target,
        f"what was tried is emulated: see target {', '.join(emulated)}": emulated,
        "no question was asked, so nothing was tried": not asked,
        "it has a question twice": len({*ids}) != len(ids),
        "the id of a question is not one of hwsigner's": not all(_ID.fullmatch(each) for each in ids),
        "a time is not a number": not all(math.isfinite(each.seconds) for each in report.results),
    }
    yield from (text for text, is_wrong in wrong.items() if is_wrong)
    for each in asked:
        if (each.verdict == Verdict.DIFFERS) is (each.answer == each.expected):
            yield f"{each.id} is {each.verdict!r}, and its answers say otherwise"
    scrub = Scrubber()
    for place, text in _texts(report):
        if scrub(text) != text:
            yield f"{place} has what identifies somebody: {scrub(text)}"


def _texts(report: TrialReport) -> Iterator[tuple[str, str]]:
    yield "its headline", report.headline
    for name, value in report.target.items():
        yield f"target {name}", f"{name}: {value}"
    for each in report.results:
        for place in ("expected", "answer", "why", "text"):
            yield f"{each.id}: {place}", getattr(each, place)
        yield from ((f"{each.id}: rests_on", place) for place in each.rests_on)


def read(path: Path) -> TrialReport:
    """Read a report.

    Raises:
        HwsignerError: it can't be read, is not a report, or must not be published.
    """
    try:
        report = TrialReport.from_json(_read(path))
    except (OSError, UnicodeError) as error:
        raise HwsignerError(f"{path} can't be read", "Give trial-KIND-DATE.json") from error
    except HwsignerError as error:
        raise HwsignerError(f"{path}: {error.message}", error.hint) from error
    if found := list(problems(report)):
        raise HwsignerError(f"{path} was not added: {'; '.join(found)}", "Correct it, or ask the sender for another")
    return report


def add(path: Path, root: Path = ROOT) -> Path:
    """Copy a report into trials/, and return its path there.

    Raises:
        HwsignerError: as `read`, or the report is there already.
    """
    report = read(path)
    folder = root / "trials"
    if same := [each for each in folder.glob("*.json") if _read(each) == report.to_json()]:
        raise HwsignerError(f"{path} is there already: {same[0].name}", "Nothing is left to do")
    written, page = report.write(folder)
    page.unlink()  # The pages have its contents.
    return written


def reports(root: Path = ROOT) -> dict[str, TrialReport]:
    """Return the reports of trials/ by the names of their files, the newest first."""
    found = {path.name: read(path) for path in sorted((root / "trials").glob("*.json"))}
    return dict(sorted(found.items(), key=lambda each: each[1].day, reverse=True))


def made(root: Path = ROOT) -> dict[Path, str]:
    """Return the files with texts that are made, as they should be."""
    found = reports(root)
    texts = {
        **{name: _wrapped(make([*found.values()])) for name, make in _SENTENCES.items()},
        "table": _table(found),
        "answers": _answers(found),
    }
    contents = {root / name: _read(root / name) for name in FILES}
    return {path: _MADE.sub(lambda place: f"{place[1]}{texts[place[2]]}\n", text) for path, text in contents.items()}


def issues(name: str, report: TrialReport, root: Path = ROOT) -> Iterator[str]:
    """Yield an issue in Markdown for each answer that differs."""
    for each in report.results:
        if each.verdict == Verdict.DIFFERS:
            yield _issue(name, report, each, root)


def _issue(name: str, report: TrialReport, result: Result, root: Path) -> str:
    question = _line_of_question(root, result.id) or "hwsigner/trial/"
    lines = [
        f"# {_KINDS[report.kind]}: {result.id} differs",
        "",
        *("| What | |", "|---|---|"),
        f"| Question | {_cell(result.text)} |",
        f"| Expected | {_code(result.expected)} |",
        f"| Answer | {_code(result.answer)} |",
        f"| Source of the expected answer | {result.source.origin}: {_cell(result.source.where)} |",
        f"| Tried | {_target(report)}, {report.day.isoformat()}, hwsigner {report.version}, trials/{name} |",
        "",
        "To change:",
        "",
        *(f"- {_code(_located(root, each))}" for each in result.rests_on),
        f"- {_code(question)}: the expected answer, and its source: observation, trials/{name}",
    ]
    return "\n".join(lines) + "\n"


def _located(root: Path, rests_on: str) -> str:
    """Return `FILE:LINE: NAME` for `FILE: NAME`, `PAGE:LINE: ANCHOR` for `PAGE#ANCHOR`, and anything else as it is."""
    file, _, name = rests_on.replace("#", ": ").partition(": ")
    if not (name and (root / file).is_file()):
        return rests_on
    text, last = _read(root / file), re.escape(name.rpartition(".")[2])
    headings = (each for each in re.finditer(r"^#+ (.*)$", text, re.MULTILINE) if _anchor(each[1]) == name)
    defined = re.search(rf"^ *(?:(?:def|class) {last}\b|{last}\b[^=\n]*=)", text, re.MULTILINE)
    found = next(headings, None) or defined or re.search(rf"\b{last}\b", text)
    return f"{file}:{text.count(chr(10), 0, found.start()) + 1}: {name}" if found else rests_on


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _line_of_question(root: Path, id: str) -> str:
    """Return `FILE:LINE` of a question in its table; an empty string if it is not there any more."""
    tables = (root / "hwsigner/trial").rglob("*.md"), (root / "tests/trial_aws").rglob("*.md")
    found = ((path, _read(path).find(f"| {id} |")) for path in (*tables[0], *tables[1]))
    lines = (f"{path.relative_to(root)}:{_read(path).count(chr(10), 0, at) + 1}" for path, at in found if at >= 0)
    return next(lines, "")


def is_of_mac(report: TrialReport) -> bool:
    """Return whether a trial ran on a Mac."""
    return report.target.get("system", "").startswith("macOS")


def _summary(found: Sequence[TrialReport]) -> str:
    page = "[what was tried](docs/reference/tried.md)"
    tried, missing = _named(found)
    yet = f"**not yet with {_either(missing)}**" if missing else ""
    if not tried:
        return f"Tested with emulated hardware and services; {yet}: {page}."
    lacking = f"; {yet}" if yet else ""
    return f"Tested with emulated hardware and services. Tried with {_both(tried)}{lacking}: {page}.{_differing(found)}"


def _tested(found: Sequence[TrialReport]) -> str:
    missing = ", ".join([*_named(found)[1], "a Kubernetes cluster"])
    return (
        "An [emulator](docs/how-to/emulator.md), written from AWS's documentation, stands in for AWS. Not tried: "
        f"{missing}. A [field trial](docs/how-to/field-trials.md) needs one command."
    )


def _security(found: Sequence[TrialReport]) -> str:
    tried, missing = _named(found)
    page = "[what was tried](docs/reference/tried.md)"
    trials = f" Trials were made with {_both(tried)}.{_differing(found)}" if tried else ""
    yet = f" hwsigner has not been tried with {_either(missing)}: {page}." if missing else f" See {page}."
    return (
        f"In these tests, the service, the tokens and the TPMs are emulated.{trials}{yet} There was no outside audit."
    )


def _mac(found: Sequence[TrialReport]) -> str:
    number = sum(is_of_mac(each) for each in found)
    if number:
        tried = f"{_number(number, 'report')} in [what was tried](../reference/tried.md)"
        return f"hwsigner is built for macOS, and was tried there: {tried}."
    return (
        "**hwsigner is built for macOS, and was not tried on one**, until somebody runs [`make trial-token`](#try-it) "
        "there."
    )


_SENTENCES = {"summary": _summary, "tested": _tested, "security": _security, "mac": _mac}


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _named(found: Sequence[TrialReport]) -> tuple[list[str], list[str]]:
    """Return the kinds that were tried, with their numbers, and those that were not."""
    tried, missing = [], []
    for kind, name in _KINDS.items():
        of_kind = [each for each in found if each.kind == kind]
        answers = sum(len(each.results) - each.counts[Verdict.NOT_ASKED] for each in of_kind)
        if of_kind:
            tried.append(f"{name} ({_number(len(of_kind), 'trial')}, {_number(answers, 'answer')})")
        else:
            missing.append(name)
    return tried, missing if any(map(is_of_mac, found)) else [*missing, "a Mac"]


def _differing(found: Sequence[TrialReport]) -> str:
    number = sum(each.counts[Verdict.DIFFERS] for each in found)
    return f" {_number(number, 'answer')} differed from what hwsigner expects." if number else ""


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}"


def _both(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _table(found: dict[str, TrialReport]) -> str:
    if not found:
        return "**Nothing yet.** No report was sent in: `trials/` is empty."
    lines = ["| Kind | What | Day | hwsigner | As expected | Differs | Not asked | Report |", "|---" * 8 + "|"]
    for name, each in found.items():
        counts = " | ".join(str(number) for number in each.counts.values())
        lines.append(
            f"| {_KINDS[each.kind]} | {_target(each)} | {each.day.isoformat()} | {each.version} | {counts} |"
            f" `trials/{name}` |"
        )
    return "\n".join(lines)


def _answers(found: dict[str, TrialReport]) -> str:
    differing = [
        (name, each) for name, report in found.items() for each in report.results if each.verdict == Verdict.DIFFERS
    ]
    if not differing:
        return "No answer of a report differs." if found else "There is no report."
    lines = ["| Report | Question | Expected | Answer | What rests on it |", "|---" * 5 + "|"]
    for name, each in differing:
        places = ", ".join(_code(place) for place in each.rests_on)
        question = f"`{each.id}`: {_cell(each.text)}"
        lines.append(f"| `{name}` | {question} | {_code(each.expected)} | {_code(each.answer)} | {places} |")
    return "\n".join(lines)


def _target(report: TrialReport) -> str:
    shown = {name: report.target[name] for name in _SHOWN if report.target.get(name)}
    return "; ".join(f"{_cell(name)}: {_cell(value)}" for name, value in (shown or report.target).items())


def _code(text: str) -> str:
    """Return text as code in a cell of a table."""
    line = " ".join(printable(text).split()).replace("|", r"\|")
    return f"`` {line} ``" if "`" in line else f"`{line or '(empty)'}`"


def _cell(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|$~])", r"\\\1", " ".join(printable(text).split()))


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Add the reports, write the texts, and print the issues. Return the exit status."""
    parser = argparse.ArgumentParser(prog="tried.py", description=__doc__)
    parser.add_argument("report", nargs="*", type=Path, help="trial-KIND-DATE.json; without one, only write the texts")
    try:
        for path in parser.parse_args(arguments).report:
            added = add(path, root)
            print(f"{path} is {added.relative_to(root)} now", file=sys.stderr)
            print("\n".join(issues(added.name, read(added), root)), end="")
        for file, text in made(root).items():
            file.write_text(text, encoding="utf-8")
    except HwsignerError as error:
        print(f"tried.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
