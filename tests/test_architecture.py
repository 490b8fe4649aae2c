"""Imports run one way, and each library has one owner. A failing test names the import that breaks the rule."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import hwsigner

ROOT = Path(hwsigner.__file__).parent

# What each room may import. A room is a package or a top-level module; each backend is a room of its own.
NOUNS = "errors _uri _pins key"
CORE = f"{NOUNS} _version sigv4 _identity"
BACKEND = f"{NOUNS} _system backends"
RULES = {
    "errors": "_version",
    "_version": "",
    "findings": "errors",
    "trust_policy": "errors findings",
    "_control_plane": "errors findings trust_policy _identity _aws",
    "emulator": "errors trust_policy",
    "_system": "errors",
    "_monitoring": "errors _system",
    "_http": "errors _system",
    "backends": "errors _system",
    "_uri": "errors backends",
    "_pins": "errors _uri _system",
    "key": "errors _uri _pins",
    "attestation": NOUNS,
    "testing": "hwsigner errors",
    "backends.file": BACKEND,
    "backends.pkcs11": BACKEND,
    "backends.tpm2": BACKEND,
    "sigv4": "errors _native",
    "_identity": NOUNS,
    "auth": "errors sigv4 _identity",
    "_aws": "errors _system _http sigv4 _identity _version",
    "_config": "errors _uri _pins _system _http _identity _aws",
    "_refresh": "errors _pins key _system _identity _aws _config _monitoring",
    "enrolment": "errors _uri _pins _system backends key attestation _identity _http _aws _config _refresh",
    "_agent": "errors _system _pins _aws _config _refresh _version",
    "_serving": "errors _system _http _aws",
    "_serving.pods": "errors _system _http _aws _config _refresh _serving",
    "doctor": f"{NOUNS} findings _system _identity _http _aws _config _agent _control_plane",
    "_cli": f"{CORE} attestation _system _monitoring _http _aws _config _refresh enrolment _agent _serving findings "
    "_serving.pods doctor trust_policy emulator _control_plane boto3",
    "trial": f"{CORE} backends backends.pkcs11 backends.tpm2 findings attestation _system _http _aws _config enrolment",
    "botocore": "errors _agent _system",
    "boto3": "botocore",
    "__main__": "_cli",
    "hwsigner": f"{CORE} backends _http _aws _refresh auth",
}

# The page does not draw the package itself, which names what is public, nor these.
UNDRAWN = {"hwsigner", "_version", "__main__", "testing"}

# Which rooms or modules may import a library.
OWNERS = {
    "pkcs11": ("backends.pkcs11",),
    "tpm2_pytss": ("backends.tpm2", "trial.tpm"),
    "asn1crypto": (
        *("backends.pem", "backends.tpm2.encode", "backends.tpm2.endorsement"),
        *("_identity", "attestation"),
    ),
    "ctypes": (
        "backends.file.libcrypto",
        "backends.pkcs11.functions",
        "backends.pkcs11.writing",
        "_system",
        "trial.token.calls",
        "trial.token.piv_count",
    ),
    "tomlkit": ("_config.profiles", "enrolment.registrar"),
    **dict.fromkeys(("boto3", "botocore"), ("_aws.apis", "_aws.failures", "boto3", "botocore")),
    "cryptography": (
        *("attestation", "backends", "enrolment", "_identity", "key.public_key"),
        *("_control_plane", "emulator", "testing", "trial"),
    ),
    "pytest": ("testing", "enrolment.testing"),
    "requests": ("auth",),
    **dict.fromkeys(("httptools", "uvloop"), ("_serving",)),
    "jwt": ("_serving.pods.keys",),
    "shtab": ("_cli.completion",),
    "rich": ("_cli.list", "_cli.status"),
    "logging": ("_monitoring",),
    "urllib.request": (),
}


class Import(NamedTuple):
    """One import: the module that contains it, and the module it names."""

    importer: str
    imported: str
    executed: bool  # False under TYPE_CHECKING.

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}"


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
            assert node.level == 0, f"{importer} has a relative import"
            names = [_imported_module(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        yield from (Import(importer, name, id(node) not in annotations) for name in names)


def _imported_module(module: str, name: str) -> str:
    """Return the module that `from module import name` imports: `name` may be a module itself."""
    inner = f"{module}.{name}".removeprefix("hwsigner.")
    return f"hwsigner.{inner}" if inner in MODULES and module.startswith("hwsigner") else module


@functools.cache
def _imports() -> list[Import]:
    return [found for name, path in MODULES.items() for found in _imports_of(name, path)]


@functools.cache
def _our_imports() -> list[Import]:
    """Return the imports of our own modules, without the package's name."""
    return [
        found._replace(imported=found.imported.removeprefix("hwsigner").removeprefix("."))
        for found in _imports()
        if found.imported.split(".")[0] == "hwsigner"
    ]


def _room(module: str) -> str:
    backend = ".".join(module.split(".")[:2])
    return backend if backend in RULES else module.split(".")[0] or "hwsigner"


def _is_in(module: str, places: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{place}.") for place in places)


def _arrows() -> set[tuple[str, str]]:
    """Return the pairs of rooms of which the first imports from the second."""
    return {(_room(found.importer), _room(found.imported)) for found in _our_imports()} - {
        (room, room) for room in RULES
    }


def test_every_room_has_a_rule() -> None:
    assert {_room(module) for module in MODULES} <= set(RULES)


@pytest.mark.parametrize("room", RULES)
def test_room_imports_only_what_its_rule_allows(room: str) -> None:
    allowed = {room, *RULES[room].split()}
    assert not [
        str(found) for found in _our_imports() if _room(found.importer) == room and _room(found.imported) not in allowed
    ]


# What a server does not need, and the commands that use it.
OF_ADMINISTRATORS = {
    "emulator": ("_cli.emulator",),
    "_control_plane": ("_cli.aws", "_cli.retire", "doctor.aws"),
    "trust_policy": ("_cli.aws", "_control_plane", "emulator"),
    "enrolment.registrar": ("_cli.registrar",),
}


@pytest.mark.parametrize("place", OF_ADMINISTRATORS)
def test_what_a_server_does_not_need_is_imported_by_its_commands_only(place: str) -> None:
    users = [found for found in _our_imports() if _is_in(found.imported, (place,))]
    assert not [str(found) for found in users if not _is_in(found.importer, (place, *OF_ADMINISTRATORS[place]))]


# Rooms whose `__init__` names their doors: the modules that other rooms may import. At most half of a room's modules
# are doors; where more are still used from outside, the number of them must not grow.
ROOMS_WITH_DOORS = {
    "_refresh": 7,
    "_serving": 8,
    "_serving.pods": None,
    "_aws": 9,
    "_http": 7,
    "_config": 5,
    "_monitoring": 4,
    "_control_plane": 8,
    "enrolment": None,
}


def _named_in(package: str) -> list[str]:
    """Return the `__all__` of a package, read from its source."""
    for statement in ast.parse(MODULES[package].read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    return []


def _is_door(module: str, room: str) -> bool:
    """Whether each package on the way from a room to a module names what is next on that way."""
    inner = module.removeprefix(f"{room}.").split(".")
    packages = [".".join((room, *inner[:depth])) for depth in range(len(inner))]
    return all(name in _named_in(package) for package, name in zip(packages, inner, strict=True))


def _modules_of(room: str) -> list[str]:
    """Return a room's modules, without its packages."""
    packages = {module.rpartition(".")[0] for module in MODULES}
    return [module for module in MODULES if _room(module) == room and module not in packages]


def _imports_from_outside(room: str) -> list[Import]:
    return [found for found in _our_imports() if _room(found.imported) == room != _room(found.importer)]


@pytest.mark.parametrize("room", ROOMS_WITH_DOORS)
def test_room_is_entered_by_its_doors_only(room: str) -> None:
    assert not [str(found) for found in _imports_from_outside(room) if not _is_door(found.imported, room)]


@pytest.mark.parametrize("room", ROOMS_WITH_DOORS)
def test_each_door_of_a_room_is_a_module_that_other_rooms_use(room: str) -> None:
    used = {found.imported for found in _imports_from_outside(room)}
    named = {f"{package}.{name}" for package in MODULES if _room(package) == room for name in _doors_in(package, room)}
    assert named <= {one.rsplit(".", depth)[0] for one in used for depth in range(2)}


def _doors_in(package: str, room: str) -> list[str]:
    """Return the names that a package gives, if they are doors of the room: packages of issuers name none."""
    is_package = MODULES[package].name == "__init__.py"
    return _named_in(package) if is_package and (package == room or _is_door(package, room)) else []


@pytest.mark.parametrize("room", ROOMS_WITH_DOORS)
def test_at_most_half_of_a_room_s_modules_are_doors(room: str) -> None:
    modules = _modules_of(room)
    doors = [module for module in modules if _is_door(module, room)]
    known = ROOMS_WITH_DOORS[room]
    if known is None:
        assert len(doors) * 2 <= len(modules), doors
    else:
        assert len(doors) <= known, doors
        assert len(doors) * 2 > len(modules), f"{room} needs no number of its own any more"


@pytest.mark.parametrize("room", ROOMS_WITH_DOORS)
def test_init_of_a_room_with_doors_imports_nothing(room: str) -> None:
    assert not [str(found) for found in _imports() if found.importer == room]


def test_top_level_of_the_package_fits_on_one_drawing() -> None:
    # The trials use the rooms as the tests do. Nothing imports them.
    boxes = {room.partition(".")[0] for room in RULES} - {"trial"}
    arrows = {(one.partition(".")[0], other.partition(".")[0]) for one, other in _arrows() if one != "trial"}
    assert len(boxes) <= 30
    assert len({(one, other) for one, other in arrows if one != other}) <= 138  # 120 would be better.


def test_no_module_imports_itself_in_a_circle_not_even_for_types() -> None:
    imported: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in _our_imports():
        if found.imported != found.importer:
            imported[found.importer].add(found.imported)
    TopologicalSorter(imported).prepare()  # A CycleError names the modules.


@pytest.mark.parametrize("library", OWNERS)
def test_library_is_imported_only_by_its_owners(library: str) -> None:
    users = [found for found in _imports() if f"{found.imported}.".startswith(f"{library}.")]
    assert not [str(found) for found in users if not _is_in(found.importer, OWNERS[library])]
    assert users or not OWNERS[library], f"nothing imports {library} any more"


def test_every_library_has_an_owner() -> None:
    known = {*sys.stdlib_module_names, *OWNERS, "hwsigner", "_typeshed"}
    assert not [str(found) for found in _imports() if found.imported.split(".")[0] not in known]


def test_importing_hwsigner_executes_only_its_version() -> None:
    assert {found.imported for found in _our_imports() if found.importer == "" and found.executed} == {"_version"}


def test_page_lists_every_room_and_draws_every_import_downwards() -> None:
    page = (ROOT.parent / "docs" / "how-it-works" / "architecture.md").read_text()
    table, drawing = page.split("## Rooms")[1].split("\n#")[0], page.split("## Imports")[1].split("```")[1]
    listed = {name.rstrip("/").removesuffix(".py").replace("/", ".") for name in re.findall(r"`([\w./]+)`", table)}
    level = {room: number for number, line in enumerate(drawing.split("\n")) for room in line.split()}
    rooms = RULES.keys() - UNDRAWN
    assert rooms <= listed & level.keys()
    assert not [(one, other) for one, other in _arrows() if {one, other} <= rooms and level[one] >= level[other]]


def test_page_names_only_files_that_exist() -> None:
    page = (ROOT.parent / "docs" / "how-it-works" / "architecture.md").read_text()
    named = [ROOT / file for file in re.findall(r"`([\w/]+\.py)`", page) if not file.startswith("tests/")]
    assert named
    assert not [str(file) for file in named if not file.exists()]
