"""The log of a command that stays: as text or JSON lines on stderr, or with fields in systemd's journal."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

from hwsigner._monitoring.audit import printable_fields, takes_now, written
from hwsigner._system.systemd import DEBUG, ERROR, INFO, WARNING, has_journal, is_journal, line_priority, send_entry
from hwsigner.errors import UsageError, printable

LEVELS = ("error", "warning", "info", "debug")
MAX_REFUSALS_PER_SECOND = 20

# The journal's priorities and the levels of logging.
_LEVELS = {ERROR: logging.ERROR, WARNING: logging.WARNING, INFO: logging.INFO, DEBUG: logging.DEBUG}
_PRIORITIES = {level: priority for priority, level in _LEVELS.items()}
_STDERR = 2
# A pipe that is ready takes 4096 bytes at once, and may block for more (pipe(7)). These leave room for the number of
# lost lines. A character takes 4 bytes, and up to 12 in JSON.
_MAX_CHARACTERS = 1000
_MAX_JSON_BYTES = 3900
_MAX_JSON_CHARACTERS = 250


class Log:
    """Writes lines without waiting for a reader, and limits the lines about refused requests.

    Its output is not hidden by `hwsigner._system.notices`.

    Args:
        clock: returns seconds.
        level: one of LEVELS. Less important lines are not written.
        format: `text`, `json`, `journald` or `auto`. With `auto`, lines go to the journal with their fields if it reads
            stderr, and to stderr as text otherwise.

    Raises:
        UsageError: the journal is wanted, and this system has none.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, level: str = "info", format: str = "auto"
    ) -> None:
        self._clock = clock
        self._second = 0
        self._count = 0
        self._handler = _handler(format)
        self._logger = logging.Logger("hwsigner", level.upper())
        self._logger.addHandler(self._handler)
        self.is_text = isinstance(self._handler.formatter, _TextFormatter)
        self.has_debug = self._logger.isEnabledFor(logging.DEBUG)

    def note(self, text: str, priority: int | None = None, **fields: str | int | None) -> None:
        """Write a line. If stderr or the journal does not take it at once, drop the line and count it.

        By default, the priority is judged by whether the line begins with `error:` or `warning:`. JSON lines and the
        journal get the fields that are neither None nor empty.
        """
        level = _LEVELS[priority or line_priority(text)]
        self._logger.log(level, "%s", printable(text), extra={"fields": printable_fields(fields)})

    def debug(self, text: str, **fields: str | int | None) -> None:
        """Write a line that is wanted at the level debug only."""
        self.note(text, DEBUG, **fields)

    def refused(self, text: str, **fields: str | int | None) -> None:
        """Write a line about a refused request. Of each second, write the first lines and the number of the others."""
        second = int(self._clock())
        if second != self._second:
            if self._count > MAX_REFUSALS_PER_SECOND:
                self.note(f"refused {self._count - MAX_REFUSALS_PER_SECOND} more requests", WARNING)
            self._second, self._count = second, 0
        self._count += 1
        if self._count <= MAX_REFUSALS_PER_SECOND:
            self.note(text, WARNING, **fields)


def _handler(format: str) -> _LogHandler:
    if format == "journald" and not has_journal():
        raise UsageError("log-format is journald, and this system has no journal", "Use json or text")
    descriptor = _own_stderr()
    reads_journal = is_journal(descriptor)
    if format == "journald" or (format == "auto" and reads_journal and has_journal()):
        return _JournalHandler()
    handler = _StderrHandler(descriptor)
    handler.setFormatter(_JSONFormatter() if format == "json" else _TextFormatter(has_priority=reads_journal))
    return handler


def _own_stderr() -> int:
    try:
        return os.dup(_STDERR)
    except OSError:  # It is closed.
        return os.open(os.devnull, os.O_WRONLY)


class _LogHandler(logging.Handler):
    """Writes records, or drops and counts those that are not taken at once."""

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        records = [record]
        if self._lost:
            note = {"msg": f"{self._lost} lines were lost", "levelno": logging.WARNING, "levelname": "WARNING"}
            records.insert(0, logging.makeLogRecord({**note, "created": record.created, "fields": {}}))
        try:
            taken = self.write(records)
        except OSError:
            taken = False
        self._lost = 0 if taken else self._lost + 1

    def write(self, records: list[logging.LogRecord]) -> bool:
        """Write records; return whether they were taken, or raise an OSError."""
        raise NotImplementedError


class _StderrHandler(_LogHandler):
    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def write(self, records: list[logging.LogRecord]) -> bool:
        data = "".join(f"{self.format(record)}\n" for record in records).encode()
        is_ready = takes_now(self._descriptor)
        if is_ready:
            os.write(self._descriptor, data)
        return is_ready


class _JournalHandler(_LogHandler):
    def write(self, records: list[logging.LogRecord]) -> bool:
        for record in records:
            send_entry(_message(record), _PRIORITIES[record.levelno], record.__dict__["fields"])
        return True


def _message(record: logging.LogRecord) -> str:
    """Return a line without the level, which JSON lines and the journal have of their own."""
    text = record.getMessage()
    return text.removeprefix(f"{record.levelname.lower()}: ")[:_MAX_CHARACTERS]


class _TextFormatter(logging.Formatter):
    def __init__(self, *, has_priority: bool) -> None:
        super().__init__()
        self._has_priority = has_priority

    def format(self, record: logging.LogRecord) -> str:
        begin = f"<{_PRIORITIES[record.levelno]}>hwsigner: " if self._has_priority else "hwsigner: "
        return f"{begin}{record.getMessage()}"[:_MAX_CHARACTERS]


class _JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        head = {"time": written(time), "level": record.levelname.lower(), "message": _message(record)}
        line = json.dumps({**head, **record.__dict__["fields"]})
        if len(line) > _MAX_JSON_BYTES:
            head["message"] = head["message"][:_MAX_JSON_CHARACTERS]
            line = json.dumps({**head, **record.__dict__["fields"]})
        return line if len(line) <= _MAX_JSON_BYTES else json.dumps(head)
