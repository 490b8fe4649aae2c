"""Settings: command-line flags, profiles, and what the library makes of both."""
