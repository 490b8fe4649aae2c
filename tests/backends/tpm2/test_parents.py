"""Parents and hierarchies with auth values of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.tpm2.tpms import Tools, read_der, sign_and_verify
from hwsigner.backends.tpm2.key_file import TSS2Key
from hwsigner.errors import PinError, PinLockedError, PinRequiredError, WrongPinError
from hwsigner.key import open_key
from hwsigner.pins import PinRequest
from softhsm.command import run

pytestmark = pytest.mark.usefixtures("refused_auth")

ABOVE = "above-4711"
PARENT = 0x81004722


def pin_file(tools: Tools, pin: str = ABOVE) -> Path:
    path = tools.path("pin-above")
    path.touch(0o600)
    path.write_text(pin)
    return path


def key_under(tools: Tools, parent: str) -> bytes:
    """Create a key under a parent whose auth value is ABOVE, and return its private area."""
    parts = ["-u", str(tools.path("public")), "-r", str(tools.path("private"))]
    tools.run("tpm2_create", "-Q", "-C", parent, "-P", ABOVE, "-G", "ecc256", *parts)
    return tools.path("private").read_bytes()


class TestParent:
    """A persistent parent with an auth value, of which a wrong one counts."""

    @pytest.fixture
    def uri(self, tools: Tools) -> Iterator[str]:
        tools.set_lockout(5)
        primary = str(tools.path("primary"))
        tools.run("tpm2_createprimary", "-Q", "-G", "ecc", "-p", ABOVE, "-c", primary)
        tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", primary, hex(PARENT))
        key_under(tools, hex(PARENT))
        yield tools.tpm.uri(tools.write(TSS2Key(True, PARENT, *tools.parts())))
        run(["tpm2_evictcontrol", "-Q", "-C", "o", "-c", hex(PARENT)], tools.tpm.env)

    def test_its_auth_value_is_stored(self, tools: Tools, uri: str) -> None:
        whole = f"{uri}&parent-pin-source=file:{pin_file(tools)}"
        assert sign_and_verify(whole, tools.public_key(), tools.folder)
        assert tools.counted_failures() == 0

    def test_it_is_asked_for_and_the_empty_one_is_not_tried_again(self, tools: Tools, uri: str) -> None:
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str:
            asked.append(request)
            return ABOVE

        for _ in range(3):
            with open_key(uri, ask) as key:
                assert key.sign(b"message")
        assert {(request.kind, request.subject) for request in asked} == {("TPM parent auth value", hex(PARENT))}
        assert len(asked) == 3
        assert tools.counted_failures() == 1

    def test_the_key_s_own_pin_is_not_sent_to_it(self, tools: Tools, uri: str) -> None:
        for _ in range(2):
            with pytest.raises(PinRequiredError, match=r"TPM parent auth value.*parent-pin-source=file:"):
                open_key(uri, ABOVE)
        assert tools.counted_failures() == 1

    def test_a_wrong_one_is_sent_once(self, tools: Tools, uri: str) -> None:
        whole = f"{uri}&parent-pin-source=file:{pin_file(tools, 'wrong')}"
        with pytest.raises(WrongPinError, match=f"wrong TPM parent auth value for {PARENT:#x}: 4 tries are left"):
            open_key(whole)
        with pytest.raises(PinLockedError):
            open_key(whole)
        assert tools.counted_failures() == 1


@pytest.mark.parametrize(("hierarchy", "handle"), [("owner", 1), ("endorsement", 0xB), ("platform", 0xC)])
class TestHierarchy:
    @pytest.fixture
    def uri(self, tools: Tools, hierarchy: str, handle: int) -> Iterator[str]:
        """A key under a hierarchy that gets an auth value."""
        path = tools.key_file(primary=("-C", hierarchy, "-G", "ecc"))
        path.write_bytes(
            read_der(path).replace(bytes.fromhex("020440000001"), bytes.fromhex(f"02044000{handle:04x}"), 1)
        )
        tools.run("tpm2_changeauth", "-c", hierarchy, ABOVE)
        yield tools.tpm.uri(path)
        run(["tpm2_changeauth", "-c", hierarchy, "-p", ABOVE], tools.tpm.env)

    def test_its_auth_value_is_stored(self, tools: Tools, hierarchy: str, uri: str) -> None:
        whole = f"{uri}&{hierarchy}-pin-source=file:{pin_file(tools)}"
        assert sign_and_verify(whole, tools.public_key(), tools.folder)

    def test_it_is_asked_for(self, tools: Tools, hierarchy: str, uri: str) -> None:
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str:
            asked.append(request)
            return ABOVE

        with open_key(uri, ask) as key:
            assert key.sign(b"message")
        assert [(request.kind, request.subject) for request in asked] == [(f"TPM {hierarchy} auth value", hierarchy)]

    def test_a_wrong_one(self, tools: Tools, hierarchy: str, uri: str) -> None:
        with pytest.raises(WrongPinError, match=f"wrong TPM {hierarchy} auth value for {hierarchy}"):
            open_key(f"{uri}&{hierarchy}-pin-source=file:{pin_file(tools, 'wrong')}")
        with pytest.raises(PinError, match=f"{hierarchy} auth value"):
            open_key(uri)
        assert tools.counted_failures() == 0
