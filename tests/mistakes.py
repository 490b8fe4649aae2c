"""The mistakes in a table of `hwsigner.findings`."""

from __future__ import annotations

from types import ModuleType

from hwsigner.findings import Mistake


def mistakes_of(table: ModuleType) -> list[Mistake]:
    return [each for each in vars(table).values() if isinstance(each, Mistake)]
