"""Each class has a name of its own in hwsigner, so that a name says which one is meant."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import hwsigner

PACKAGE = Path(hwsigner.__file__).parent


def test_each_class_name_is_used_once() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if file.startswith("emulator/"):  # It shares no code with the client.
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(file)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
