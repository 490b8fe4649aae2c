"""The reference of the errors, made from the sources: every message that hwsigner can print, with what to do.

A message is read where it is made: `raise UsageError(f"no profile {name!r}", "Use another name")` gives
`no profile 'NAME'`. What can't be read, such as a text of the service, is shown as `…`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hwsigner
from hwsigner import errors
from hwsigner._aws import create_session
from markup import plain

_PACKAGE = Path(hwsigner.__file__).parent
_UNKNOWN = "…"
_OPERATORS: Mapping[type, Callable[[Any, Any], float]] = {
    ast.Mult: operator.mul,
    ast.LShift: operator.lshift,
    ast.Pow: operator.pow,
}
_PLACEHOLDER = re.compile("[A-Z_]{2,}|…")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Values = Mapping[str, Sequence[ast.expr]]
_Path = tuple[tuple[int, str], ...]  # The blocks that a statement is in.
_CLASSES: dict[str, type[errors.HwsignerError] | type[errors.HwsignerWarning]] = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, errors.HwsignerError | errors.HwsignerWarning)
}
_STATUSES = {
    1: "Other failures",
    2: "Usage and configuration",
    3: "Key or PIN",
    4: "Certificate",
    5: "The service refused",
    6: "The service was not reached",
    7: "Agent and locks",
    130: "Interrupted",
}


class Entry(NamedTuple):
    """A message, with what to do."""

    error: str  # the name of the class
    message: str
    hint: str


_MOST_VARIANTS = 24  # of one message
_ALL = "every message that hwsigner can print"  # words of errors.md, which get a link
_INTRODUCTION = """\
# Every error message

An error is one line on stderr: what is wrong, then what to do. This page has every message that hwsigner can print, by
exit status and by the class that a Python program catches. Words in capitals, such as PATH, stand for the values in
your message; … stands for any text.

To find a message, paste it or a part of it:
"""


def write_page(source: Path) -> None:
    """Write the page into the site's sources."""
    errors_page = source / "reference" / "errors.md"
    text = errors_page.read_text()
    (source / "reference" / "messages.md").write_text(page(causes(text)))
    errors_page.write_text(text.replace(_ALL, f"[{_ALL}](messages.md)"))


def causes(text: str) -> dict[str, str]:
    """Return the causes that a page explains by hand, by message, from its table of common errors."""
    table = text.partition("## Common errors")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", table.replace("](#", "](errors.md#"), re.MULTILINE))


def page(explained: Mapping[str, str]) -> str:
    """Return the page, in Markdown.

    Args:
        explained: what is known of a message beyond its hints, in Markdown.
    """
    parts = [_INTRODUCTION, '<div id="find-message"></div>', "## What the service says", _service()]
    for status, title in _STATUSES.items():
        parts.append(f"## Status {status}: {title[:1].lower()}{title[1:]}")
        parts += _section(errors.HwsignerError, status, explained)
    parts += ["## Warnings", "They go to stderr and change nothing. With `--strict` they are errors."]
    for status in _STATUSES:
        parts += _section(errors.HwsignerWarning, status, explained)
    return "\n\n".join(parts) + "\n"


def _service() -> str:
    """Return the list of the service's messages that hwsigner explains."""
    said = {f"{words}": cause for words, cause in create_session._CAUSES}
    rows = [f"{plain(words)}\n: {plain(cause)}" for words, cause in (said | create_session._CAUSES_BY_TYPE).items()]
    return "\n\n".join(
        [
            "An error that begins with `the service refused:` quotes the service. Its messages and their causes:",
            *rows,
        ]
    )


def _section(base: type, status: int, explained: Mapping[str, str]) -> Iterator[str]:
    """Yield the messages of the classes with a status."""
    for name, found in _CLASSES.items():
        of_class = [entry for entry in entries() if entry.error == name]
        if issubclass(found, base) and found.exit_status == status and of_class:
            about = (inspect.getdoc(found) or "").partition("\n\n")[0].replace("\n", " ")
            yield f"### {name}\n\n{about}"
            for message, group in itertools.groupby(of_class, key=lambda entry: entry.message):
                yield _definition(message, [entry.hint for entry in group if entry.hint], explained.get(message, ""))


def _definition(message: str, hints: Sequence[str], cause: str) -> str:
    advice = [f"{plain(hint)}." for hint in hints] or ([] if cause else ["The message says it all."])
    if len(advice) > 1:
        advice = [f"One of: {' · '.join(advice)}"]
    return f"{plain(message)}\n: " + "\n\n  ".join([*advice, *([cause] if cause else [])])


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Return every message that the sources make, in the order of the alphabet."""
    trees = [ast.parse(path.read_text()) for path in sorted(_PACKAGE.rglob("*.py"))]
    constants = {name: values for tree in trees for name, values in _assigned(tree.body).items() if name.isupper()}
    calls = _calls(trees)
    found = {entry for tree in trees for entry in _made_in(tree, constants | _assigned(tree.body), calls)}
    hinted = {entry[:2] for entry in found if entry.hint}
    kept = [entry for entry in found if entry.hint or entry[:2] not in hinted]
    return tuple(sorted(kept, key=lambda entry: (re.sub(r"\W", "", entry.message.lower()), entry)))


def _calls(trees: Iterable[ast.AST]) -> dict[str, list[ast.Call]]:
    """Return the calls of functions, by the functions' names."""
    found: dict[str, list[ast.Call]] = {}
    for node in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)):
        found.setdefault(_name(node.func), []).append(node)
    return found


def _made_in(tree: ast.Module, known: _Values, calls: Mapping[str, list[ast.Call]]) -> Iterator[Entry]:
    """Yield the messages of a module."""
    own = _calls([tree])
    for outer in tree.body:
        for function in [outer] if isinstance(outer, _FUNCTIONS) else getattr(outer, "body", []):
            if isinstance(function, _FUNCTIONS):
                callers = (own if function.name.startswith("_") else calls).get(function.name, [])
                inner = {**known, **_arguments(function, callers), **_assigned(ast.walk(function))}
                yield from _made_by(function, inner)


def _made_by(function: ast.AST, known: _Values) -> Iterator[Entry]:
    blocks = dict(_blocks(function, ()))
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and node.args:
            here = {**known, **_reaching(node, blocks)}
            given = [_name(each) for each in here.get(_name(node.func), ())]  # A function is told which class to use.
            classes = sorted({_name(node.func), *given} & _CLASSES.keys())
            hint = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "hint")]
            hints = [text for each in hint[:1] for text in _texts(each, here)] or [""]
            texts = _texts(node.args[0], here) if classes else []
            for name, message, advice in itertools.product(classes, texts, hints):
                if re.search("[a-z]{2}", message) and "  " not in message:
                    yield Entry(name, message, "" if advice == _UNKNOWN else advice)


def _blocks(outer: ast.AST, path: _Path) -> Iterator[tuple[ast.stmt, _Path]]:
    """Yield the statements in a node, each with the blocks that it is in, from the outermost."""
    for name, value in ast.iter_fields(outer):
        if isinstance(value, list):
            for node in value:
                inner = (*path, (id(outer), name))
                if isinstance(node, ast.stmt):
                    yield node, inner
                if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
                    yield from _blocks(node, inner)


def _reaching(call: ast.Call, blocks: Mapping[ast.stmt, _Path]) -> _Values:
    """Return the values that a function's own names may have at a call.

    The last assignment above it counts, and those in branches between the two.
    """
    around = [each for each in blocks if each.lineno <= call.lineno <= (each.end_lineno or 0)]
    here = max((blocks[each] for each in around), key=len, default=())
    found: dict[str, list[ast.expr]] = {}
    certain: set[str] = set()
    for statement in sorted(blocks, key=lambda each: each.lineno, reverse=True):
        if statement.lineno < call.lineno and statement not in around:
            assigned = _assigned([statement])
            for name in assigned.keys() - certain:
                found.setdefault(name, []).extend(assigned[name])
            if blocks[statement] == here[: len(blocks[statement])]:
                certain |= assigned.keys()
    return found


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef, calls: Sequence[ast.Call]) -> _Values:
    """Return what its callers give for the arguments of a function."""
    names = [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]
    found: dict[str, list[ast.expr]] = {}
    for call in calls:
        for name, value in [*zip(names, call.args, strict=False), *((k.arg or "", k.value) for k in call.keywords)]:
            found.setdefault(name, []).append(value)
    return found


def _assigned(nodes: Iterable[ast.AST]) -> dict[str, list[ast.expr]]:
    """Return the values that are assigned to names."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for name, value in pairs:
                found.setdefault(_name(name), []).append(value)
    return found


def _texts(node: ast.expr, known: _Values) -> list[str]:
    """Return the texts that an expression may be."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return _joined(_pieces(parts, known))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _joined([_texts(left, known), _texts(right, known)])
        case ast.IfExp(body=one, orelse=other):
            return [*_texts(one, known), *_texts(other, known)]
        case ast.BoolOp(values=values):
            return [text for value in values for text in _texts(value, known)]
        case ast.Call(func=ast.Attribute(value=text, attr="rstrip" | "format")):
            return _texts(text, known)
        case ast.Call(func=ast.Name(id="suggestion"), args=[_, _, otherwise]):
            return ["Did you mean …?", *_texts(otherwise, known)]
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in known:
            rest = {other: values for other, values in known.items() if other != name}
            return [text for value in known[name] for text in _texts(value, rest)]
    return [_UNKNOWN]


def _pieces(parts: Sequence[ast.expr], known: _Values) -> list[list[str]]:
    """Return what each part of an f-string may be. Of two names in a row, the second is left out: PATH…."""
    pieces = [_piece(part, known) for part in parts]
    for index in range(1, len(pieces)):
        if _PLACEHOLDER.fullmatch(pieces[index - 1][0]) and _PLACEHOLDER.fullmatch(pieces[index][0]):
            pieces[index] = [_UNKNOWN]
    return pieces


def _piece(part: ast.expr, known: _Values) -> list[str]:
    """Return what a part of an f-string may be: texts, or the last name in its expression, in capitals."""
    if not isinstance(part, ast.FormattedValue):
        return _texts(part, known)
    value = part.value
    if isinstance(value, ast.Name | ast.IfExp) and part.conversion == -1:
        assigned = known.get(_name(value), ()) if _name(value).isupper() else ()
        texts = [f"{number:.10g}" for each in assigned if (number := _number(each))] or _texts(value, known)
        if _UNKNOWN not in texts:
            return texts
    while isinstance(value, ast.Subscript):
        value = value.value
    shown = _name(value).strip("_").upper() or _UNKNOWN
    return [f"'{shown}'" if part.conversion == ord("r") else shown]


def _number(node: ast.expr) -> float | None:
    """Return the value of a number, or of a calculation with numbers alone."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            one, other = _number(left), _number(right)
            return None if one is None or other is None else _OPERATORS[type(op)](one, other)
    return None


def _joined(pieces: Sequence[Sequence[str]]) -> list[str]:
    """Return the texts that pieces make, each of which may be several. If there are too many, they are left out."""
    count = 1
    for piece in pieces:
        count *= len(set(piece))
    shown = [dict.fromkeys(piece) if count <= _MOST_VARIANTS or len(piece) == 1 else [_UNKNOWN] for piece in pieces]
    return [re.sub(f"{_UNKNOWN}+", _UNKNOWN, "".join(parts)) for parts in itertools.product(*shown)]


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
