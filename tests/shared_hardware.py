"""A watch over the emulated hardware that tests share: a test that leaves it changed is named, not a later one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from softhsm.pcsc import SoftPcsc
from softhsm.tpm import SoftTPM

if TYPE_CHECKING:  # Not every system that runs tests has it, and only tests with a TPM need it.
    from tpm2_pytss import ESAPI

# What a new swtpm has: how many wrong auth values it allows, and after how many seconds it forgets one, or the lockout.
_LOCKOUT = (3, 1000, 1000)
# TPM2_PT_PERMANENT, and TPM2_PT_LOCKOUT_COUNTER and what follows it (TPM 2.0 Library, part 2, 6.13).
_PROPERTIES = {
    0x200: "flags of hierarchies and lockout",
    0x20E: "wrong auth values counted",
    0x20F: "wrong auth values allowed",
    0x210: "seconds until one is forgotten",
    0x211: "seconds of a lockout",
}
_HANDLES = {
    0x81000000: "persistent handle",
    0x01000000: "NV index",
    0x80000000: "transient object",
    0x02000000: "loaded session",
    0x03000000: "saved session",
}
# Those that a program can reset.
_PCRS = (16, 23)
# SoftHSM's attribute for the flags of a token, and those that wrong PINs set (PKCS #11 3.1, 3.3: CKF_USER_PIN_COUNT_LOW
# to CKF_SO_PIN_TO_BE_CHANGED).
_TOKEN_FLAGS = (0x8000534B).to_bytes(8) + (2).to_bytes(8)
_WRONG_PINS = 0xFF0000


class Watch:
    """What a piece of shared hardware has in it, after each test of a module.

    Args:
        look: returns what is in it now, one fact a text.
    """

    def __init__(self, look: Callable[[], frozenset[str]]) -> None:
        self._look = look
        self._found = look()
        self._notes: list[tuple[str, frozenset[str]]] = []

    def note(self, test: str) -> None:
        """Look after a test."""
        self._notes.append((test, self._look()))

    def changes(self) -> list[str]:
        """Return what has changed since the last time, each with the test that did it. This is the new state."""
        found, now, notes = self._found, self._look(), self._notes
        self._found, self._notes = now, []
        gone = [f"no more {fact}, {_since(notes, fact, is_there=False)}" for fact in sorted(found - now)]
        return gone + [f"{fact}, {_since(notes, fact, is_there=True)}" for fact in sorted(now - found)]


def _since(notes: list[tuple[str, frozenset[str]]], fact: str, *, is_there: bool) -> str:
    """Return after which test a fact has always been there, or never."""
    since = "a fixture of the module ended"
    for test, facts in reversed(notes):
        if (fact in facts) is not is_there:
            break
        since = test
    return f"since {since}"


_watches: list[Watch] = []


@contextmanager
def watched(look: Callable[[], frozenset[str]]) -> Iterator[Watch]:
    """Watch shared hardware while it is there."""
    watch = Watch(look)
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)


@pytest.fixture(scope="module", autouse=True)
def shared_hardware_is_as_found(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a module that leaves shared hardware changed. It ends after the module's other fixtures."""
    yield
    fail_if_changed(request.node.nodeid, *_watches)


@pytest.fixture(autouse=True)
def shared_hardware_is_noted(request: pytest.FixtureRequest) -> Iterator[None]:
    """Look at shared hardware after each test that may use it."""
    yield
    if request.node.get_closest_marker("hardware"):
        for watch in _watches:
            watch.note(request.node.name)


def fail_if_changed(module: str, *watches: Watch) -> None:
    """Fail if a module has left shared hardware changed."""
    if changes := [change for watch in watches for change in watch.changes()]:
        pytest.fail(f"{module} has left in the hardware that tests share: {'; '.join(changes)}", pytrace=False)


def facts_of_tpm(tpm: SoftTPM) -> frozenset[str]:
    """Return what a TPM counts, allows and holds."""
    from tpm2_pytss import TSS2_Exception

    try:
        with _connected(tpm) as esys:
            return _facts(esys)
    except TSS2_Exception:
        return frozenset({"TPM: no response"})


def _facts(esys: ESAPI) -> frozenset[str]:
    from tpm2_pytss import TPM2_CAP

    _, answer = esys.get_capability(TPM2_CAP.TPM_PROPERTIES, min(_PROPERTIES), 100)
    values = {int(one.property): int(one.value) for one in answer.data.tpmProperties}
    facts = {f"TPM: {values[number]:#x} {name}" for number, name in _PROPERTIES.items()}
    for first, name in _HANDLES.items():
        _, answer = esys.get_capability(TPM2_CAP.HANDLES, first, 254)  # The list is a part of it.
        facts |= {f"TPM: {name} {int(handle):#x}" for handle in answer.data.handles}
    _, _, digests = esys.pcr_read(f"sha256:{','.join(map(str, _PCRS))}")
    facts |= {f"TPM: PCR {number} {bytes(digest).hex()}" for number, digest in zip(_PCRS, digests, strict=True)}
    return frozenset(facts)


def reset_lockout(tpm: SoftTPM) -> None:
    """Let a TPM forget wrong auth values, and allow as many as at first."""
    with _connected(tpm) as esys:
        esys.dictionary_attack_parameters(*_LOCKOUT)
        esys.dictionary_attack_lock_reset()


@contextmanager
def _connected(tpm: SoftTPM) -> Iterator[ESAPI]:
    """Connect to a TPM. The libraries read only once what they print, which must be nothing, as with hwsigner."""
    from tpm2_pytss import ESAPI

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSS2_LOG", "all+NONE")
        esys = ESAPI(tpm.tcti)
        try:
            yield esys
        finally:
            esys.close()


def facts_of_tokens(folder: Path) -> frozenset[str]:
    """Return which tokens of a SoftHSM count wrong PINs: its files say so, and no module need be loaded."""
    facts = set()
    for path in folder.glob("tokens/*/token.object"):
        content = path.read_bytes()
        start = content.index(_TOKEN_FLAGS) + len(_TOKEN_FLAGS)
        if wrong := int.from_bytes(content[start : start + 8]) & _WRONG_PINS:
            facts.add(f"SoftHSM: PIN flags {wrong:#x} of token {path.parent.name}")
    return frozenset(facts)


def facts_of_readers(pcsc: SoftPcsc) -> frozenset[str]:
    """Return which readers have a card."""
    return frozenset(f"a card in reader {number}" for number in pcsc.ejections)
