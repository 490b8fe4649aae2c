"""Which of a module's lists of functions is called: the one that python-pkcs11 uses."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from pkcs11 import PKCS11Error, _pkcs11

from emulators import InProcessSoftHSM
from hwsigner.backends.pkcs11 import functions as calls

PROXY = "p11-kit-proxy.so"


class Library(_pkcs11.lib):  # type: ignore[misc, valid-type, unused-ignore]
    """python-pkcs11's object as it is before `__init__`."""

    def __init__(self, path: str) -> None:
        pass


class Stranger:
    """An object of another layout."""


def test_a_module_with_one_list_is_asked_for_it(softhsm: InProcessSoftHSM) -> None:
    listed = ctypes.c_void_p()
    ctypes.CDLL(softhsm.module).C_GetFunctionList(ctypes.byref(listed))
    library = Library(softhsm.module)
    assert calls._held_list(library) == calls._function_list(library, softhsm.module) == listed.value
    assert calls._function_list(Stranger(), softhsm.module) == listed.value


def test_a_module_with_a_list_for_each_caller_is_not_asked_alone() -> None:
    assert calls._asked_list(PROXY) != calls._asked_list(PROXY)
    library = Library(PROXY)
    assert calls._function_list(library, PROXY) == calls._held_list(library)


def test_a_list_that_python_pkcs11_does_not_use_is_not_called_instead() -> None:
    with pytest.raises(PKCS11Error, match="another release"):
        calls._function_list(Stranger(), PROXY)


def test_a_layout_that_is_not_known_is_not_read(monkeypatch: pytest.MonkeyPatch, softhsm: InProcessSoftHSM) -> None:
    library: Any = Library(softhsm.module)
    monkeypatch.setattr(calls, "_HELD_LISTS", 2)
    assert calls._held_list(library) is None
    assert calls._held_list(Stranger()) is None


def test_an_object_that_has_asked_for_more_lists_is_not_read(softhsm: InProcessSoftHSM) -> None:
    library = Library(softhsm.module)
    fields = (ctypes.c_void_p * 3).from_address(id(library) + object.__basicsize__)
    fields[1] = fields[0]
    assert calls._held_list(library) is None
