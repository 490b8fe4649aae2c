"""Questions from a Markdown file: a table with one row for each, and tables of what rows name by a short word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hwsigner.trial.questions import NotAskedError, Origin, Question, Source, Subject

_HEADINGS = ("Source", "Kind", "Where"), ("Place", "Stands for"), ("ID", "Question", "Expected", "Source", "Rests on")


def _only_listed(_: object) -> str:
    raise NotAskedError("it was read without what asks it")


def read_questions(
    path: Path, asks: Mapping[str, Callable[[Subject], str]] | None = None
) -> tuple[Question[Subject], ...]:
    r"""Return the questions of a file, in its order.

    A source is a word of the table of sources, or an origin with its text, such as "choice: RFC 5280 has no tolerance".
    What a question rests on is separated by commas: words of the table of places, or places as they are.

    Args:
        path: the file. A vertical bar in a cell is written as "\|".
        asks: what asks each question, by its ID. Without it, the questions can be listed, and not asked.

    Raises:
        ValueError: a row or a word is wrong, or rows and `asks` do not have the same IDs.
    """
    sources: dict[str, Source] = {}
    places: dict[str, str] = {}
    rows: dict[str, tuple[str, ...]] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.startswith("|") or line.startswith("|-"):
            continue
        cells = tuple(each.strip().replace("\0", "|") for each in line.replace("\\|", "\0").strip("| ").split("|"))
        if cells in _HEADINGS:
            table = cells
        elif len(cells) != len(table) or cells[0] in (*sources, *places, *rows):
            raise ValueError(f"{path.name}, line {number}: a row of another table, or {cells[0]!r} again")
        elif table == _HEADINGS[0]:
            sources[cells[0]] = Source(Origin(cells[1]), cells[2])
        elif table == _HEADINGS[1]:
            places[cells[0]] = cells[1]
        else:
            rows[cells[0]] = cells
    found = dict.fromkeys(rows, _only_listed) if asks is None else asks
    if rows.keys() != found.keys():
        raise ValueError(f"{path.name}: only in the table or the code: {sorted(rows.keys() ^ found.keys())}")

    def source_of(cell: str) -> Source:
        if cell in sources:
            return sources[cell]
        origin, _, where = cell.partition(": ")
        return Source(Origin(origin), where)

    return tuple(
        Question(
            name, text, expected, source_of(source), tuple(places.get(one, one) for one in on.split(", ")), found[name]
        )
        for name, text, expected, source, on in rows.values()
    )
