"""Sessions that follow one another: each is created before the last one expires."""

__all__ = ["attempts", "monitor", "outcome", "provider", "refresher", "schedule", "shared_identity"]
