"""The canonicalisation in use, and the name of its implementation. `hwsigner._reference` defines what it does."""

from __future__ import annotations

from hwsigner._reference import (
    canonical_headers,
    canonical_path,
    canonical_path_s3,
    canonical_query,
    canonical_request,
    parse_query,
    percent_decode,
    percent_encode,
    string_to_sign,
)

__all__ = [
    "IMPLEMENTATION",
    "canonical_headers",
    "canonical_path",
    "canonical_path_s3",
    "canonical_query",
    "canonical_request",
    "parse_query",
    "percent_decode",
    "percent_encode",
    "string_to_sign",
]

IMPLEMENTATION = "python"
