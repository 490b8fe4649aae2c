"""The public API is closed: what a public signature mentions is public, and the docs use nothing else."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

import hwsigner

ROOT = Path(__file__).parents[1]
MODULES = {
    f"hwsigner.{name}"
    for name in (
        "attestation",
        "auth",
        "backends",
        "emulator",
        "errors",
        "sigv4",
        "sigv4.access_key",
        "testing",
        *("boto3", "botocore", "doctor", "findings", "trust_policy"),
        *("key", "key.listing", "key.management"),
        *("enrolment.issuers", "enrolment.testing"),
    )
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
_CALLED = {"__init__", "__call__", "__enter__"}


@pytest.mark.parametrize("name", hwsigner.__all__)
def test_public_name_is_loaded_and_documented(name: str) -> None:
    assert getattr(hwsigner, name) is not None
    if not name.startswith("__"):
        assert f"`{name}" in (ROOT / "docs" / "how-to" / "library.md").read_text()


def test_page_lists_what_the_package_exports_and_its_public_modules() -> None:
    page = (ROOT / "docs" / "how-to" / "library.md").read_text().partition("## Public names")[2]
    names, modules = page.split("These modules are public too:")
    listed = [
        re.findall(r"`([\w.]+)`", row.split("|")[1]) for row in (names + modules).splitlines() if row[:3] == "| `"
    ]
    found = [name for row in listed for name in row]
    assert sorted(found) == sorted([*set(hwsigner.__all__) - {"__version__"}, *MODULES])


def test_private_rooms_have_private_names() -> None:
    rooms = {path.stem for path in Path(hwsigner.__file__).parent.iterdir() if path.suffix == ".py" or path.is_dir()}
    public = {module.split(".")[1] for module in MODULES} | {"trial"}  # Users write python -m hwsigner.trial.
    assert [room for room in sorted(rooms - public) if not room.startswith("_")] == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_what_a_public_module_does_not_export_has_a_private_name(module: str) -> None:
    exported = getattr(importlib.import_module(module), "__all__", None)
    defined = [node.name for node in _tree(module).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert exported is None or [name for name in defined if name[0] != "_" and name not in exported] == []


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(hwsigner, "no_such" + "_name")


def test_the_package_lists_its_public_modules() -> None:
    assert set(re.findall(r"`(hwsigner\.[\w.]+)`:", hwsigner.__doc__ or "")) == MODULES


def _public() -> Iterator[tuple[str, str]]:
    """Yield the module and the name of all that is public."""
    yield from ((f"hwsigner.{hwsigner._HOMES[name]}", name) for name in hwsigner.__all__ if name != "__version__")
    for module in sorted(MODULES):
        for node in _tree(module).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield module, node.name


def _tree(module: str) -> ast.Module:
    file = importlib.import_module(module).__file__
    assert file
    return ast.parse(Path(file).read_text())


def _annotations(node: ast.stmt) -> Iterator[ast.expr | None]:
    """Yield what a function, class or alias mentions in its public signature."""
    if isinstance(node, ast.FunctionDef):
        arguments = node.args
        every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
        yield from (argument.annotation for argument in every if argument)
        yield node.returns
    elif isinstance(node, ast.ClassDef):
        for inner in node.body:
            name = getattr(inner, "name", "") or ast.unparse(getattr(inner, "target", ast.Name("_")))
            if name in _CALLED or not name.startswith("_"):
                yield from _annotations(inner)
    elif isinstance(node, ast.AnnAssign):
        yield node.annotation
    elif isinstance(node, ast.Assign):
        yield node.value


def _names(annotation: ast.expr) -> Iterator[str]:
    """Yield the dotted names in an annotation."""
    if isinstance(annotation, ast.Attribute | ast.Name):
        yield ast.unparse(annotation)
    elif isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        yield from _names(ast.parse(annotation.value, mode="eval").body)
    elif not (isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal"):
        for child in ast.iter_child_nodes(annotation):
            if isinstance(child, ast.expr):
                yield from _names(child)


def _home(name: str, module: str) -> str:
    """Return the full name of what a module calls so."""
    first, _, rest = name.partition(".")
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == first:
                    origin = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
                    return f"{origin}.{rest}" if rest else origin
    return f"builtins.{first}" if hasattr(builtins, first) else f"{module}.{name}"


@functools.cache
def _exported() -> frozenset[str]:
    """Return the full names of what a public module has in its `__all__` from another module."""
    names = [(module, name) for module in MODULES for name in getattr(importlib.import_module(module), "__all__", ())]
    return frozenset(home for module, name in names if not (home := _home(name, module)).startswith(f"{module}.{name}"))


def _value(module: str, name: str) -> object:
    return getattr(importlib.import_module(module), name, None) if module in MODULES else None


def _is_public(home: str) -> bool:
    module, _, name = home.rpartition(".")
    if not home.startswith("hwsigner") or isinstance(_value(module, name), ParamSpec | TypeVar):
        return True
    return name in hwsigner.__all__ or home in _exported() or (module in MODULES and not name.startswith("_"))


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), sorted(set(_public())))
def test_public_signature_mentions_only_public_names(module: str, name: str) -> None:
    [node] = [
        node
        for node in _tree(module).body
        if name in (getattr(node, "name", None), ast.unparse((getattr(node, "targets", None) or [ast.Name("_")])[0]))
        or name == getattr(getattr(node, "target", None), "id", None)
    ]
    mentioned = {mention for found in _annotations(node) if found for mention in _names(found)}
    homes = {_home(mention, module) for mention in mentioned}
    assert {home for home in homes if not _is_public(home)} == set()


def _blocks() -> Iterator[object]:
    for page in PAGES:
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)):
            yield pytest.param(code, id=f"{page.relative_to(ROOT)} {number + 1}")


@pytest.mark.parametrize("code", list(_blocks()))
def test_code_in_the_docs_uses_only_public_names(code: str) -> None:
    tree = ast.parse(code)
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            used |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            used.add(ast.unparse(node))
        elif isinstance(node, ast.Import):
            assert {alias.name for alias in node.names if alias.name.startswith("hwsigner.")} <= MODULES
    ours = {name for name in used if name.split(".")[0] == "hwsigner"}
    assert {name for name in ours if name not in MODULES and not _is_public(_without_members(name))} == set()


def _without_members(name: str) -> str:
    """Return a dotted name up to the part after its module: `hwsigner.Key` of `hwsigner.Key.sign`."""
    parts = name.split(".")
    modules = (length for length in range(len(parts), 1, -1) if ".".join(parts[:length]) in MODULES)
    return ".".join(parts[: next(modules, 1) + 1])
