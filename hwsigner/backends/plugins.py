"""Plugins: what one raises or returns against the rules names it and its package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar, cast

from cryptography.hazmat.primitives.serialization import load_der_public_key

from hwsigner.errors import HwsignerError, HwsignerWarning, PluginError

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


class Plugin(NamedTuple):
    """A backend or an issuer that is not built in."""

    group: str  # Of its entry point, as the name.
    name: str
    module: str  # The module of what is called.
    role: str  # What it is, for messages, such as `the issuer acme`.

    def guarded(
        self, function: Callable[_Given, _Result], name: str, returns: type | list[type]
    ) -> Callable[_Given, _Result]:
        """Return one of its functions, such that its failures are PluginErrors; see `Backend`."""

        def call(*arguments: _Given.args, **named: _Given.kwargs) -> _Result:
            with self.blamed(name):
                result = function(*arguments, **named)
                if isinstance(returns, list):
                    return cast(_Result, self._items(name, iter(cast(Any, result)), returns[0]))
                if not isinstance(result, returns):
                    raise TypeError
                return result

        return call

    @contextmanager
    def blamed(self, function: str = "") -> Iterator[None]:
        """Raise a failure in the body of the `with` statement as a PluginError. The function is named, if any."""
        try:
            yield
        except (HwsignerError, HwsignerWarning, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit too: it would end a command as done.
            found = [entry.dist for entry in entry_points(group=self.group, name=self.name) if entry.dist]
            package = f" of the package {found[0].name} {found[0].version}" if found else ""
            title = f"{self.module}{function and '.' + function}{package}, {self.role}"
            raise PluginError.of(title, error, self.module) from error

    def _items(self, name: str, items: Iterator[object], kind: type) -> Iterator[object]:
        while True:
            with self.blamed(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
                if not isinstance(item, kind):
                    raise TypeError
            yield item


class PluginKey:
    """A key of a plugin, as `hwsigner.key.Key`. Its failures are PluginErrors."""

    def __init__(self, plugin: Plugin, key: Any) -> None:
        self._plugin = plugin
        self._key = key

    def __repr__(self) -> str:
        return repr(self._key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
