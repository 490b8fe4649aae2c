"""What operators watch: the log, the audit log, and metrics."""
