"""Key URIs: the names of keys and certificates, in the grammar of RFC 7512 for every scheme.

    /etc/pki/key.pem                                  a path: the file's content decides
    file:/etc/pki/key.pem?pin-source=file:/run/pin
    pkcs11:token=alpha;object=web?module-path=/usr/lib/softhsm/libsofthsm2.so
    tpm2:handle=0x81000001?tcti=device:/dev/tpmrm0    handle:0x81000001 is short for it
    tpm2:path=/etc/pki/tss2.pem
    tpm2:nv=0x1c10000                                 a certificate

A scheme's path is `name=value` pairs split by `;` (file: apart, whose path is a path); a query is `name=value`
pairs split by `&`; values are percent-encoded bytes. The value of `pin-value` is kept apart from the others: it
is in no string and no repr.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote_to_bytes

from hwsigner.backends import BACKENDS
from hwsigner.errors import UsageError

SCHEMES = frozenset({*BACKENDS, "handle"})
_PINS = frozenset({"pin-value", "pin-source"})
_MISPLACED_PIN = re.compile(rb"pin-(value|source)=", re.IGNORECASE)
_OBJECT = frozenset({"object", "id", "type"})
_BINARY = frozenset({"id"})
_C_STRINGS = ("module-", "pin-")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# RFC 7512, 2.3: a slash is not among the characters of a pkcs11: path.
_SAFE_IN_PATH = ":[]@!$'()*+,=&"
_SAFE_IN_QUERY = ":[]@!$'()*+,=/?|"


@dataclass(frozen=True)
class KeyURI:
    """A parsed key URI.

    Attributes:
        scheme: `file`, `pkcs11` or `tpm2`.
        path: the path attributes by name, percent-decoded; `{"path": b"..."}` for a file.
        query: the query attributes by name, percent-decoded, without `pin-value`.
        pin_value: the PIN that the URI itself bears, or None. Never printed, never compared.
    """

    scheme: str
    path: Mapping[str, bytes]
    query: Mapping[str, bytes] = field(default_factory=dict)
    pin_value: str | None = field(default=None, repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> KeyURI:
        """Read a key URI, or a path, which has no scheme.

        Raises:
            UsageError: a bad percent-encoding, an attribute without a value or given twice, an empty name.
        """
        uri = cls._parse(text)
        for value in (*uri.path.values(), *uri.query.values()):
            check_no_pin(value)
        return uri

    @classmethod
    def of(cls, uri: str | KeyURI) -> KeyURI:
        """Return what a caller gave, parsed unless it is; raises as `parse`."""
        return uri if isinstance(uri, KeyURI) else cls.parse(uri)

    @classmethod
    def _parse(cls, text: str) -> KeyURI:
        scheme, colon, rest = text.partition(":")
        if not text or "\0" in text:
            raise UsageError("a key URI or path is empty or holds a NUL character", "Name a key")
        if not colon or scheme.lower() not in SCHEMES:
            return cls("file", {"path": _bytes(text)})
        scheme, (body, _, query_text) = scheme.lower(), rest.partition("?")
        query = _attributes(scheme, query_text, "&")
        pin_value = query.pop("pin-value", None)
        pin = None if pin_value is None else _decode(scheme, "pin-value", pin_value)
        if scheme == "file":
            return cls("file", {"path": _file_path(body)}, query, pin)
        if scheme == "handle":
            return cls("tpm2", {"handle": _value(scheme, "handle", body)}, query, pin)
        path = _attributes(scheme, body, ";")
        for name in _PINS & path.keys():
            raise UsageError(f"a {scheme}: URI has {name} before its question mark", f"Write …?{name}=…")
        return cls(scheme, path, query, pin)

    def __hash__(self) -> int:
        return hash((self.scheme, frozenset(self.path.items()), frozenset(self.query.items())))

    def __str__(self) -> str:
        """Return the URI without its `pin-value`, such that `parse(str(uri)) == uri`."""
        if self.scheme == "file":
            path = quote(self.path["path"], safe="/")
            path = f"//{path}" if path.startswith("//") else path  # Else its start would be an authority.
        else:
            safe = _SAFE_IN_PATH if self.scheme == "pkcs11" else _SAFE_IN_PATH + "/"
            path = ";".join(f"{name}={_quoted(name, value, safe)}" for name, value in self.path.items())
        query = "&".join(f"{name}={_quoted(name, value, _SAFE_IN_QUERY)}" for name, value in self.query.items())
        return f"{self.scheme}:{path}?{query}" if query else f"{self.scheme}:{path}"

    @property
    def name(self) -> str:
        """The name to use in messages: a file's path, else the URI without its query."""
        if self.scheme == "file":
            return self.file
        return str(replace(self, query={}))

    @property
    def file(self) -> str:
        """The path that a `file:` or `tpm2:path=` URI names."""
        return self.path["path"].decode("utf-8", "surrogateescape")

    @property
    def place(self) -> tuple[object, ...]:
        """What one PIN unlocks: the file, or the token without the object on it. Equal for URIs that share it."""
        if self.scheme == "file":
            return self.scheme, os.path.realpath(self.file)
        query = frozenset(item for item in self.query.items() if item[0] not in _PINS)
        return self.scheme, frozenset(self.token.path.items()), query

    @property
    def token(self) -> KeyURI:
        """This URI less what names an object on the token."""
        return replace(self, path={name: value for name, value in self.path.items() if name not in _OBJECT})

    def with_pin_of(self, other: KeyURI) -> KeyURI:
        """Return this URI, where it has no PIN of its own with the `pin-value` and `pin-source` of another."""
        if self.pin_value is not None or "pin-source" in self.query:
            return self
        source = {name: value for name, value in other.query.items() if name == "pin-source"}
        return replace(self, query={**self.query, **source}, pin_value=other.pin_value)

    def text(self, name: str) -> str | None:
        """Return an attribute of the path, or else of the query, as text; None when it is absent.

        Raises:
            UsageError: the attribute is not UTF-8.
        """
        value = self.path.get(name, self.query.get(name))
        return None if value is None else _decode(self.scheme, name, value)

    def with_query(self, name: str, value: str) -> KeyURI:
        """Return this URI with one query attribute set."""
        return replace(self, query={**self.query, name: value.encode("utf-8", "surrogateescape")})

    def require_known(self, path: Set[str], query: Set[str]) -> None:
        """Check that every attribute is one that the backend knows: it would be ignored otherwise.

        Raises:
            UsageError: naming the first attribute that is not.
        """
        for given, known in ((self.path, path), (self.query, query | _PINS)):
            for name in given:
                if name not in known:
                    hint = f"Known here: {', '.join(sorted(known))}"
                    raise UsageError(f"{self.scheme}: URIs have no attribute {name!r}", hint)


def check_no_pin(value: bytes) -> None:
    """Check that a path or an attribute's value does not hold what was meant as a PIN of the URI.

    Raises:
        UsageError: it does. It is not quoted.
    """
    if _MISPLACED_PIN.search(value):
        hint = "Write SCHEME:…?name=value&name=value, for a file file:/path?pin-source=file:/path"
        raise UsageError("a key URI or path has a pin-value or pin-source out of its place", hint)


def _attributes(scheme: str, text: str, separator: str) -> dict[str, bytes]:
    attributes: dict[str, bytes] = {}
    for item in filter(None, text.split(separator)):
        name, equals, value = item.partition("=")
        # Only the name goes into a message: the value may be a PIN.
        if not name or not equals:
            hint = f"Write {scheme}:name=value, and a semicolon in a value as %3B"
            raise UsageError(f"the {scheme}: URI has a part that is not name=value", hint)
        if name in attributes:
            raise UsageError(f"a {scheme}: URI gives {name!r} twice", "Give it once")
        if separator == "&" and (";" in value or (name == "pin-value" and "?" in value)):
            # RFC 7512, 2.3: neither belongs there, and what follows would become part of a PIN.
            hint = "Split a query's attributes by &, and write a semicolon as %3B and a question mark as %3F"
            raise UsageError(f"a {scheme}: URI has a semicolon or question mark in {name!r}", hint)
        attributes[name] = _value(scheme, name, value)
    return attributes


def _value(scheme: str, name: str, value: str) -> bytes:
    if _BAD_PERCENT.search(value):
        raise UsageError(f"a {scheme}: URI has a bad percent-encoding in {name!r}", "Write a percent sign as %25")
    decoded = unquote_to_bytes(_bytes(value))
    # A token's label, and what is on it, may hold one.
    if b"\0" in decoded and name not in _BINARY and (scheme != "pkcs11" or name.startswith(_C_STRINGS)):
        raise UsageError(f"a {scheme}: URI has a NUL character in {name!r}", "Leave %00 out")
    return decoded


def _file_path(body: str) -> bytes:
    """Return the path of a `file:` URI, whose authority (RFC 8089) must be empty or localhost."""
    if body.startswith("//"):
        authority, slash, rest = body[2:].partition("/")
        body = slash + rest if authority in ("", "localhost") else ""
    if not body:
        raise UsageError("a file: URI names no local path", "Write file:/the/path")
    return _value("file", "path", body)


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Not chained: the exception would carry the text, which may be a PIN.
        raise UsageError(
            "a key URI or path holds a character that is no Unicode scalar value", "Leave it out"
        ) from None


def _decode(scheme: str, name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        # Not chained: the exception would carry the bytes, which may be a PIN.
        raise UsageError(f"a {scheme}: URI has a {name!r} that is not UTF-8", "Write it in UTF-8") from None


def _quoted(name: str, value: bytes, safe: str) -> str:
    if name in _BINARY:
        return "".join(f"%{byte:02X}" for byte in value)
    return quote(value, safe=safe)
