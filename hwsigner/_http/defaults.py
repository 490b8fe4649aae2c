"""Defaults of the command-line flags and the library; times in seconds."""

SESSION_DURATION = 3600
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 15.0
TIMEOUT = 60.0
MAX_ATTEMPTS = 3
