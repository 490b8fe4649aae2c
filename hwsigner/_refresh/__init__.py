"""Sessions that follow one another: each is created before the last one expires."""

__all__ = [
    "background",
    "monitor",
    "outcome",
    "provider",
    "reopening",
    "schedule",
    "shared",
    "shared_identity",
    "workers",
]
