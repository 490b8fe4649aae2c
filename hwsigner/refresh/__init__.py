"""One session after the other, each created before the last one expires."""
