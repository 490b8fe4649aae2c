"""Sessions that follow one another: each is created before the last one expires."""
