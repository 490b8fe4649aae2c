"""A trial's report: JSON and Markdown without account numbers, names, tokens, keys or addresses."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from hwsigner._version import __version__
from hwsigner.errors import HwsignerError
from hwsigner.trial.questions import Origin, Result, Source, Verdict

# What identifies somebody wherever it stands, and what is written in its place.
_PATTERNS = (
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{8,}\b"), "(key id)"),
    (re.compile(r"\barn(?::|%3a)[\w-]+(?::|%3a)[^\s\"']+", re.IGNORECASE), "(arn)"),
    (re.compile(r"\b[\w.-]*vpce-[0-9a-f]{8,}[\w.-]*|\bip-\d{1,3}(?:-\d{1,3}){3}[\w.-]*"), "(host)"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE), "(id)"),
    # Also after a percent-encoded colon or an underscore, and as the console writes it.
    (re.compile(r"(?:(?<=%3a)|(?<=%2f)|(?<![^\W_]))\d{12}(?![^\W_])", re.IGNORECASE), "(account)"),
    (re.compile(r"(?<![\w-])\d{4}([- ])\d{4}\1\d{4}(?![\w-])"), "(account)"),
    (re.compile(r"\b(?:0x)?(?:[0-9a-f]{20,}|\d{13,})\b", re.IGNORECASE), "(number)"),
    (re.compile(r"\b(?:[0-9a-f]{1,4}:){3,}[0-9a-f]{1,4}\b", re.IGNORECASE), "(address)"),
    (re.compile(r"\b[0-9a-f]{1,4}(?::[0-9a-f]{1,4})*::(?:[0-9a-f]{1,4}:)*[0-9a-f]{1,4}\b", re.IGNORECASE), "(address)"),
    (re.compile(r"(?=[a-zA-Z+/]*\d)(?=[a-z\d+/]*[A-Z])(?=[A-Z\d+/]*[a-z])[A-Za-z\d+/]{40,}={0,2}"), "(base64)"),
    (re.compile(r"(?<!\w)/(?:home|Users)/[^\s/\"']+"), "(home)"),
    # An IPv4 address, and neither a part of an OID nor one of X.500's attributes or extensions.
    (re.compile(r"(?<![\d.])(?!2\.5\.(?:4|29)\.)(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d)"), "(address)"),
    (re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+"), "(mail)"),
)


class Scrubber:
    """Takes out of texts what identifies somebody."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def hide(self, value: str, name: str) -> None:
        """Write `(name)` wherever the value stands. Shorter ones than four characters are left."""
        if len(value) >= 4:
            self._values[value] = f"({name})"

    def __call__(self, text: str) -> str:
        """Return the text without what identifies somebody."""
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, self._values[value])
        for pattern, name in _PATTERNS:
            text = pattern.sub(name, text)
        return text


@dataclass(frozen=True)
class TrialReport:
    """What a trial of a kind, "aws", "tpm" or "token", found.

    The target, such as a TPM's vendor and firmware, identifies nobody. The headline says what probably made several
    answers differ, if anything is known to.
    """

    kind: str
    day: date
    target: Mapping[str, str]
    results: Sequence[Result]
    version: str = __version__
    headline: str = ""

    @property
    def counts(self) -> Mapping[Verdict, int]:
        """How many answers have each verdict."""
        found = Counter(result.verdict for result in self.results)
        return {verdict: found[verdict] for verdict in Verdict}

    def scrubbed(self, scrub: Scrubber) -> TrialReport:
        """Return the report with what identifies somebody taken out of each text."""
        results = [replace(each, answer=scrub(each.answer), why=scrub(each.why)) for each in self.results]
        target = {name: scrub(value) for name, value in self.target.items()}
        return replace(self, target=target, results=results, headline=scrub(self.headline))

    def to_json(self) -> str:
        """Return the report as `trials/*.json` has it."""
        fields = {**asdict(self), "day": self.day.isoformat(), "target": dict(self.target)}
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TrialReport:
        """Parse a report."""
        try:
            fields: dict[str, Any] = json.loads(text)
            results = [read_result(each) for each in fields.pop("results")]
            texts = {name: str(fields.pop(name)) for name in ("kind", "version")}
            texts["headline"] = str(fields.pop("headline", ""))
            target = {name: str(value) for name, value in fields.pop("target").items()}
            return cls(**texts, day=date.fromisoformat(fields.pop("day")), target=target, results=results, **fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            hint = "Give trial-KIND-DATE.json as it was written"
            raise HwsignerError("the file is not a report of a trial", hint) from error

    def to_markdown(self) -> str:
        """Return the report as a page: what differs first."""
        counts = ", ".join(f"{number} {verdict}" for verdict, number in self.counts.items())
        lines = [f"# Trial of {self.kind}, {self.day.isoformat()}", ""]
        lines += [f"**{_cell(self.headline)}**", ""] if self.headline else []
        lines += [f"hwsigner {self.version}: {counts}.", ""]
        lines += [f"- {name}: {value}" for name, value in self.target.items()]
        for verdict in (Verdict.DIFFERS, Verdict.NOT_ASKED, Verdict.EXPECTED):
            lines += _section(verdict, [each for each in self.results if each.verdict == verdict])
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write `trial-KIND-DATE.json` and `.md`, with a number if there is one of that day, and return their paths."""
        stem, number = f"trial-{self.kind}-{self.day.isoformat()}", 1
        while (folder / f"{stem}.json").exists():
            number += 1
            stem = f"trial-{self.kind}-{self.day.isoformat()}-{number}"
        paths = folder / f"{stem}.json", folder / f"{stem}.md"
        try:
            for path, text in zip(paths, (self.to_json(), self.to_markdown()), strict=True):
                path.write_text(text, encoding="utf-8", errors="backslashreplace")  # As JSON writes surrogates.
        except OSError as error:
            raise HwsignerError(f"{folder} can't be written to: {error.strerror}", "Give --output FOLDER") from error
        return paths


def read_result(fields: dict[str, Any]) -> Result:
    """Return a result from the members that `dataclasses.asdict` gives."""
    source = Source(Origin(fields["source"]["origin"]), str(fields["source"]["where"]))
    texts = {name: str(fields[name]) for name in ("id", "expected", "answer", "why", "text")}
    rests_on = tuple(str(each) for each in fields["rests_on"])
    seconds = float(fields["seconds"])
    return Result(**texts, verdict=Verdict(fields["verdict"]), seconds=seconds, source=source, rests_on=rests_on)


def _section(verdict: Verdict, results: Sequence[Result]) -> Iterable[str]:
    """Yield a section. What differs or was not asked in the same way stands together: it may have one reason."""
    if not results:
        return
    yield from ("", f"## {verdict.capitalize()}", "")
    if verdict is Verdict.EXPECTED:
        yield from _table(verdict, results)
        return
    number = Counter((each.answer, each.why) for each in results)
    same = [each for each, count in number.most_common() if count > 1]
    for answer, why in same:
        yield from (f"### {number[answer, why]} times: {_cell(answer or why)}", "")
        yield from (*_table(verdict, [each for each in results if (each.answer, each.why) == (answer, why)]), "")
    if others := [each for each in results if (each.answer, each.why) not in same]:
        yield from ("### Others", "") if same else ()
        yield from _table(verdict, others)


def _table(verdict: Verdict, results: Sequence[Result]) -> Iterable[str]:
    heads = {
        Verdict.DIFFERS: "Expected | Answer | What rests on it",
        Verdict.NOT_ASKED: "Why",
        Verdict.EXPECTED: "Answer",
    }[verdict]
    yield f"| Name | Question | {heads} |"
    yield "|---" * (heads.count("|") + 3) + "|"
    for each in results:
        cells = {
            Verdict.DIFFERS: (each.expected, each.answer, ", ".join(each.rests_on)),
            Verdict.NOT_ASKED: (each.why,),
            Verdict.EXPECTED: (each.answer,),
        }[verdict]
        yield "| " + " | ".join(_cell(text) for text in (each.id, each.text, *cells)) + " |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|") or "(empty)"
