"""The PKCS #11 backend: the contract of backends, and logins. On SoftHSM, which never locks a PIN, and on the shim."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from any_module import open_key
from backends.contract import ENVIRONMENT, KeyContract, LockedKey, MakeKey, OpenKey, PinContract, openssl_verifies
from emulators import InProcessSoftHSM
from hwsigner._pins import PinRequest, PinSource
from hwsigner.backends.pkcs11.errors import error_for
from hwsigner.backends.pkcs11.functions import TokenInfo
from hwsigner.backends.pkcs11.module import load_module
from hwsigner.backends.pkcs11.pins import token_name
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.errors import HwsignerError, KeyNotFoundError, PinError, PinLockedError, PinRequiredError, WrongPinError
from hwsigner.key import Key
from pkcs11_shim import LOGIN, Person, Shim, run_alone

KEYS = {
    "P-256": ("EC:prime256v1", b"\x01"),
    "P-384": ("EC:secp384r1", b"\x02"),
    "P-521": ("EC:secp521r1", b"\x03"),
    "RSA-2048": ("rsa:2048", b"\x04"),
    "RSA-3072": ("rsa:3072", b"\x05"),
}
LOGIN_REQUIRED, COUNT_LOW, FINAL_TRY, LOCKED = 0x4, 0x10000, 0x20000, 0x40000


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> InProcessSoftHSM:
    """Two tokens: one with a key of each kind, and one whose PIN is tried wrongly."""
    token = softhsm.label
    softhsm.add_token("suffering")
    for label, (kind, key_id) in KEYS.items():
        softhsm.generate(label, key_id, kind, token=token)
    softhsm.generate("P-256", b"\x21", "EC:prime256v1", token="suffering")
    softhsm.label = token
    return softhsm


@pytest.fixture
def uri(hsm: InProcessSoftHSM) -> Callable[..., str]:
    """Return a URI on the first token, or on another with `token=`."""

    def make(attributes: str = "", token: str = hsm.label) -> str:
        return f"pkcs11:{';'.join(filter(None, (f'token={token}', attributes)))}?module-path={hsm.module}"

    return make


@pytest.fixture
def suffering(uri: Callable[..., str]) -> Iterator[str]:
    """The URI of a key whose PIN may be tried wrongly. A good login before and after clears the token's flag."""
    key = uri("object=P-256", token="suffering")
    open_key(key, lambda request: "1234").close()
    yield key
    open_key(key, lambda request: "1234").close()


@pytest.fixture(scope="module")
def public_keys(hsm: InProcessSoftHSM) -> dict[str, bytes]:
    return {kind: hsm.public_key(key_id) for kind, (_, key_id) in KEYS.items()}


class TestPKCS11Key(KeyContract):
    KINDS = tuple(KEYS)

    @pytest.fixture
    def make_key(self, public_keys: dict[str, bytes], uri: Callable[..., str]) -> MakeKey:
        return lambda kind: (open_key(uri(f"object={kind}"), "1234"), public_keys[kind])

    @pytest.fixture
    def absent_key(self, uri: Callable[..., str]) -> OpenKey:
        return lambda: open_key(uri("object=absent"), "1234")

    @pytest.fixture
    def unreachable_key(self, uri: Callable[..., str]) -> OpenKey:
        return lambda: open_key(uri("object=P-256", token="absent"), "1234")

    @pytest.fixture
    def lost_key(self, shim: Shim) -> Key:
        key = open_key(shim.uri(), "1234")
        shim.remove()
        return key


class TestPKCS11Pin(PinContract):
    @pytest.fixture
    def locked_key(self, suffering: str) -> LockedKey:
        return LockedKey(lambda pin: open_key(suffering, pin), pin="1234")


# PINs


def test_stored_pin_is_not_sent_after_a_failed_try(suffering: str) -> None:
    with pytest.raises(WrongPinError, match=r"wrong PIN for token 'suffering'\. hwsigner does not send it again"):
        open_key(suffering, "wrong")
    for stored in ("wrong", "1234"):
        with pytest.raises(PinLockedError, match="an earlier PIN failed at token 'suffering'"):
            open_key(suffering, stored)
    open_key(suffering, PinSource("1234", allow_final_try=True)).close()
    open_key(suffering, "1234").close()


def test_question_for_a_pin_mentions_an_earlier_failed_try(suffering: str) -> None:
    person = Person("1234")
    with pytest.raises(WrongPinError):
        open_key(suffering, "wrong")
    open_key(suffering, person).close()
    (asked,) = person.asked
    assert asked == PinRequest("user PIN", "token 'suffering'", "an earlier try failed", asked.serial)
    assert re.fullmatch("[0-9a-f]{16}", asked.serial)


def list_tokens(shim: Shim) -> None:
    """Make the module list its tokens, so that the shim knows their numbers."""
    with pytest.raises(PinRequiredError):
        open_key(shim.uri())


def test_no_pin_is_sent_on_the_final_try_unless_allowed(shim: Shim) -> None:
    list_tokens(shim)
    shim.flags(raised=FINAL_TRY | COUNT_LOW)
    person = Person("1234")
    for pin in ("1234", person):
        with pytest.raises(PinLockedError, match="locks token 'one'") as caught:
            open_key(shim.uri(), pin)
        assert "--allow-final-pin-try" in caught.value.hint
    assert shim.count(LOGIN) == 0
    open_key(shim.uri(), PinSource(ask=person, allow_final_try=True)).close()
    assert [request.state for request in person.asked] == ["one try is left"]


def test_locked_pin_is_never_tried(shim: Shim) -> None:
    list_tokens(shim)
    shim.flags(raised=LOCKED)
    with pytest.raises(PinLockedError, match="the PIN of token 'one' is locked"):
        open_key(shim.uri(), PinSource("1234", allow_final_try=True))
    assert shim.count(LOGIN) == 0


def test_token_without_login_required_is_logged_in_to_when_it_shows_no_key(shim: Shim) -> None:
    list_tokens(shim)
    shim.flags(cleared=LOGIN_REQUIRED)
    with pytest.raises(PinRequiredError):
        open_key(shim.uri())
    assert shim.count(LOGIN) == 0
    with open_key(shim.uri(), "1234") as key:
        assert key.sign(b"message")
    with pytest.raises(KeyNotFoundError):
        open_key(shim.uri("nonesuch"), "1234")


@pytest.mark.parametrize("pin", ["", "x" * 100_000, "\ud800", "a\0b", "ü" * 300])
def test_pin_that_no_token_accepts_is_an_error_that_does_not_show_it(suffering: str, pin: str) -> None:
    with pytest.raises(PinError) as caught:
        open_key(suffering, pin)
    assert not pin or pin not in str(caught.value)


def test_second_key_shares_the_login(uri: Callable[..., str]) -> None:
    with open_key(uri("object=P-256"), "1234") as first:
        with open_key(uri("object=P-384")) as second:
            assert second.sign(b"message")
        assert first.sign(b"message")
    with pytest.raises(PinRequiredError):
        open_key(uri("object=P-384"))


def test_token_is_logged_out_when_its_last_key_is_closed(shim: Shim) -> None:
    first, second = open_key(shim.uri(), "1234"), open_key(shim.uri("RSA-2048"), "1234")
    first.close()
    first.close()
    assert second.sign(b"message")
    second.close()
    with pytest.raises(PinRequiredError):
        open_key(shim.uri())


def test_no_session_is_left_when_opening_a_key_fails(
    uri: Callable[..., str], suffering: str, hsm: InProcessSoftHSM
) -> None:
    module = load_module(hsm.module)
    for bad, pin in ((uri("object=nonesuch"), "1234"), (suffering, "wrong"), (uri("object=P-256"), None)):
        with pytest.raises(HwsignerError):
            open_key(bad, pin)
        assert [token for token in module.sessions if token.session] == []


def test_key_of_softhsm_that_needs_a_pin_each_time_signs(suffering: str, hsm: InProcessSoftHSM, tmp_path: Path) -> None:
    key = ("--key-type", "EC:prime256v1", "--label", "careful", "--id", "44", "--always-auth")
    login = ("--token-label", "suffering", "--login", "--pin", "1234")
    command = ["pkcs11-tool", "--module", hsm.module, *login, "--keypairgen", *key]
    subprocess.run(command, env={**ENVIRONMENT, **hsm.env}, capture_output=True, check=True)
    person = Person("1234", "1234", "wrong", "1234", "1234")
    with open_key(suffering.replace("P-256", "careful"), person) as careful:
        public_key = careful.public_key() or b""
        assert openssl_verifies(tmp_path, public_key, careful.sign(b"message"), b"message", "sha256")
        with pytest.raises(WrongPinError, match="wrong PIN for token 'suffering'"):
            careful.sign(b"message")
        assert openssl_verifies(tmp_path, public_key, careful.sign(b"message"), b"message", "sha256")
    assert person.answers == []


# Errors


def test_every_error_of_a_token_has_a_message_and_a_hint(hsm: InProcessSoftHSM) -> None:
    module = load_module(hsm.module)
    token = OpenToken(module, module.tokens()[0])
    for code in (*range(1, 0x300), 0x80001234):
        error = token.error("could not sign", error_for(code))
        assert error.message
        assert error.hint
        assert error.message.isprintable()


def test_return_value_without_a_name_is_shown_as_a_number() -> None:
    assert "0x80001234" in str(error_for(0x80001234))


def test_control_characters_in_a_label_are_escaped_in_messages() -> None:
    token = TokenInfo(0, "", "", "a\x1b[2J\u202eb", "", "", "", identity=b"", flags=0)
    assert token_name(token) == "token 'a\\x1b[2J\\u202eb'"


# SoftHSM


OVERLOOKED = """
import glob, os, sys, time
from types import SimpleNamespace
from hwsigner.backends.pkcs11 import module
from any_module import open_key
with open(os.environ["SOFTHSM2_CONF"]) as file:
    folder = file.readline().split("=")[1].strip()
paths = glob.glob(f"{folder}/*/token.object")
contents = [open(path, "rb").read() for path in paths]
def write(contents):
    for path, content in zip(paths, contents, strict=True):
        with open(path, "wb") as file:
            file.write(content)
pauses = []
def pause(seconds):
    pauses.append(seconds)
    if len(pauses) == 5:
        write(contents)
module.time = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=pause)
write([b""] * len(paths))
open_key(f"{os.environ['URI']};object=P-256?module-path={sys.argv[1]}", "1234").close()
print(len(pauses))
"""


def test_token_is_found_when_another_process_writes_to_it(hsm: InProcessSoftHSM) -> None:
    assert run_alone(OVERLOOKED, hsm.module, hsm.env, hsm.label) == "5\n"
