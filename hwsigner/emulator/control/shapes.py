"""Shapes of a request's members, with the constraints of the API reference, and the errors that break them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hwsigner.emulator.refusals import RefusalError, invalid


class Shape(Protocol):
    """The form of a value in JSON."""

    def read(self, value: Any, where: str) -> Any:
        """Check a value and return it, decoded if JSON encodes it."""


@dataclass(frozen=True)
class Text:
    """A string. Lengths are in characters; the pattern must match all of it, else some services have words for it."""

    least: int = 0
    most: int | None = None
    pattern: str = ""
    words: str = ""

    def read(self, value: Any, where: str) -> str:
        """Read a string."""
        text: str = _typed(value, str, where)
        _check_length(text, self, where)
        if self.pattern and not re.fullmatch(self.pattern, text, re.ASCII):
            if self.words:
                raise invalid(f"The specified value for {where} is invalid. {self.words}")
            raise unsatisfied(where, f"satisfy regular expression pattern: ^{self.pattern}$", text)
        return text


@dataclass(frozen=True)
class Choice:
    """One of some strings."""

    values: tuple[str, ...]

    def read(self, value: Any, where: str) -> str:
        """Read one of the strings."""
        if _typed(value, str, where) not in self.values:
            raise unsatisfied(where, f"satisfy enum value set: [{', '.join(self.values)}]", value)
        return str(value)


@dataclass(frozen=True)
class Whole:
    """A whole number."""

    least: int | None = None
    most: int | None = None

    def read(self, value: Any, where: str) -> int:
        """Read a whole number."""
        number: int = _typed(value, int, where)
        if self.least is not None and number < self.least:
            raise unsatisfied(where, f"have value greater than or equal to {self.least}", number)
        if self.most is not None and number > self.most:
            raise unsatisfied(where, f"have value less than or equal to {self.most}", number)
        return number


@dataclass(frozen=True)
class Truth:
    """A boolean."""

    def read(self, value: Any, where: str) -> bool:
        """Read a boolean."""
        truth: bool = _typed(value, bool, where)
        return truth


@dataclass(frozen=True)
class Binary:
    """Bytes, in base64. Lengths are those of the bytes."""

    least: int = 0
    most: int | None = None

    def read(self, value: Any, where: str) -> bytes:
        """Read base64, and return the bytes."""
        try:
            data = base64.b64decode(_typed(value, str, where), validate=True)
        except (binascii.Error, ValueError) as error:
            raise _serialization(where, "is not base64") from error
        _check_length(data, self, where)
        return data


@dataclass(frozen=True)
class Items:
    """A list."""

    member: Shape
    least: int = 0
    most: int | None = None

    def read(self, value: Any, where: str) -> list[Any]:
        """Read a list."""
        items = _typed(value, list, where)
        _check_length(items, self, where)
        return [self.member.read(item, f"{where}.{number}.member") for number, item in enumerate(items, 1)]


@dataclass(frozen=True)
class Structure:
    """An object. A union has exactly one member. A member that is null counts as missing."""

    members: Mapping[str, Shape]
    required: tuple[str, ...] = ()
    is_union: bool = field(default=False, kw_only=True)

    def read(self, value: Any, where: str) -> dict[str, Any]:
        """Read an object."""
        given = {name: each for name, each in _typed(value, dict, where).items() if each is not None}
        prefix = f"{where}." if where else ""
        for name in self.required:
            if name not in given:
                raise unsatisfied(f"{prefix}{name}", "not be null", None)
        for name in given:
            if name not in self.members:
                raise invalid(f"The emulator does not know the member {prefix}{name}")
        if self.is_union and len(given) != 1:
            raise unsatisfied(where, f"have exactly one of: {', '.join(self.members)}", given)
        return {name: self.members[name].read(each, f"{prefix}{name}") for name, each in given.items()}


def _typed(value: Any, kind: type, where: str) -> Any:
    if type(value) is not kind:
        raise _serialization(where or "the body", f"is not a {kind.__name__}")
    return value


def _check_length(value: str | bytes | list[Any], shape: Text | Binary | Items, where: str) -> None:
    length = len(value)
    if length < shape.least:
        raise unsatisfied(where, f"have length greater than or equal to {shape.least}", value)
    if shape.most is not None and length > shape.most:
        raise unsatisfied(where, f"have length less than or equal to {shape.most}", value)


def unsatisfied(where: str, what: str, value: object) -> RefusalError:
    """Return the refusal of a value that breaks a constraint."""
    constraint = f"at '{where}' failed to satisfy constraint: Member must {what}"
    return invalid(f"1 validation error detected: Value {_shown(value)} {constraint}")


def _shown(value: object) -> str:
    """Return a value as AWS's services written in Java quote it."""
    if isinstance(value, bytes):
        return f"'java.nio.HeapByteBuffer[pos=0 lim={len(value)} cap={len(value)}]'"
    text = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
    return "null" if value is None else f"'{text}'"


def _serialization(where: str, problem: str) -> RefusalError:
    return RefusalError("SerializationException", 400, f"{where} {problem}")
