"""Settings: command-line flags, profiles, and what the library makes of both."""

__all__ = ["flags", "monitoring", "profiles", "settings", "sharing"]
