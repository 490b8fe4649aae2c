"""A module that answers otherwise is found by the question about it: SoftHSM behind the shim, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ctypes import c_ulong

import pytest

from hwsigner.backends.pkcs11.functions import Attribute, TokenFlag
from hwsigner.trial import Verdict
from hwsigner.trial.token.calls import ECDSA, ECDSA_SHA256
from hwsigner.trial.token.making import delete_left, new_label, writing_session
from hwsigner.trial.token.questions import QUESTIONS, ask
from hwsigner.trial.token.subject import TokenPlan, TriedToken
from pin_files import WritePinFile
from pkcs11_shim import COPY_OBJECT, CREATE_OBJECT, GENERATE_KEY_PAIR, LOGIN, Person, Shim

_BY_ID = {one.id: one for one in QUESTIONS}
_ACTION_PROHIBITED, _TEMPLATE_INCOMPLETE, _DEVICE_MEMORY = 0x1B, 0xD0, 0x31
_PUBLIC_KEY = 2


@pytest.fixture
def new_trial(shim: Shim, write_pin_file: WritePinFile) -> Iterator[Callable[..., TriedToken]]:
    """A function that begins a trial of token `one`. What it writes is deleted at the end."""
    # Whichever test is first, the shim knows the token.
    begun = [TriedToken(TokenPlan(str(shim.path), "one"))]
    pin = write_pin_file(b"1234")

    def begin(label: str = "") -> TriedToken:
        begun.append(TriedToken(TokenPlan(str(shim.path), "one", label or new_label(), pin_source=pin)))
        return begun[-1]

    yield begin
    shim.reset()
    for tried in begun:
        if tried.has_written:
            assert delete_left(tried, tried.plan.label) == 0
        tried.release()


def _only_with_hash(shim: Shim) -> None:
    shim.hide(ECDSA)
    shim.offer(ECDSA_SHA256)


_PLANTS: dict[str, tuple[Callable[[Shim], object], str]] = {
    "token.pin-count": (lambda shim: shim.flags(TokenFlag.USER_PIN_COUNT_LOW), "an earlier try failed"),
    "token.login-required": (lambda shim: shim.flags(0, TokenFlag.LOGIN_REQUIRED), "no"),
    "mechanism.ecdsa": (_only_with_hash, "no"),
    "key.always-authenticate": (
        lambda shim: shim.library.shim_unknown(c_ulong(Attribute.ALWAYS_AUTHENTICATE)),
        "2 of 2 do not",
    ),
    "keygen.p256": (lambda shim: shim.fail(GENERATE_KEY_PAIR, _DEVICE_MEMORY), "CKR_DEVICE_MEMORY"),
    "write.copy": (lambda shim: shim.fail(COPY_OBJECT, _ACTION_PROHIBITED), "CKR_ACTION_PROHIBITED"),
    "write.certificate": (lambda shim: shim.fail(CREATE_OBJECT, _TEMPLATE_INCOMPLETE), "CKR_TEMPLATE_INCOMPLETE"),
}


@pytest.mark.parametrize("id", _PLANTS)
def test_changed_answer_is_found_by_its_question(id: str, shim: Shim, new_trial: Callable[..., TriedToken]) -> None:
    plant, answer = _PLANTS[id]
    result = ask(_BY_ID[id], new_trial())
    assert result.verdict == Verdict.EXPECTED, result
    plant(shim)
    result = ask(_BY_ID[id], new_trial())
    assert (result.verdict, result.answer) == (Verdict.DIFFERS, answer), result


@pytest.mark.parametrize(
    ("name", "value"), [("EXTRACTABLE", True), ("SENSITIVE", False), ("LOCAL", False), ("NEVER_EXTRACTABLE", False)]
)
def test_attribute_that_a_new_key_was_not_to_have_is_named(
    name: str, value: bool, shim: Shim, new_trial: Callable[..., TriedToken]
) -> None:
    question = _BY_ID["keygen.attributes"]
    result = ask(question, new_trial())
    assert result.verdict == Verdict.EXPECTED, result
    shim.claim(getattr(Attribute, name), value=value)
    result = ask(question, new_trial())
    assert result.answer == f"CKA_{name} is {str(value).lower()}", result


def test_module_that_keeps_deleted_objects_is_found(shim: Shim, new_trial: Callable[..., TriedToken]) -> None:
    tried = new_trial()
    assert ask(_BY_ID["keygen.p256"], tried).answer == "made"
    shim.library.shim_keep(_PUBLIC_KEY)
    assert ask(_BY_ID["delete.all"], tried).answer == "1 are still there"
    shim.library.shim_keep(0)
    assert ask(_BY_ID["delete.all"], tried).answer == "yes"


def test_read_only_token_is_written_nothing_on(shim: Shim, new_trial: Callable[..., TriedToken]) -> None:
    shim.library.shim_read_only(1)
    result = ask(_BY_ID["keygen.p256"], new_trial())
    assert (result.verdict, result.why) == (
        Verdict.NOT_ASKED,
        "no session that can write: CKR_TOKEN_WRITE_PROTECTED",
    )


@pytest.mark.parametrize(
    "flag", [TokenFlag.USER_PIN_COUNT_LOW, TokenFlag.USER_PIN_FINAL_TRY, TokenFlag.USER_PIN_LOCKED]
)
def test_no_pin_is_sent_while_the_flags_warn(flag: int, shim: Shim, new_trial: Callable[..., TriedToken]) -> None:
    shim.flags(flag)
    tried = new_trial()
    results = [ask(question, tried) for question in QUESTIONS if question.id.startswith(("login.", "key."))]
    assert {one.verdict for one in results} == {Verdict.NOT_ASKED}
    assert shim.count(LOGIN) == 0


def test_wrong_pin_that_the_user_typed_is_sent_once(shim: Shim) -> None:
    person = Person("9999")
    tried = TriedToken(TokenPlan(str(shim.path), "one", may_ask=True), person)
    results = [ask(question, tried) for question in QUESTIONS if question.id.startswith(("login.", "key."))]
    sent = shim.count(LOGIN)
    with tried.own_session() as session:  # SoftHSM's flag stays until a right PIN.
        session.log_in("1234")
    tried.token.forget_refusal()
    tried.release()
    assert {one.verdict for one in results} == {Verdict.NOT_ASKED}
    assert {one.why for one in results} == {"the token refused the PIN", "no PIN was accepted before"}
    assert (sent, len(person.asked)) == (1, 1)


def test_object_with_another_label_is_not_deleted(shim: Shim, new_trial: Callable[..., TriedToken]) -> None:
    tried = new_trial(label="hwsigner-trial-mine")
    result = ask(_BY_ID["keygen.p256"], tried)
    assert result.answer == "made", result
    assert delete_left(tried) == 0
    name = {Attribute.LABEL: b"hwsigner-trial-mine"}
    with writing_session(tried) as session:
        found = session.find(None, name)
        assert len(found) == 2
        for handle in found:
            session.destroy(handle)
