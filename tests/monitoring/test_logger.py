"""The logger of the library: silent, and without secrets."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import certs
from hwsigner._monitoring import logger
from hwsigner.emulator import Fault
from hwsigner.errors import ServiceError
from stage import Stage, make_stage


@pytest.fixture
def stage(ca: certs.Authority, tmp_path: Path) -> Iterator[Stage]:
    with make_stage(ca, tmp_path) as stage:
        yield stage


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "hwsigner"]


def test_session_is_logged_without_a_secret(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "hwsigner")
    credentials = stage.provider()()
    expiration = f"{credentials.expiration:%Y-%m-%dT%H:%M:%SZ}"
    role = credentials.role_arn
    assert records(caplog) == [("INFO", f"{role}: session created, credentials until {expiration}")]


def test_failure_is_logged_with_its_hint(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.emulator.misbehave(Fault.parse("deny*9"))
    with pytest.raises(ServiceError) as raised:
        stage.provider()()
    assert records(caplog) == [("WARNING", f"{stage.emulator.role_arn}: no session: {raised.value}")]
    assert raised.value.hint in caplog.text


def test_session_that_is_shorter_than_asked_is_logged_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    provider = stage.provider(duration=7200)
    for _ in range(2):
        provider.refresh()
    ((level, text),) = records(caplog)
    assert (level, text.partition(": ")[0]) == (
        "WARNING",
        f"the session of {stage.emulator.role_arn} lasts 60 minutes, not 120 minutes",
    )


class BrokenHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.getMessage())


def test_session_is_kept_when_a_log_handler_raises(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hwsigner")
    handler, provider = BrokenHandler(), stage.provider()
    logging.getLogger("hwsigner").addHandler(handler)
    try:
        with pytest.raises(RuntimeError, match="session created"):
            provider()
    finally:
        logging.getLogger("hwsigner").removeHandler(handler)
    assert provider.failure is None
    provider()
    assert stage.count == 1


@pytest.mark.parametrize("level", ["WARNING", "ERROR"])
def test_notice_of_a_certificate_has_its_level(level: str, caplog: pytest.LogCaptureFixture) -> None:
    logger.notice(level.lower(), "the certificate CN=web expires in 2 days")
    assert records(caplog) == [(level, "the certificate CN=web expires in 2 days")]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_records_are_silent_in_a_program_that_configures_no_logging() -> None:
    assert run("from hwsigner._monitoring import logger; logger.no_session('role', ValueError('denied'))") == ""


def test_importing_hwsigner_imports_no_logging() -> None:
    assert run("import sys, hwsigner; print('logging' in sys.modules)") == "False\n"
