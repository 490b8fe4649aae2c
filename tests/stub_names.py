"""The names that modules of Python's standard library have on a platform, by the stubs that mypy brings."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import mypy

STUBS = Path(mypy.__file__).with_name("typeshed") / "stdlib"


def names_of(library: str, platform: str) -> set[str]:
    """Return the names that a module has on a platform."""
    path = STUBS / f"{library}.pyi"
    body = ast.parse((path if path.exists() else STUBS / library / "__init__.pyi").read_text()).body
    return set(_defined(body, platform))


def _defined(body: list[ast.stmt], platform: str) -> Iterator[str]:
    for statement in body:
        match statement:
            case ast.If(test=test):
                yield from _defined(statement.body if _holds(test, platform) else statement.orelse, platform)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]):
                yield name
            case ast.ImportFrom(names=names):
                yield from (one.asname or one.name for one in names)


def _holds(test: ast.expr, platform: str) -> bool:
    """Return whether a condition of the stubs holds: they compare the platform and the version of Python."""
    known = {"sys": type("sys", (), {"platform": platform, "version_info": sys.version_info})}
    return bool(eval(compile(ast.Expression(test), "typeshed", "eval"), known))
