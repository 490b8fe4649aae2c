"""PINs: the order of their places, one token for each, questions, and nothing printed."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwsigner._pins import PinRequest, PinSource
from hwsigner._pins import sources as pin_sources
from hwsigner._uri import KeyURI
from hwsigner.errors import PinError, PinRequiredError, UsageError
from pin_files import WritePinFile

REQUEST = PinRequest("user PIN", "token 'alpha'", serial="42")
pytestmark = pytest.mark.usefixtures("forgotten_pins")


def _uri(value: str | None, source: str | None) -> KeyURI:
    query = {} if source is None else {"pin-source": source.encode()}
    return KeyURI("pkcs11", {"token": b"alpha"}, query, value)


class TestPlaces:
    """With each place there or not, the first one gives the PIN, and later ones are not read."""

    NAMES = ("caller", "pin-value", "pin-source", "serial", "unnamed", "prompt")

    @pytest.mark.parametrize("there", list(itertools.product([False, True], repeat=len(NAMES))))
    @pytest.mark.parametrize("as_callable", [False, True])
    def test_first_place_that_has_a_pin_gives_it(
        self, monkeypatch: pytest.MonkeyPatch, there: tuple[bool, ...], as_callable: bool
    ) -> None:
        places = [name for name, is_there in zip(self.NAMES, there, strict=True) if is_there]
        looked_at: list[str] = []

        def place(name: str) -> Callable[..., str | None]:
            def look(*_: object, **__: object) -> str | None:
                looked_at.append(name)
                return name if name in places else None

            return look

        monkeypatch.setattr(pin_sources, "read_pin_source", place("pin-source"))
        monkeypatch.setattr(pin_sources, "serial_credential", place("serial"))
        monkeypatch.setattr(pin_sources, "unnamed_pin", place("unnamed"))
        caller = "caller" if "caller" in places and not as_callable else None
        pins = PinSource(caller, place("caller") if as_callable else None, prompts=[place("prompt")])
        uri = _uri(*(name if name in places else None for name in ("pin-value", "pin-source")))
        first = places[0] if places else None
        if first is None:
            with pytest.raises(PinRequiredError):
                pins.find(uri, REQUEST)
        else:
            is_stored = first != "prompt" and not (first == "caller" and as_callable)
            found = pins.find(uri, REQUEST)
            assert (found.pin, found.is_stored) == (first, is_stored)
        looks = self.NAMES[: self.NAMES.index(first) + 1] if first else self.NAMES
        unseen = {"pin-value"} | ({"caller"} if not as_callable else set()) | ({"pin-source"} - set(places))
        assert looked_at == [name for name in looks if name not in unseen]

    def test_real_places_are_used_in_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        monkeypatch.setenv("HWSIGNER_PIN", "variable")
        for name in ("hwsigner.pin.42", "hwsigner.pin", "file"):
            (tmp_path / name).write_text(f"{name}\n")
            (tmp_path / name).chmod(0o600)
        with_value, with_source = _uri("value", f"file:{tmp_path}/file"), _uri(None, f"file:{tmp_path}/file")
        prompts = [lambda request: None, lambda request: "second"]
        assert PinSource("caller", prompts=prompts).get(with_value, REQUEST) == "caller"
        assert PinSource(ask=lambda request: "called", prompts=prompts).get(with_value, REQUEST) == "called"
        assert PinSource(ask=lambda request: None, prompts=prompts).get(with_value, REQUEST) == "value"
        pins = PinSource(prompts=prompts)
        assert pins.get(with_source, REQUEST) == "file"
        found = []
        for name in ("hwsigner.pin.42", "hwsigner.pin", "HWSIGNER_PIN", "none"):
            found.append(pins.get(_uri(None, None), REQUEST))
            (tmp_path / name).unlink(missing_ok=True)
            if name == "HWSIGNER_PIN":
                pin_sources.forget()
        assert found == ["hwsigner.pin.42", "hwsigner.pin", "variable", "second"]

    def test_empty_pin_is_a_pin(self, write_pin_file: WritePinFile) -> None:
        assert PinSource("").get(_uri("x", None), REQUEST) == ""
        assert PinSource().get(_uri("", None), REQUEST) == ""
        assert PinSource().get(_uri(None, write_pin_file(b"\n")), REQUEST) == ""
        assert PinSource(ask=lambda request: "").get(_uri("x", None), REQUEST) == ""
        assert PinSource(prompts=[lambda request: ""]).get(_uri(None, None), REQUEST) == ""

    def test_stored_pin_is_found_without_asking(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def ask(request: PinRequest) -> str:
            raise AssertionError("asked")

        pins = PinSource(ask=ask, prompts=[ask])
        assert pins.stored(_uri("value", None), REQUEST) == "value"
        assert pins.stored(_uri(None, None), REQUEST) is None
        monkeypatch.setenv("HWSIGNER_PIN", "variable")
        assert pins.given(_uri(None, None)) is None
        assert pins.stored(_uri(None, None), REQUEST) == "variable"

    def test_pin_for_a_new_key_is_the_callable_s_or_stored_and_never_prompted_for(self) -> None:
        def prompt(request: PinRequest) -> str:
            raise AssertionError("asked")

        uri = _uri("value", None)
        assert PinSource(ask=lambda _: "caller", prompts=[prompt]).offered(uri, REQUEST) == "caller"
        assert PinSource(ask=lambda _: None, prompts=[prompt]).offered(uri, REQUEST) == "value"
        assert PinSource("given", prompts=[prompt]).offered(uri, REQUEST) == "given"
        assert PinSource(prompts=[prompt]).offered(_uri(None, None), REQUEST) is None

    def test_bad_pin_file_is_an_error_and_not_skipped(self) -> None:
        with pytest.raises(PinError, match="/nonexistent"):
            PinSource(prompts=[lambda request: "person"]).get(_uri(None, "file:/nonexistent"), REQUEST)

    def test_pin_source_that_is_not_text_is_an_error(self) -> None:
        uri = KeyURI("pkcs11", {}, {"pin-source": b"file:/\xff"})
        with pytest.raises(UsageError, match="pin-source"):
            PinSource().get(uri, REQUEST)

    def test_command_runs_only_if_allowed(self, tmp_path: Path) -> None:
        uri = _uri(None, f"cmd:touch {tmp_path}/ran")
        for pins in (PinSource(), PinSource().without_pin()):
            with pytest.raises(PinError, match="not allowed") as caught:
                pins.get(uri, REQUEST)
            assert "allow_commands=True" in caught.value.hint
        assert not (tmp_path / "ran").exists()
        uri = _uri(None, "cmd:echo 1234")
        allowed = PinSource(allow_commands=True)
        assert [allowed.get(uri, REQUEST), allowed.without_pin().get(uri, REQUEST)] == ["1234", "1234"]


class TestOneToken:
    """A PIN that names no token is only for the first one in the process that wants one."""

    ALPHA, BETA = PinRequest("user PIN", "token 'a'", serial="1"), PinRequest("user PIN", "token 'a'", serial="2")

    @pytest.fixture(params=["variable", "credential"])
    def pin(self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if request.param == "variable":
            monkeypatch.setenv("HWSIGNER_PIN", "1234")
            return
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        (tmp_path / "hwsigner.pin").write_text("1234")
        (tmp_path / "hwsigner.pin").chmod(0o400)

    @pytest.mark.usefixtures("pin")
    def test_unnamed_pin_is_for_one_serial_number(self) -> None:
        uri, by_serial = _uri(None, None), KeyURI.parse("pkcs11:serial=1")
        assert PinSource().stored(uri, self.ALPHA) == "1234"
        assert PinSource().stored(uri, self.BETA) is None
        assert PinSource().stored(by_serial, self.ALPHA) == "1234"
        with pytest.raises(PinRequiredError):
            PinSource().get(uri, self.BETA)

    @pytest.mark.usefixtures("pin")
    def test_unnamed_pin_is_for_one_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        request = PinRequest("passphrase", "x")
        places = (str(tmp_path / "a.p12"), "./a.p12", str(tmp_path / "b.p12"))
        assert [PinSource().stored(KeyURI.parse(p), request) for p in places] == ["1234", "1234", None]

    @pytest.mark.usefixtures("pin")
    def test_unnamed_pin_is_only_for_the_key(self) -> None:
        other = PinSource().without_pin()
        assert other.stored(_uri(None, None), self.ALPHA) is None
        with pytest.raises(PinRequiredError) as caught:
            other.get(_uri(None, None), self.ALPHA)
        assert "HWSIGNER_PIN" not in caught.value.hint
        assert other.stored(_uri("value", None), self.ALPHA) == "value"

    def test_credential_with_a_serial_number_is_for_its_token(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        for serial in ("1", "2"):
            (tmp_path / f"hwsigner.pin.{serial}").write_text(f"pin of {serial}")
        for pins in (PinSource(), PinSource("x").without_pin()):
            found = [pins.stored(_uri(None, None), request) for request in (self.ALPHA, self.BETA, REQUEST)]
            assert found == ["pin of 1", "pin of 2", None]


class TestPinSources:
    def test_pin_source_is_read_once(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe, 0o600)
        writer = threading.Thread(target=pipe.write_bytes, args=(b"1234\n",))
        writer.start()
        pins, uri = PinSource(), _uri(None, f"file:{pipe}")
        assert [pins.stored(uri, REQUEST), pins.get(uri, REQUEST), pins.stored(uri, REQUEST)] == ["1234"] * 3
        writer.join()

    def test_each_pin_source_is_read(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).touch(0o600)
            (tmp_path / name).write_text(name)
        pins = PinSource()
        assert [pins.stored(_uri(None, f"file:{tmp_path / name}"), REQUEST) for name in ("a", "b", "a")] == [
            "a",
            "b",
            "a",
        ]


class TestAsking:
    def test_forgotten_answer_is_asked_for_again(self) -> None:
        answers = iter(["1", "2"])
        pins = PinSource(ask=lambda request: next(answers))
        pins.remember(REQUEST, pins.get(_uri(None, None), REQUEST))
        pins.forget(REQUEST)
        pins.forget(REQUEST)
        assert pins.get(_uri(None, None), REQUEST) == "2"

    def test_remembered_answer_is_not_asked_for_again(self) -> None:
        asked: list[PinRequest] = []

        def ask(request: PinRequest) -> str:
            asked.append(request)
            return f"pin {len(asked)}"

        pins = PinSource(ask=ask)
        other = PinRequest("user PIN", "token 'beta'")
        # No answer was right so far, so each is asked for again.
        assert [pins.get(_uri(None, None), r) for r in (REQUEST, REQUEST, other)] == ["pin 1", "pin 2", "pin 3"]
        pins.remember(REQUEST, "pin 2")
        assert [pins.get(_uri(None, None), r) for r in (REQUEST, other)] == ["pin 2", "pin 4"]
        assert asked == [REQUEST, REQUEST, other, other]
        assert pins.ask(REQUEST).pin == "pin 5"

    @pytest.mark.parametrize("places", [{"ask": lambda request: "typed"}, {"prompts": [lambda request: "typed"]}])
    def test_remembered_answer_is_not_a_stored_pin(self, places: Any) -> None:
        pins = PinSource(**places)
        pins.remember(REQUEST, pins.get(_uri(None, None), REQUEST))
        found = pins.find(_uri(None, None), REQUEST)
        assert (found.pin, found.is_stored) == ("typed", False)

    def test_stored_pin_is_not_remembered(self) -> None:
        pins = PinSource(ask=lambda request: None)
        pins.remember(REQUEST, pins.get(_uri("stored", None), REQUEST))
        assert pins.find(_uri("stored", None), REQUEST).is_stored

    def test_typed_pin_is_remembered_when_nothing_is_stored_any_more(self) -> None:
        answers = iter(["typed"])
        pins = PinSource(prompts=[lambda request: next(answers)])
        assert pins.find(_uri("stored", None), REQUEST).is_stored
        for _ in range(2):
            pins.remember(REQUEST, pins.get(_uri(None, None), REQUEST))
        found = pins.find(_uri(None, None), REQUEST)
        assert (found.pin, found.is_stored) == ("typed", False)

    def test_callable_is_asked_before_the_prompts(self) -> None:
        asked: list[str] = []

        def place(name: str, answer: str | None) -> Callable[[PinRequest], str | None]:
            def ask(request: PinRequest) -> str | None:
                asked.append(name)
                return answer

            return ask

        prompts = [place("pinentry", None), place("terminal", "typed"), place("later", "no")]
        pins = PinSource(ask=place("caller", None), prompts=prompts)
        found = pins.ask(REQUEST)
        assert (found.pin, found.is_typed) == ("typed", True)
        assert asked == ["caller", "pinentry", "terminal"]
        called = PinSource(ask=place("caller", "called"), prompts=prompts).ask(REQUEST)
        assert (called.pin, called.is_typed) == ("called", False)

    @pytest.mark.parametrize("ask", [None, lambda request: None])
    def test_missing_pin_error_lists_every_place(self, ask: Callable[[PinRequest], str | None] | None) -> None:
        with pytest.raises(PinRequiredError) as caught:
            PinSource(ask=ask).get(_uri(None, None), REQUEST)
        assert "token 'alpha' needs its user PIN" in caught.value.message
        for place in ("pin-source=file:", "env:", "cmd:", "pin-value", "credential hwsigner.pin", "HWSIGNER_PIN"):
            assert place in caught.value.hint
        for place in ("terminal", "pinentry"):
            assert place in caught.value.hint

    def test_without_pin_keeps_the_prompts_and_drops_the_pin(self) -> None:
        pins = PinSource("caller", lambda request: "person", allow_final_try=True).without_pin()
        assert pins.get(_uri(None, None), REQUEST) == "person"
        assert pins.allow_final_try

    def test_pin_is_in_no_repr(self) -> None:
        pins = PinSource("4711", lambda request: "4712")
        pins.without_pin().get(_uri(None, None), REQUEST)
        found = pins.find(_uri(None, None), REQUEST)
        assert "471" not in f"{pins!r} {pins} {found!r} {found}"


class TestProfiles:
    """The PIN of a profile, and those that name no token while a process serves profiles with several."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        for name in ("hwsigner.pin", "hwsigner.pin.42", "hwsigner.profile-pin.web"):
            (tmp_path / name).write_text(f"{name}\n")
        return tmp_path

    @pytest.mark.usefixtures("folder")
    def test_credential_of_a_profile_is_for_its_key_alone(self) -> None:
        assert PinSource(profile="web").given(_uri(None, None)) == "hwsigner.profile-pin.web"
        assert PinSource(profile="web").get(_uri(None, None), REQUEST) == "hwsigner.profile-pin.web"
        assert PinSource(profile="web").get(_uri("value", None), REQUEST) == "value"
        assert PinSource(profile="web").without_pin().given(_uri(None, None)) is None
        for other in ("db", "../hwsigner.profile-pin.web", "", None):
            assert PinSource(profile=other).get(_uri(None, None), REQUEST) == "hwsigner.pin.42"

    @pytest.mark.parametrize("variable", [True, False])
    def test_unnamed_pin_is_not_used_while_profiles_use_several_tokens(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, variable: bool
    ) -> None:
        (folder / "hwsigner.pin.42").unlink()
        if variable:
            (folder / "hwsigner.pin").unlink()
            monkeypatch.setenv("HWSIGNER_PIN", "variable")
        place = "HWSIGNER_PIN" if variable else "The systemd credential hwsigner.pin"
        pins = PinSource(profile="db")
        pin_sources.serve_place("db", "alpha")
        pin_sources.serve_place("db 2", "alpha")
        pin_sources.serve_place("web", "beta")  # It has a credential of its own.
        assert pins.stored(_uri(None, None), REQUEST) == ("variable" if variable else "hwsigner.pin")
        pin_sources.serve_place("app", "beta")
        assert pins.stored(_uri(None, None), REQUEST) is None
        with pytest.raises(PinError) as caught:
            pins.get(_uri(None, None), REQUEST)
        assert f"{place} is not used, because the profiles use several tokens or files" in caught.value.message
        for way in ("hwsigner.profile-pin.db", "pin-source=credential:NAME"):
            assert way in caught.value.message
        assert PinSource(prompts=[lambda request: "typed"]).get(_uri(None, None), REQUEST) == "typed"
        pin_sources.serve_place("app", None)
        assert pins.stored(_uri(None, None), REQUEST) is not None
