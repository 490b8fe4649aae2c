"""The log and the audit log of a command, by its flags and the table `[monitoring]` of config.toml."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hwsigner._cli.parser import Arguments
from hwsigner._cli.process import report, report_to
from hwsigner._config.monitoring import Monitoring, read_monitoring
from hwsigner._system.systemd import ERROR, line_priority

if TYPE_CHECKING:
    from hwsigner._monitoring.audit import Audit
    from hwsigner._monitoring.log import Log


def audit_of_sessions() -> Audit | None:
    """Return the audit log of a command that creates sessions for itself, or None if config.toml has none."""
    found = read_monitoring(os.environ)
    if not found.audit_log:
        return None
    from hwsigner._monitoring.audit import open_audit

    return open_audit(found.audit_log, found.audit, rate=found.audit_rate, log=report)


def open_log(found: Monitoring) -> Log:
    """Return the log of a command that stays. If it is not plain text, `report` writes to it too."""
    from hwsigner._monitoring.log import Log

    log = Log(level=found.log_level, format=found.log_format)
    if not log.is_text or found.log_level != "info":
        report_to(lambda line: log.note(line, line_priority(line, ERROR)))
    return log


def monitoring_values(arguments: Arguments, environ: Mapping[str, str] = os.environ) -> Monitoring:
    """Return the values of the flags for logs and the audit log; raises as `read_monitoring`."""
    return read_monitoring(environ, vars(arguments))
