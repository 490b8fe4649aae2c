"""Backends from packages of their own: what one raises or returns against the rules names it and its package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from types import TracebackType, UnionType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast, get_args, get_origin, get_type_hints

from cryptography.hazmat.primitives.serialization import load_der_public_key

from hwsigner.errors import HwsignerError, HwsignerWarning, PluginError

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


class Plugin:
    """A backend that is not built in.

    Args:
        group: the group of its entry point.
        scheme: the scheme of its key URIs.
        module: the module of what is called.
    """

    def __init__(self, group: str, scheme: str, module: str) -> None:
        self._group = group
        self._scheme = scheme
        self._module = module

    def guarded(
        self, function: Callable[_Given, _Result], protocol: Callable[Concatenate[Any, _Given], _Result] | None
    ) -> Callable[_Given, _Result]:
        """Return one of its functions, such that its failures are PluginErrors; see `Backend`."""
        returned = get_type_hints(protocol)["return"] if protocol else object
        kind = get_origin(returned) or returned
        name = protocol.__name__ if protocol else ""

        def call(*arguments: _Given.args, **named: _Given.kwargs) -> _Result:
            with self.blamed(name):
                result = function(*arguments, **named)
                if kind in (list, Iterator):
                    return cast(_Result, self._items(name, cast(Any, result), get_args(returned)[0]))
                if not getattr(kind, "_is_protocol", False):  # `PluginKey` checks what a key returns.
                    _check_type(result, kind)
                return result

        return call

    @contextmanager
    def blamed(self, function: str = "") -> Iterator[None]:
        """Raise a failure in the body of the `with` statement as a PluginError. The function is named, if any."""
        try:
            yield
        except (HwsignerError, HwsignerWarning, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit too: it would end a command without credentials as done.
            found = [entry.dist for entry in entry_points(group=self._group, name=self._scheme) if entry.dist]
            package = f" of the package {found[0].name} {found[0].version}" if found else ""
            title = f"{self._module}{function and '.' + function}{package}, the backend for {self._scheme}: keys"
            raise PluginError.of(title, error, self._module) from error

    def _items(self, name: str, items: Iterable[object], kind: type) -> Iterator[object]:
        with self.blamed(name):
            rest = iter(items)
        while True:
            with self.blamed(name):
                item = next(rest, None)
                _check_type(item, kind | None)
            if item is None:
                return
            yield item


def _check_type(result: object, kind: type | UnionType) -> None:
    if not isinstance(result, kind):
        raise TypeError


class PluginKey:
    """A key of a plugin, as `hwsigner.key.Key`. Its failures are PluginErrors."""

    def __init__(self, plugin: Plugin, key: Any) -> None:
        self._plugin = plugin
        self._key = key

    def __repr__(self) -> str:
        return repr(self._key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def algorithm(self) -> Any:
        """The SigV4-X509 algorithm that the key signs for."""
        with self._plugin.blamed():
            return self._key.algorithm

    def public_key(self) -> bytes | None:
        """Return the DER SubjectPublicKeyInfo, or None if the backend does not have it."""
        with self._plugin.blamed():
            found = self._key.public_key()
            if found is None:
                return None
            load_der_public_key(bytes(memoryview(found)))  # Raises for what is no SubjectPublicKeyInfo.
            return bytes(found)

    def sign(self, message: bytes, hash: Any = "sha256") -> bytes:
        """Sign a message; see `Key.sign`."""
        message = bytes(memoryview(message))  # A TypeError is the caller's.
        with self._plugin.blamed():
            return bytes(memoryview(self._key.sign(message, hash)))

    def close(self) -> None:
        """Release the key."""
        with self._plugin.blamed():
            self._key.close()
