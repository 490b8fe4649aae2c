"""Errors: printable whatever they quote, and each with the exit status of its class."""

from __future__ import annotations

import pickle
import shlex
import subprocess
import sys
import unicodedata
from pathlib import Path
from zipfile import ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner import __version__, errors
from hwsigner.errors import HwsignerError, HwsignerWarning, install_command, printable

ERRORS = sorted(
    (e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, HwsignerError)), key=lambda e: e.__name__
)
WARNINGS = sorted(
    (w for w in vars(errors).values() if isinstance(w, type) and issubclass(w, HwsignerWarning)),
    key=lambda w: w.__name__,
)
EXIT_STATUSES = {
    "HwsignerError": 1,
    "PluginError": 1,
    "UsageError": 2,
    "ConfigError": 2,
    "NoProfileError": 2,
    "SigningKeyError": 3,
    "BackendUnavailableError": 3,
    "TokenRemovedError": 3,
    "KeyNotFoundError": 3,
    "OtherChipError": 3,
    "AmbiguousKeyError": 3,
    "UnsupportedKeyError": 3,
    "KeyMismatchError": 3,
    "PinError": 3,
    "PinRequiredError": 3,
    "WrongPinError": 3,
    "PinLockedError": 3,
    "AttestationError": 3,
    "CertificateError": 4,
    "AmbiguousCertificateError": 4,
    "ServiceError": 5,
    "ServiceUnreachableError": 6,
    "LockError": 7,
    "AgentError": 7,
    "AuditError": 7,
    "Interruption": 130,
}
TEXTS = st.text() | st.text(st.sampled_from("a\x00\x07\x1b[31m\r\n\t\x7f\x9b\u202e\u2066\ud800\udce9é\u200b\u2028"))
UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


class TestPrintable:
    @given(TEXTS)
    def test_printable_text_has_no_control_characters(self, text: str) -> None:
        assert not {unicodedata.category(character) for character in printable(text)} & UNPRINTABLE
        assert printable(text).isprintable()

    @given(st.text(st.characters(categories=["L", "N", "P", "S"])))
    def test_plain_text_is_unchanged(self, text: str) -> None:
        assert printable(text) == text

    @given(TEXTS)
    def test_printable_text_is_utf8_and_stays_the_same_when_escaped_again(self, text: str) -> None:
        assert printable(text).encode().decode() == printable(text)
        assert printable(printable(text)) == printable(text)

    @pytest.mark.parametrize(
        ("text", "escaped"),
        [("a\x1b[2Jb", "a\\x1b[2Jb"), ("x\ny", "x\\ny"), ("\u202e", "\\u202e"), ("\udce9", "\\udce9")],
    )
    def test_escapes_are_visible(self, text: str, escaped: str) -> None:
        assert printable(text) == escaped


class TestErrors:
    def test_every_class_has_the_exit_status_of_its_base(self) -> None:
        assert {error.__name__: error.exit_status for error in ERRORS} == EXIT_STATUSES

    @pytest.mark.parametrize("error", ERRORS)
    def test_message_and_hint_are_two_sentences(self, error: type[HwsignerError]) -> None:
        assert str(error("what was wrong", "What to do")) == "what was wrong. What to do"
        assert str(error("what was wrong")) == "what was wrong"

    @pytest.mark.parametrize("error", ERRORS)
    @given(message=TEXTS, hint=TEXTS)
    def test_every_output_of_an_error_is_printable(self, error: type[HwsignerError], message: str, hint: str) -> None:
        raised = error(message, hint)
        for shown in (str(raised), repr(raised), raised.message, raised.hint, *raised.args):
            assert shown.isprintable()

    @pytest.mark.parametrize("error", ERRORS)
    def test_errors_can_be_pickled(self, error: type[HwsignerError]) -> None:
        copied = pickle.loads(pickle.dumps(error("what was wrong\x1b", "What to do")))
        assert (type(copied), copied.message, copied.hint) == (error, "what was wrong\\x1b", "What to do")


class TestWarnings:
    @pytest.mark.parametrize("warning", WARNINGS)
    def test_warnings_are_user_warnings_with_an_exit_status_and_a_printable_message(
        self, warning: type[HwsignerWarning]
    ) -> None:
        assert issubclass(warning, UserWarning)
        assert warning.exit_status in EXIT_STATUSES.values()
        assert str(warning("label \x1b[2J")) == "label \\x1b[2J" == warning("label \x1b[2J").message


def test_command_for_an_extra_never_takes_another_project_of_this_name(tmp_path: Path) -> None:
    """A library is missing in the index, which has a later hwsigner, of a stranger, that needs none."""
    needs = 'Provides-Extra: tpm2\nRequires-Dist: no-such-library; extra == "tpm2"\n'
    installed = tmp_path / f"hwsigner-{__version__}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: hwsigner\nVersion: {__version__}\n{needs}")
    with ZipFile(tmp_path / "hwsigner-99-py3-none-any.whl", "w") as wheel:
        metadata = "Metadata-Version: 2.1\nName: hwsigner\nVersion: 99\nProvides-Extra: tpm2\n"
        wheel.writestr("hwsigner-99.dist-info/METADATA", metadata)
        wheel.writestr("hwsigner-99.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("hwsigner-99.dist-info/RECORD", "")
    program, *words = shlex.split(install_command("tpm2"))
    assert program == sys.executable
    words += ["--dry-run", "--no-index", f"--find-links={tmp_path}"]
    done = subprocess.run([program, *words], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, "hwsigner-99" in done.stdout) == (1, False), done


@pytest.mark.parametrize(
    ("installer", "command"),
    [
        ("debian\n", "apt-get install python3-boto3"),
        ("rpm\n", "dnf install python3-boto3"),
        ("pip\n", f"{sys.executable} -m pip install 'hwsigner[aws]=={__version__}'"),
        (None, f"{sys.executable} -m pip install 'hwsigner[aws]=={__version__}'"),
    ],
)
def test_command_for_the_extra_aws_is_that_of_the_installer(
    installer: str | None, command: str, tmp_path: Path
) -> None:
    installed = tmp_path / f"hwsigner-{__version__}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: hwsigner\nVersion: {__version__}\n")
    if installer:
        (installed / "INSTALLER").write_text(installer)
    code = "from hwsigner.errors import install_command; print(install_command('aws'))"
    environ = {"PYTHONPATH": str(tmp_path)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environ, text=True) == f"{command}\n"
