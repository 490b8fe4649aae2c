"""The emulated card: its commands, without pcscd."""

from __future__ import annotations

import hashlib
from pathlib import Path

import hypothesis.strategies as st
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from hypothesis import HealthCheck, given, settings

from examples import scaled
from softhsm import apdu, tlv
from softhsm.apdu import Command, Exchange
from softhsm.piv import PivApplet
from softhsm.piv_attestation import provision
from softhsm.piv_state import PIN, PUK, State, pad
from softhsm.touch import TouchSensor

SELECT = "00A4040005A000000308"
DIGEST = hashlib.sha256(b"message").digest()
BYTES = st.binary(max_size=700)
CODES = [PIN, "654321", "000000"]


class Card:
    """An applet with power, and the commands that a reader sends."""

    def __init__(self, folder: Path, firmware: tuple[int, int, int] = (5, 4, 3)) -> None:
        self.state = State(folder / "card.json", 10000001, firmware)
        provision(self.state)
        self.sensor = TouchSensor()
        self.applet = PivApplet(self.state, self.sensor)
        self.exchange = Exchange(self.applet.process)
        self.send(SELECT)

    def send(self, command: str) -> tuple[bytes, int]:
        answer = self.exchange.respond(bytes.fromhex(command))
        return answer[:-2], int.from_bytes(answer[-2:])

    def status(self, command: str) -> int:
        return self.send(command)[1]

    def verify(self, pin: str = PIN) -> int:
        return self.status("0020008008" + pad(pin).hex())

    def sign(self, slot: int, digest: bytes = DIGEST) -> tuple[bytes, int]:
        template = tlv.encode(0x7C, tlv.encode(0x82, b"") + tlv.encode(0x81, digest))
        return self.send(f"008711{slot:02x}{len(template):02x}{template.hex()}00")

    def store(self, slot: int, pin_policy: int = 0, touch_policy: int = 0) -> ec.EllipticCurvePublicKey:
        key = ec.generate_private_key(ec.SECP256R1())
        self.applet.slots.store(slot, key, (pin_policy, touch_policy), generated=True)
        return key.public_key()


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card(tmp_path)


@given(st.dictionaries(st.integers(1, 0xFF), BYTES))
def test_data_object_is_read_as_written(values: dict[int, bytes]) -> None:
    assert tlv.decode(b"".join(tlv.encode(tag, value) for tag, value in values.items())) == values


@given(st.binary(max_size=40))
def test_truncated_data_object_is_refused(data: bytes) -> None:
    try:
        values = tlv.decode(data)
    except ValueError:
        return
    assert sum(len(tlv.encode(tag, value)) for tag, value in values.items()) <= len(data)


@given(data=BYTES, le=st.none() | st.integers(1, 0x10000))
def test_command_is_read_as_written(data: bytes, le: int | None) -> None:
    head = bytes([0x00, 0xCB, 0x3F, 0xFF])
    extended = b"\0" + len(data).to_bytes(2) + data if data else b"\0" if le else b""
    raw = head + extended + ((le % 0x10000).to_bytes(2) if le else b"")
    command = Command.parse(raw)
    assert (command.data, command.ins, command.p2) == (data, 0xCB, 0xFF)
    assert command.le == (le or (0x10000 if data else 256))
    if len(data) < 256 and (le or 1) <= 256:
        short = head + (bytes([len(data)]) + data if data else b"") + (bytes([le % 256]) if le else b"")
        assert Command.parse(short) == Command(0, 0xCB, 0x3F, 0xFF, data, le or 256)


@given(data=BYTES, size=st.integers(1, 255), piece=st.integers(1, 256))
def test_chained_command_gets_its_answer_in_pieces(data: bytes, size: int, piece: int) -> None:
    exchange = Exchange(lambda command: command.data)
    pieces = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
    for part in pieces[:-1]:
        assert exchange.respond(b"\x10\xdb\x3f\xff" + bytes([len(part)]) + part) == b"\x90\x00"
    last = pieces[-1]
    answer = exchange.respond(b"\0\xdb\x3f\xff" + (bytes([len(last)]) + last if last else b"") + bytes([piece % 256]))
    received = answer[:-2]
    while answer[-2] == 0x61:
        assert len(answer) - 2 == piece
        assert answer[-1] == min(len(data) - len(received), 256) % 256
        answer = exchange.respond(b"\0\xc0\0\0" + bytes([piece % 256]))
        received += answer[:-2]
    assert received == data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(["verify", "change", "unblock"]), *[st.sampled_from(CODES)] * 2), max_size=12)
)
def test_tries_of_pin_and_puk_are_counted_as_in_the_model(card: Card, steps: list[tuple[str, str, str]]) -> None:
    card.state.reset()
    card.state.save()
    values, left = {"pin": PIN, "puk": PUK}, {"pin": 3, "puk": 3}
    for action, old, new in steps:
        name = "puk" if action == "unblock" else "pin"
        instruction = {"verify": "20", "change": "24", "unblock": "2C"}[action]
        data = pad(old) + (b"" if action == "verify" else pad(new))
        status = card.status(f"00{instruction}0080{len(data):02x}{data.hex()}")
        if left[name] == 0:
            expected = 0x6983
        elif old != values[name]:
            left[name] -= 1
            expected = 0x63C0 + left[name]
        else:
            left[name], expected = 3, 0x9000
            if action != "verify":
                values["pin"], left["pin"] = new, 3
        assert status == expected
        assert (card.state.pin.left, card.state.puk.left) == (left["pin"], left["puk"])
        assert State.load(card.state.path).pin == card.state.pin


def test_commands_are_refused_without_pin_or_management_key(card: Card) -> None:
    card.store(0x9A)
    assert card.sign(0x9A) == (b"", 0x6982)
    for command in (
        "0047009A05AC03800111",
        "00DB3FFF095C035FC1025302AAAA",
        "00FA0505",
        "00FE119A020601",
        "00FFFFFF03039B00",
    ):
        assert card.status(command) == 0x6982
    assert card.status("00CB3FFF055C035FC109") == 0x6982
    assert card.status("00FB0000") == 0x6985


@pytest.mark.parametrize(
    "answer", ["7C0A8108" + "00" * 8, "7C0A8208" + "00" * 8, "7C128008" + "00" * 8 + "8106" + "00" * 6]
)
def test_wrong_answer_to_the_challenge_gives_no_rights(card: Card, answer: str) -> None:
    for request in ("7C028000", "7C028100", ""):
        if request:
            assert card.status(f"0087039B04{request}") == 0x9000
        assert card.status(f"0087039B{len(answer) // 2:02x}{answer}") in (0x6982, 0x6A80)
        assert card.status("0047009A05AC03800111") == 0x6982


def test_pin_stays_verified_until_power_is_lost(card: Card) -> None:
    public_key = card.store(0x9A)
    assert card.status("00200080") == 0x63C3
    assert card.verify() == 0x9000
    for _ in range(2):
        answer, status = card.sign(0x9A)
        assert status == 0x9000
        public_key.verify(tlv.decode(tlv.decode(answer)[0x7C])[0x82], DIGEST, ec.ECDSA(Prehashed(hashes.SHA256())))
    assert card.status(SELECT) == 0x9000
    assert card.sign(0x9A)[1] == 0x9000
    card.applet.reset()
    assert card.sign(0x9A)[1] == 0x6D00
    card.send(SELECT)
    assert card.sign(0x9A)[1] == 0x6982


@pytest.mark.parametrize("command", ["0020FF80", "00A4040006A00000000101", "00A4040008A000000527471117"])
def test_verified_pin_is_lost_by_a_logout_and_by_selecting_another_applet(card: Card, command: str) -> None:
    card.store(0x9A)
    card.verify()
    card.send(command)
    card.send(SELECT)
    assert card.sign(0x9A)[1] == 0x6982


def test_verified_pin_is_lost_after_a_wrong_pin(card: Card) -> None:
    card.store(0x9A)
    card.verify()
    assert card.verify("000000") == 0x63C2
    assert card.sign(0x9A)[1] == 0x6982


@pytest.mark.parametrize("between", ["", "00CB3FFF035C017E", "00F7009A", "00FD0000", SELECT])
def test_key_in_9c_signs_once_and_only_right_after_the_pin(card: Card, between: str) -> None:
    card.store(0x9C)
    card.verify()
    if between:
        card.send(between)
    assert card.sign(0x9C)[1] == (0x6982 if between else 0x9000)
    assert card.sign(0x9C)[1] == 0x6982


def test_signature_without_the_pin_is_refused_before_a_touch(card: Card) -> None:
    card.store(0x9A, touch_policy=2)
    assert card.sign(0x9A)[1] == 0x6982
    assert card.sensor.asked == 0


@pytest.mark.parametrize(("slot", "digest"), [(0x9D, DIGEST), (0xF9, DIGEST), (0x9E, DIGEST + b"\0"), (0x80, DIGEST)])
def test_missing_key_and_invalid_digest_are_refused(card: Card, slot: int, digest: bytes) -> None:
    card.store(0x9E)
    card.verify()
    assert card.sign(slot, digest)[1] == 0x6A80


def test_short_digest_is_signed_as_a_number(card: Card) -> None:
    public_key = card.store(0x9E)
    answer, _ = card.sign(0x9E, DIGEST[:20])
    signature = tlv.decode(tlv.decode(answer)[0x7C])[0x82]
    public_key.verify(signature, DIGEST[:20].rjust(32, b"\0"), ec.ECDSA(Prehashed(hashes.SHA256())))


@pytest.mark.parametrize("new", ["12345", "", "12345\xff7"])
def test_pin_of_an_invalid_form_is_refused(card: Card, new: str) -> None:
    data = pad(PIN) + new.encode("latin-1").ljust(8, b"\xff")
    assert card.status(f"0024008010{data.hex()}") == 0x6985
    assert card.verify() == 0x9000


@pytest.mark.parametrize(("firmware", "algorithm"), [((5, 4, 3), 0x03), ((5, 7, 1), 0x0A)])
def test_management_key_has_the_algorithm_of_the_firmware(
    tmp_path: Path, firmware: tuple[int, int, int], algorithm: int
) -> None:
    card = Card(tmp_path, firmware)
    assert card.send("00F7009B")[0][:3] == bytes([1, 1, algorithm])
    assert card.send("00FD0000") == (bytes(firmware), 0x9000)


def managed(folder: Path, firmware: tuple[int, int, int]) -> Card:
    """Return a card to which the management key was proved."""
    card = Card(folder, firmware)
    card.applet._session.managed = True
    return card


@pytest.mark.parametrize(
    ("instruction", "since", "before"),
    [("00F6829A", (5, 7, 0), (5, 6, 9)), ("00F7009A", (5, 3, 0), (5, 2, 7)), ("00F99A00", (4, 3, 0), (4, 2, 8))],
)
def test_instruction_is_unknown_before_the_firmware_that_has_it(
    tmp_path: Path, instruction: str, since: tuple[int, int, int], before: tuple[int, int, int]
) -> None:
    for firmware, is_known in ((since, True), (before, False)):
        card = managed(tmp_path, firmware)
        card.store(0x9A)
        assert (card.status(instruction) >> 8 in (0x61, 0x90)) == is_known


def test_moved_key_signs_and_is_attested_in_its_new_slot_alone(tmp_path: Path) -> None:
    card = managed(tmp_path, (5, 7, 4))
    public_key = card.store(0x9A, pin_policy=1, touch_policy=1)
    before = card.send("00F7009A")
    assert card.status("00F6829A") == 0x9000
    answer, status = card.sign(0x82)
    assert status == 0x9000
    signature = tlv.decode(tlv.decode(answer)[0x7C])[0x82]
    public_key.verify(signature, DIGEST, ec.ECDSA(Prehashed(hashes.SHA256())))
    assert card.send("00F70082") == before
    assert card.sign(0x9A)[1] == 0x6A80
    assert (card.status("00F7009A"), card.status("00F99A00")) == (0x6A88, 0x6A80)
    assert set(State.load(card.state.path).keys) == {0x82, 0xF9}


def test_deleted_key_is_gone(tmp_path: Path) -> None:
    card = managed(tmp_path, (5, 7, 4))
    for slot in (0x9A, 0x9C):
        card.store(slot)
    assert card.status("00F6FF9A") == 0x9000
    assert card.status("00F7009A") == 0x6A88
    assert set(State.load(card.state.path).keys) == {0x9C, 0xF9}


def test_card_whose_attestation_key_was_deleted_attests_nothing(tmp_path: Path) -> None:
    card = managed(tmp_path, (5, 7, 4))
    card.store(0x9A)
    assert card.status("00F99A00") >> 8 == 0x61
    assert card.status("00F6FFF9") == 0x9000
    assert card.status("00F99A00") == 0x6A88


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("00F6829D", 0x6A88),  # an empty slot
        ("00F6FF9D", 0x6A88),
        ("00F69C9A", 0x6A80),  # onto another key
        ("00F69A9A", 0x6A80),
        ("00F682F9", 0x6A80),  # the attestation key
        ("00F6F99A", 0x6A80),
        ("00F6809A", 0x6A80),  # no slot
        ("00F68280", 0x6A80),
    ],
)
def test_key_is_moved_only_from_a_slot_with_a_key_to_an_empty_one(tmp_path: Path, command: str, status: int) -> None:
    card = managed(tmp_path, (5, 7, 4))
    for slot in (0x9A, 0x9C):
        card.store(slot)
    keys = dict(card.state.keys)
    assert card.status(command) == status
    card.applet._session.managed = False
    assert card.status("00F6829A") == 0x6982
    assert card.state.keys == keys


@given(st.binary(max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=scaled(300))
def test_any_bytes_get_an_answer(card: Card, raw: bytes) -> None:
    answer = card.exchange.respond(raw)
    assert len(answer) >= 2
    assert answer[-2] in (0x61, 0x63, 0x67, 0x69, 0x6A, 0x6D, 0x90)


@given(ins=st.sampled_from([0x20, 0x24, 0x2C, 0x47, 0x87, 0xCB, 0xDB, 0xF6, 0xF7, 0xF9, 0xFE, 0xFF]), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=scaled(300))
def test_any_data_of_a_known_command_get_an_answer(card: Card, ins: int, data: st.DataObject) -> None:
    card.store(0x9E)
    card.applet._session.managed = True
    card.applet._selected = True
    p1, p2 = (
        data.draw(st.sampled_from([0x00, 0x03, 0x11, 0x3F, 0x9E, 0xFF])),
        data.draw(st.sampled_from([0x9B, 0x9E, 0xFF])),
    )
    template = data.draw(st.sampled_from([0x7C, 0xAC, 0x5C, 0x06]))
    body = data.draw(st.binary(max_size=20) | st.binary(max_size=20).map(lambda value: tlv.encode(template, value)))
    answer = card.exchange.respond(bytes([0, ins, p1, p2, len(body)]) + body if body else bytes([0, ins, p1, p2]))
    assert answer[-2] in (0x61, 0x63, 0x67, 0x69, 0x6A, 0x6D, 0x90)


def test_log_shows_no_pin_and_no_key(card: Card) -> None:
    card.verify()
    card.send("0024008010" + pad(PIN).hex() + pad("654321").hex())
    card.send("002C008010" + pad(PUK).hex() + pad("111111").hex())
    card.send("00FE119A220620" + "77" * 32)
    log = "\n".join(card.exchange.log)
    assert "20 00 80 <8 bytes> -> 9000" in log
    for secret in (pad(PIN), pad("654321"), pad(PUK), b"\x77" * 4):
        assert secret.hex() not in log.lower()


def test_status_word_is_shown_in_hexadecimal() -> None:
    assert str(apdu.StatusError(0x63C2)) == "63C2"
