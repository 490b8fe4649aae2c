"""What operators watch: the log, the audit log, and metrics."""

__all__ = ["audit", "log", "logger", "metrics"]
