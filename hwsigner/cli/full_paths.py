"""Paths and key URIs as a profile keeps them: they mean the same in every folder."""

from __future__ import annotations

import os

from hwsigner.uri import KeyURI


def in_full(place: str | KeyURI) -> str:
    """Return a path or key URI with the full path of its file, if it names one. It has no PIN."""
    uri = KeyURI.of(place)
    if "path" in uri.path:
        uri = uri.changed(path={**uri.path, "path": os.path.abspath(uri.path["path"])})
    # In a URI, what can't be printed is encoded.
    return uri.file if uri.scheme == "file" and not uri.query and uri.file.isprintable() else str(uri)


def in_full_if_there(text: str) -> str:
    """Return a path or key URI with the full path of its file, if there is that file; any other value as it is."""
    uri = KeyURI.of(text)
    has_file = os.path.exists(uri.path.get("path", b""))
    return in_full(uri) if has_file and uri.pin_value is None else text
