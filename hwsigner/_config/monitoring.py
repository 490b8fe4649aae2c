"""How programs log and audit: flags of the commands that stay, and the table `[monitoring]` of config.toml."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from hwsigner._config import profiles
from hwsigner._config.flags import Flag, one_of, table_values, whole_number
from hwsigner.errors import ConfigError, HwsignerWarning, UsageError

# With some 500 bytes each, one user does not fill a disk quickly.
AUDIT_RATE = 6000

# The defaults are of `read_monitoring`: a flag that is given takes precedence over config.toml.
MONITORING = (
    Flag(
        "log-level", "least important lines to log (default: info)", convert=one_of("error", "warning", "info", "debug")
    ),
    Flag(
        "log-format",
        "format of the log (default: auto, the journal with fields if it reads stderr, else text)",
        convert=one_of("auto", "text", "json", "journald"),
    ),
    Flag("audit-log", "where to log who got which credentials: a file, journal or stderr (default: nowhere)", "PLACE"),
    Flag(
        "audit",
        "if an audit line can't be written: give no credentials (required), or warn (the default)",
        convert=one_of("required", "warn"),
    ),
    Flag(
        "audit-rate",
        f"audit lines a minute for each user (default: {AUDIT_RATE})",
        "NUMBER",
        convert=whole_number(1, 1_000_000),
    ),
)
_TABLE = {flag.name: flag for flag in MONITORING}
_ATTRIBUTES = [flag.attribute for flag in MONITORING]


class Monitoring:
    """The values of the flags of MONITORING, by attribute; the default where nothing is given."""

    log_level: str = "info"
    log_format: str = "auto"
    audit_log: str | None = None
    audit: str = "warn"
    audit_rate: int = AUDIT_RATE

    def __init__(self, values: Mapping[str, object]) -> None:
        self.__dict__.update(values)


def read_monitoring(environ: Mapping[str, str], given: Mapping[str, Any] | None = None) -> Monitoring:
    """Return how this program logs and audits. A table in the user's file replaces the system's.

    Values of `given`, a command line's, take precedence if they are not None.
    """
    file = profiles.user_file(environ)
    table = _table(file)
    if table is None:
        file = profiles.SYSTEM_FILE
        table = _table(file) or {}
    of_flags = {name: value for name in _ATTRIBUTES if (value := (given or {}).get(name)) is not None}
    found = Monitoring({name: value for name, value in (table | of_flags).items() if value is not None})
    if "audit_rate" in vars(found) and not found.audit_log:
        problem = "audit-rate has no effect, because there is no audit-log"
        warnings.warn(HwsignerWarning(problem, "Set audit-log too, or remove audit-rate"), stacklevel=2)
    where = "" if of_flags.keys() & {"audit", "audit_log"} else f"{file}: [monitoring]: "
    if found.audit == "required" and not found.audit_log:
        problem = f"{where}audit is required, and there is no audit-log"
        raise UsageError(problem, "Set audit-log to a file, journal or stderr")
    place = found.audit_log
    if place is not None and place not in ("journal", "stderr") and (not place.startswith("/") or "\0" in place):
        hint = "Write an absolute path, journal or stderr"
        raise UsageError(f"{where}audit-log is {place[:100]!r}, which is not a place for it", hint)
    return found


def _table(file: str) -> dict[str, Any] | None:
    """Return a file's table by attribute; None if it has none, or this user may not read it."""
    data, _ = profiles.read_file(file, may_be_hidden=True) or (b"", False)
    if b"monitoring" not in data:  # Most commands need nothing else of the file.
        return None
    from hwsigner._system.toml import parse_toml

    table = parse_toml(data, file).get("monitoring")
    if table is None:
        return None
    if not isinstance(table, dict):
        raise ConfigError(f"{file} has monitoring, which is not a table", "Write [monitoring] and its keys")
    return table_values(table, _TABLE, f"{file}: [monitoring]", "See hwsigner help monitoring")
