"""The mutants of a C source: each operator, comparison, constant, condition and statement, one change at a time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

TOKENS = re.compile(
    r"""(?P<skip>/\*.*?\*/|\s+|^\#(?:[^\\\n]|\\.|\\\n)*)
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<char>'(?:[^'\\]|\\.)')
    |(?P<number>0[xX][0-9A-Fa-f]+U?|\d+U?)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<operator><<|>>|<=|>=|==|!=|&&|\|\||\+\+|--|\+=|-=|\|=|->|.)""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
OPERATORS = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("!=",),
    "!=": ("==",),
    "&&": ("||",),
    "||": ("&&",),
    "+": ("-",),
    "-": ("+",),
    "*": ("/",),
    "/": ("*",),
    "<<": (">>",),
    ">>": ("<<",),
    "&": ("|",),
    "|": ("&",),
    "+=": ("-=", "="),
    "-=": ("+=", "="),
    "|=": ("=", "&="),
    "++": ("--",),
    "--": ("++",),
    "!": ("",),
}
WORDS = {
    "true": ("false",),
    "false": ("true",),
    "continue": ("break",),
    "break": ("continue",),
    "UNRESERVED": ("TOKEN", "DIGIT"),
    "TOKEN": ("UNRESERVED", "DIGIT"),
    "DIGIT": ("UNRESERVED", "TOKEN"),
    "SIZE_MAX": ("(SIZE_MAX / 2)",),
    "NULL": ("(void *)1",),
}
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "v": "\v", "f": "\f", "0": "\0", "\\": "\\", "'": "'"}
DIGITS = re.compile(r'"(0123456789[A-Fa-f]{6})"')
MESSAGE = re.compile(r'^static const char [A-Z_]+\[\] = "|PyErr_|^\s*"|\.m_doc')
"""A line with a text for people: nothing is decided by it."""
STATEMENT = re.compile(
    r"^ ++(?!return\b|struct\b|static\b|enum\b|else\b|for\b|if\b|while\b|\.|case\b)[^{};]+;$", re.MULTILINE
)
RETURN = re.compile(r"^ +return (?!NULL;)([A-Z_]+);$", re.MULTILINE)
FUNCTION = re.compile(r"^[a-zA-Z].*?(\w+)\(.*\{$", re.MULTILINE)
CONDITION = re.compile(r"\b(?:if|while) (?=\()")


class Mutant(NamedTuple):
    """What is at `start` in a file becomes `new`; and the function, the line with `@` before the change, its number."""

    file: str
    start: int
    old: str
    new: str
    function: str
    line: str
    number: int

    @property
    def key(self) -> str:
        """What identifies the mutant while its line stays as it is. Equal changes of equal lines are numbered."""
        number = f" ({self.number})" if self.number else ""
        return f"{self.file}, {self.function}{number}: {self.line} | {self.old} -> {self.new}"

    def apply(self, source: str) -> str:
        """Return the source with the change made."""
        return source[: self.start] + self.new + source[self.start + len(self.old) :]


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """Yield all mutants of a file, in the order of their places."""
    seen: Counter[tuple[str, ...]] = Counter()
    found = [*_of_tokens(source), *_of_statements(source), *_of_conditions(source)]
    for start, old, new in sorted(set(found)):
        begin = source.rfind("\n", 0, start) + 1
        line = source[begin : source.find("\n", start)]
        marked = line[: start - begin] + "@" + line[start - begin :]
        headings = FUNCTION.findall(source, 0, source.find("\n", start))
        change = (old, new, headings[-1] if headings else "-", marked.strip())
        yield Mutant(file, start, *change, seen[change])
        seen[change] += 1


def _of_tokens(source: str) -> Iterator[tuple[int, str, str]]:
    table = source.find("CLASSES[256] = {")
    table_end = source.find("};", table)
    for token in TOKENS.finditer(source):
        old, start = token.group(), token.start()
        line = source[source.rfind("\n", 0, start) + 1 : start]
        if token["operator"]:
            news = OPERATORS.get(old, ())
        elif token["word"]:
            news = WORDS.get(old, ())
        elif token["number"]:
            in_table = table >= 0 and table + 16 <= start < table_end
            news = _other_numbers(int(old.rstrip("U"), 0), in_table=in_table)
        elif token["char"]:
            value = ord(ESCAPES[old[2]] if old[1] == "\\" else old[1])
            news = (str(value + 1), str(value - 1)) if value > 0 else ("1",)
        elif token["string"] and not MESSAGE.search(line + old):
            news = _other_strings(old)
        else:
            news = ()
        yield from ((start, old, new) for new in news)


def _other_numbers(value: int, *, in_table: bool) -> tuple[str, ...]:
    if in_table:  # A digit has its value in the upper half.
        return tuple(str(value ^ bit) for bit in ((1, 2, 4, 16, 128) if value & 4 else (1, 2, 4)))
    return (str(value + 1), str(value - 1)) if value > 0 else ("1",)


def _other_strings(old: str) -> tuple[str, ...]:
    digits = DIGITS.fullmatch(old)
    if digits:
        return tuple(f'"{digits[1][:i]}_{digits[1][i + 1 :]}"' for i in range(16))
    return ('""', f'"{old[1:-1]}x"')


def _of_statements(source: str) -> Iterator[tuple[int, str, str]]:
    for statement in STATEMENT.finditer(source):
        text = statement.group()
        stripped = text.lstrip()
        yield statement.end() - len(stripped), stripped, ";"
    for found in RETURN.finditer(source):
        yield found.start(1), found[1], "NULL"


def _of_conditions(source: str) -> Iterator[tuple[int, str, str]]:
    for found in CONDITION.finditer(source):
        depth, end = 0, found.end()
        while True:
            depth += {"(": 1, ")": -1}.get(source[end], 0)
            end += 1
            if depth == 0:
                break
        condition = source[found.end() : end]
        yield from ((found.end(), condition, new) for new in ("(0)", "(1)", f"(!{condition})"))
