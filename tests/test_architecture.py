"""Imports run one way, and each library has one owner. An offender is named with the import that offends."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import hwsigner
from hwsigner.backends import BACKENDS

ROOT = Path(hwsigner.__file__).parent

# From the bottom to the top. A module imports from lines below its own; a package (its line's name) also from itself.
LAYERS = (
    {"errors", "_version", "_native", "_reference", "defaults", "clocks", "file_lock", "users"}
    | {"pin_child", "chatter", "notices", "backends.table"},
    {"uri", "arn", "atomic_file", "canonical", "credentials", "schedule", "systemd", "trust"},
    {"pin_command", "backoff"},
    {"pin_sources"},
    {"pin", "endpoint", "config", "credentials_file"},
    {"key", "pinentry", "proxy", "connection", "flags"},
    {"public_key", "inventory", "tpm_key_file"},
    {"backends", "certificate", "sigv4", "tls"},
    {"identity", "selector", "sigv4_hmac", "transport"},
    {"refusal", "held_identity", "held_session"},
    {"auth", "session"},
    {"settings"},
    {"renewal"},
    {"provider"},
    {"resident"},
    {"agent"},
    {"serving"},
    {"", "emulator"},
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


# Who alone may import a library: modules whose names begin so. cryptography is common ground.
def _name(module: str) -> str:
    return module.removeprefix("hwsigner.")


OWNERS = {
    **{b.library: (_name(b.module), _name(b.module).replace(".", "._")) for b in BACKENDS.values() if b.library},
    "asn1crypto": ("backends.tpm2", "backends._tss2"),
    "ctypes": ("agent.memory", "backends._libcrypto", "backends._pkcs11_calls", "cli.staying", "pin_sources"),
    "tomlkit": ("config",),
    "cryptography": ("backends.", "certificate", "public_key", "selector", "emulator."),
    "requests": ("auth",),
    **dict.fromkeys(("httptools", "uvicorn", "uvloop"), ("serving.",)),
    "rich": ("cli.list",),
    "logging": (),
    "urllib.request": (),
}


class Import(NamedTuple):
    """One import statement: who imports, what, and whether it is executed rather than for annotations alone."""

    importer: str
    imported: str
    executed: bool

    def __str__(self) -> str:
        return f"hwsigner.{self.importer} imports {self.imported}"


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {_module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def _imports_of(importer: str, path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(), str(path))
    annotations = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"hwsigner.{importer} has a relative import"
            names = [_imported_module(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        yield from (Import(importer, name, id(node) not in annotations) for name in names)


def _imported_module(module: str, name: str) -> str:
    """Return the module that `from module import name` imports: `name` may be a module itself."""
    inner = f"{module}.{name}".removeprefix("hwsigner.")
    return f"hwsigner.{inner}" if inner in MODULES and module.startswith("hwsigner") else module


IMPORTS = [found for name, path in MODULES.items() for found in _imports_of(name, path)]
OURS = [
    found._replace(imported=found.imported.removeprefix("hwsigner").removeprefix("."))
    for found in IMPORTS
    if found.imported.split(".")[0] == "hwsigner"
]


def _layer(module: str) -> str:
    # The package of the backends holds their table alone, which key URIs and keys read.
    return "backends.table" if module == "backends" else module.split(".")[0]


def test_every_module_has_its_place() -> None:
    assert len(MODULES) > 20
    strangers = {_layer(module) for module in MODULES} - set(LEVEL)
    assert not strangers, f"give {strangers} a line in LAYERS"


def test_imports_run_one_way() -> None:
    offenders = [
        str(found)
        for found in OURS
        if _layer(found.importer) != _layer(found.imported)
        and LEVEL[_layer(found.imported)] >= LEVEL[_layer(found.importer)]
    ]
    assert not offenders


def test_no_module_imports_itself_in_a_circle() -> None:
    below: dict[str, set[str]] = {}
    for found in OURS:
        if found.executed and found.imported != found.importer:
            below.setdefault(found.importer, set()).add(found.imported)
    for start in MODULES:
        reached, waiting = set[str](), list(below.get(start, ()))
        while waiting:
            module = waiting.pop()
            assert module != start, f"hwsigner.{start} imports itself through {sorted(reached)}"
            if module not in reached:
                reached.add(module)
                waiting += below.get(module, ())


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_by_its_owner_alone(library: str) -> None:
    users = [found for found in IMPORTS if f"{found.imported}.".startswith(f"{library}.")]
    offenders = [str(found) for found in users if not found.importer.startswith(OWNERS[library])]
    assert not offenders
    assert users or not OWNERS[library], f"nobody imports {library} any more"


def test_every_library_has_an_owner() -> None:
    known = {*sys.stdlib_module_names, *OWNERS, "hwsigner", "_typeshed"}
    assert not [str(found) for found in IMPORTS if found.imported.split(".")[0] not in known]


def test_nothing_imports_a_backend_but_a_backend() -> None:
    assert not [str(f) for f in OURS if _layer(f.imported) == "backends" and _layer(f.importer) != "backends"]


def test_backends_know_keys_uris_pins_and_errors_alone() -> None:
    allowed = {"key", "uri", "pin", "errors", "inventory", "tpm_key_file", "chatter", "notices"}
    allowed |= {"backends", "backends.table", "file_lock"}
    assert not [str(f) for f in OURS if _layer(f.importer) == "backends" and _layer(f.imported) not in allowed]


def test_backends_do_not_import_one_another() -> None:
    names = {backend.module.removeprefix("hwsigner.") for backend in BACKENDS.values()}
    assert names <= set(MODULES)
    assert not [str(f) for f in OURS if f.imported in names]


def test_the_emulator_shares_nothing_but_errors() -> None:
    allowed = {"emulator", "errors"}
    assert not [str(f) for f in OURS if _layer(f.importer) == "emulator" and _layer(f.imported) not in allowed]


def test_nothing_imports_the_command_line_but_itself() -> None:
    allowed = {"cli", "__main__"}
    assert not [str(f) for f in OURS if _layer(f.imported) == "cli" and _layer(f.importer) not in allowed]


def test_the_package_itself_executes_no_import_of_ours_but_its_version() -> None:
    assert {f.imported for f in OURS if f.importer == "" and f.executed} == {"_version"}
