"""The page of error messages: complete, with the causes that are told by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import error_pages
import hwsigner
from hwsigner._config.profiles import profile
from hwsigner.errors import HwsignerError
from hwsigner.key import open_key
from markup import plain
from pages import ROOT

pytestmark = pytest.mark.slow

ERRORS = (ROOT / "docs" / "reference" / "errors.md").read_text()


def is_listed(error: HwsignerError) -> bool:
    """Return whether the page has an error: a message of its class whose fixed words are its own, and the hint."""

    def fits(pattern: str, text: str) -> bool:
        return bool(re.fullmatch(re.sub(r"[A-Z_]{2,}|…", ".*", re.escape(pattern)), text))

    of_class = [entry for entry in error_pages.entries() if entry.error == type(error).__name__]
    found = [entry for entry in of_class if fits(entry.message, error.message)]
    return any(not entry.hint or fits(entry.hint, error.hint) for entry in found)


@pytest.mark.parametrize("uri", ["", "/absent.pem", "tpm2:handle=1", "pkcs11:tokn=a", "nfc:card", "env:ABSENT"])
def test_error_of_a_key_is_listed(uri: str) -> None:
    with pytest.raises(HwsignerError) as caught:
        open_key(uri)
    assert is_listed(caught.value), str(caught.value)


def test_error_of_a_profile_is_listed(tmp_path: Path) -> None:
    with pytest.raises(HwsignerError) as caught:
        profile("web", {"XDG_CONFIG_HOME": str(tmp_path)})
    assert is_listed(caught.value), str(caught.value)


def test_almost_every_place_that_makes_an_error_is_listed() -> None:
    sources = "".join(path.read_text() for path in Path(hwsigner.__file__).parent.rglob("*.py"))
    made = len(re.findall(rf"\b(?:{'|'.join(error_pages._CLASSES)})\(\s*[\w\"f(]", sources))
    assert len(error_pages.entries()) > 0.9 * made > 500


def test_page_has_every_message_once_in_its_class_and_its_hint() -> None:
    page = error_pages.page({})
    assert page.count("\n: ") > 500
    for entry in error_pages.entries():
        assert plain(entry.message) in page
        assert plain(entry.hint) in page


def test_every_status_of_the_classes_has_a_section() -> None:
    statuses = {found.exit_status for found in error_pages._CLASSES.values()}
    assert statuses == set(error_pages._STATUSES)
    assert statuses < {int(status) for status in re.findall(r"^\| (\d+) \|", ERRORS, re.MULTILINE)}


def test_causes_told_by_hand_belong_to_messages_that_there_are() -> None:
    causes = error_pages.causes(ERRORS)
    assert causes
    assert set(causes) - {entry.message for entry in error_pages.entries()} == set()


def test_words_of_the_service_are_those_of_the_emulator() -> None:
    sources = "".join(path.read_text() for path in (Path(hwsigner.__file__).parent / "emulator").glob("*.py"))
    table = ERRORS.partition("## Access denied\n")[2].partition("\n## ")[0]
    words = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(words) == 11
    assert [text for text in words if text.removesuffix("ARN") not in sources] == []


def test_page_of_errors_leads_to_the_page_of_all_messages(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "errors.md").write_text(ERRORS)
    error_pages.write_page(tmp_path)
    assert "](messages.md)" in (tmp_path / "reference" / "errors.md").read_text()
    assert (tmp_path / "reference" / "messages.md").read_text().startswith("# Every error message\n")


def test_values_in_a_row_are_shown_as_one() -> None:
    messages = [entry.message for entry in error_pages.entries()]
    assert any(message.startswith("no permission to use TPM device PATH…") for message in messages)
    assert [message for message in messages if re.search("[A-Z]{3}SOURCE|PROBLEMHINT|WAY_OUT", message)] == []


def test_limits_are_shown_as_numbers() -> None:
    messages = {entry.message for entry in error_pages.entries()}
    assert "another process has been writing PATH for 10 s" in messages
    assert [message for message in messages if re.search("[A-Z]_(TIMEOUT|BYTES|SECONDS|LIMIT)|MOST_", message)] == []


@pytest.mark.parametrize(
    ("message", "hints"),
    [
        ("PATH is a mount point (a file mounted by itself), so it can't be replaced", ["Mount its folder instead"]),
        (
            "there is no systemd credential REST, which pin-source names",
            ["Add LoadCredentialEncrypted=REST:/path to the unit"],
        ),
    ],
)
def test_advice_of_another_message_in_the_same_function_is_not_shown(message: str, hints: list[str]) -> None:
    assert [entry.hint for entry in error_pages.entries() if entry.message == message] == hints


def test_no_message_has_a_gap_where_a_text_is_empty() -> None:
    assert [entry.message for entry in error_pages.entries() if re.search("  |……", entry.message)] == []
