"""Key URIs: the names of keys and certificates, in the grammar of RFC 7512 for every scheme.

    /etc/pki/key.pem                                  a path: the file's content decides
    file:/etc/pki/key.pem?pin-source=file:/run/pin
    pkcs11:token=alpha;object=web?module-path=/usr/lib/softhsm/libsofthsm2.so
    tpm2:handle=0x81000100?tcti=device:/dev/tpmrm0    handle:0x81000100 is short for it
    tpm2:path=/etc/pki/tss2.pem
    tpm2:nv=0x1c10000                                 a certificate
    env:WEB_KEY, fd:7, -                              a variable, an open file, or standard input (fd:0)

A scheme is followed by path attributes, `name=value` split by `;`, and after a question mark by query attributes, split
by `&`. The path of a `file:` URI is a file's path (RFC 8089), those of `env:` and `fd:` are a name and a number. Values
are percent-encoded bytes. The value of `pin-value` is kept apart from the others, so it is in no string and no repr.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Set
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from hwsigner.backends import BACKENDS, SHORT_FORMS, Backend, find_backend
from hwsigner.errors import UsageError, suggestion

_ANY_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*:"  # RFC 3986, 3.1.
_PINS = frozenset({"pin-value", "pin-source"})
_MISPLACED_PIN = re.compile(rb"pin-(value|source)=", re.IGNORECASE)
_BINARY = frozenset({"id"})
_BAD_PERCENT = r"%(?![0-9A-Fa-f]{2})"
_SAFE_IN_PATH = ":[]@!$'()*+,=&"  # RFC 7512, 2.3. Other schemes than pkcs11 also have the slash.
_SAFE_IN_QUERY = ":[]@!$'()*+,=/?|"
_EXAMPLES = {"tpm2": "path=/etc/pki/web.tss2", "pkcs11": "token=alpha;object=web"}
_START_BYTES = 65536
_INHERITED = {"env": "Write env:NAME, with the variable's name and without $", "fd": "Write fd:N, such as fd:7"}
# What PEM begins with, and base64 of PEM and DER.
_PEM_STARTS = ("-----BEGIN ", "LS0tLS1CRUdJTi")
_DER_START = r"M[A-P][A-Za-z0-9+/=\s]{98}"  # A SEQUENCE, of more bytes than the name of a file has.
# Names of new keys that mean hardware, and the URI to write for them.
_A_TOKENS, _A_TPMS = "pkcs11:token=alpha;object=web", "tpm2:path=web.tss2 or handle:0x81000100"
_A_YUBIKEY = "pkcs11:token=YubiKey%20PIV%20%23SERIAL"
_MEANT = {
    r"(0x)?(81[0-9a-f]{6})": r"handle:0x\2",
    r"0x[0-9a-f_]+:?": "handle:0x81000100",
    r"/+dev/+tpm\w*": r"tpm2:path=web.tss2?tcti=device:\g<0>",
    r".*\.(tss2?|tpm2?)": r"tpm2:path=\g<0>",
    r"(tpm|tpm[ _-]?rm|tpm[ _-]?2[._]?|(tpm2[_-])?(tss|abrmd)|tabrmd|swtpm|mssim|handle|nv)[0-9]*": _A_TPMS,
    r"(handle|path|nv)=.*": r"tpm2:\g<0>",
    **{
        rf"((yubikey|piv|slot)[ _/-]?)?{slot}": f"{_A_YUBIKEY};id=%{number:02x}"  # The ids of Yubico's module.
        for number, slot in enumerate(("9a", "9c", "9d", "9e", *(f"{slot:x}" for slot in range(0x82, 0x96))), 1)
    },
    r"yubi\w*|yubi[ _-]?key[ _-]?[0-9]\w*|piv|ykcs11": f"{_A_YUBIKEY};id=%01",
    r"([\w-]+-)?pkcs[ _-]?#?11|p11(-kit)?|cryptoki|(slot|token)[0-9]*": _A_TOKENS,
    r"[\w-]*hsm2?|smart[ _-]?card|opensc|nitrokey": _A_TOKENS,
    r"/dev/(?!shm/).*": _A_TOKENS,
    r".*\.so(\.[0-9.]+)?": rf"{_A_TOKENS}?module-path=\g<0>",
    r"(token|object|id|serial|slot-id|manufacturer|model|type)=.*": r"pkcs11:\g<0>",
}


class KeyURI:
    """A parsed key URI.

    Attributes:
        scheme: `file`, `env`, `fd`, `pkcs11`, `tpm2`, or that of another backend.
        path: the path attributes by name, percent-decoded; `{"path": b"..."}` for a file, `{"name": b"..."}` for a
            variable or an open file.
        query: the query attributes by name, percent-decoded, without `pin-value`.
        pin_value: the PIN in the URI itself, or None. It is never printed and never compared.
        file: the path in a URI that names a file, such as `file:` and `tpm2:path=`; an empty string for others.
    """

    def __init__(
        self,
        scheme: str,
        path: Mapping[str, bytes],
        query: Mapping[str, bytes] | None = None,
        pin_value: str | None = None,
    ) -> None:
        self.scheme: Final = scheme
        self.path: Final = path
        self.query: Final[Mapping[str, bytes]] = query or {}
        self.pin_value: Final = pin_value
        self.file: Final = path.get("path", b"").decode("utf-8", "surrogateescape")

    @classmethod
    def parse(cls, text: str) -> KeyURI:
        """Parse a key URI, or a path. Text with an unknown scheme is a path.

        Raises:
            UsageError: not a str; bad percent-encoding; an attribute without a value or given twice; a PIN out of
                place.
            BackendUnavailableError: an installed backend has this scheme and can't be loaded.
        """
        uri = cls._parse(text)
        for value in (*uri.path.values(), *uri.query.values()):
            check_no_pin(value)
        return uri

    @classmethod
    def of_new(cls, uri: str | KeyURI) -> KeyURI:
        """Return the key URI of a key to be made, parsed if it is text.

        Raises:
            UsageError: as `parse`; or it is the path of a file, and begins like a URI of another scheme, or its name
                means hardware. A key that was meant for hardware would be in a file.
        """
        parsed = cls.of(uri)
        if not isinstance(uri, str) or parsed.path.get("path") != _bytes(uri):
            return parsed
        if re.match(_ANY_SCHEME, uri):
            hint = f"Correct its scheme, or write ./{uri} for a file of that name"
            raise UsageError(f"{uri} looks like a key URI of an unknown scheme, so no file was made", hint)
        found = (re.fullmatch(name, uri.strip(), re.IGNORECASE | re.DOTALL) for name in _MEANT)
        for match, meant in zip(found, _MEANT.values(), strict=True):
            if match and not os.path.isfile(uri):  # A key that is there is used.
                problem = f"{uri} names hardware, and a key in a file of that name could be copied, so none was made"
                raise UsageError(problem, f"Write {match.expand(meant)}, or {parsed} if you want that file")
        return parsed

    @classmethod
    def of(cls, uri: str | KeyURI) -> KeyURI:
        """Return a key URI, parsed if it is text; raises as `parse`."""
        return uri if isinstance(uri, KeyURI) else cls.parse(uri)

    @classmethod
    def _parse(cls, text: str) -> KeyURI:
        if not isinstance(text, str):
            raise UsageError(f"the key URI is of type {type(text).__name__}, not str", "Pass text")
        _check_is_place(text)
        if text == "-" or text.startswith("-?"):
            text = f"fd:0{text[1:]}"
        start, colon, rest = text.partition(":")
        scheme = start.lower()
        if not text or "\0" in text:
            raise UsageError("a key URI or path is empty or has a NUL character", "Name a key")
        if not colon or not (scheme in SHORT_FORMS or find_backend(scheme)):
            return cls("file", {"path": _bytes(text)})
        body, _, query_text = rest.partition("?")
        query = _attributes(scheme, query_text, "&")
        pin_value = query.pop("pin-value", None)
        pin = None if pin_value is None else _decode(scheme, "pin-value", pin_value)
        if scheme == "file":
            return cls("file", {"path": _file_path(body)}, query, pin)
        if scheme in _INHERITED:
            return cls(scheme, {"name": _inherited_name(scheme, body)}, query, pin)
        if scheme in SHORT_FORMS:
            return cls(SHORT_FORMS[scheme], {scheme: _value(scheme, scheme, body)}, query, pin)
        path = _attributes(scheme, body, ";")
        for name in _PINS & path.keys():
            raise UsageError(f"a {scheme}: URI has {name} before its question mark", f"Write …?{name}=…")
        return cls(scheme, path, query, pin)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeyURI):
            return NotImplemented
        return (self.scheme, self.path, self.query) == (other.scheme, other.path, other.query)

    def __hash__(self) -> int:
        return hash((self.scheme, frozenset(self.path.items()), frozenset(self.query.items())))

    def __str__(self) -> str:
        """Return the URI without its `pin-value`, such that `parse(str(uri)) == uri`."""
        if self.scheme == "file":
            path = quote(self.path["path"], safe="/")
            path = f"//{path}" if path.startswith("//") else path  # Else its start would be an authority.
        elif self.scheme in _INHERITED:
            path = self.path["name"].decode()
        else:
            safe = _SAFE_IN_PATH if self.scheme == "pkcs11" else _SAFE_IN_PATH + "/"
            path = ";".join(f"{name}={_quoted(name, value, safe)}" for name, value in self.path.items())
        query = "&".join(f"{name}={_quoted(name, value, _SAFE_IN_QUERY)}" for name, value in self.query.items())
        return f"{self.scheme}:{path}?{query}" if query else f"{self.scheme}:{path}"

    def __repr__(self) -> str:
        return f"<KeyURI {self}>"

    @property
    def backend(self) -> Backend:
        """The backend for the scheme.

        Raises:
            UsageError: there is none.
        """
        found = BACKENDS.get(self.scheme) or find_backend(self.scheme)
        if found is None:
            raise UsageError(f"no backend is installed for {self.scheme}: keys", "Install its package")
        return found

    @property
    def name(self) -> str:
        """The name to use in messages: a file's path, or the URI without its query."""
        if self.scheme == "file":
            return self.file
        return "standard input" if self.is_standard_input else str(KeyURI(self.scheme, self.path))

    @property
    def is_standard_input(self) -> bool:
        """Whether it names standard input."""
        return self.scheme == "fd" and self.path["name"] == b"0"

    @property
    def place(self) -> tuple[object, ...]:
        """What one PIN unlocks: the file, or the token without the object on it. Equal for URIs that share a PIN."""
        if self.scheme == "file":
            return self.scheme, os.path.realpath(self.file)
        return self.scheme, frozenset(self.token.path.items()), frozenset(self.without_pin().query.items())

    @property
    def has_pin(self) -> bool:
        """Whether it has a PIN, or says where one is."""
        return self.pin_value is not None or "pin-source" in self.query

    @property
    def token(self) -> KeyURI:
        """This URI without the attributes that name an object on the token."""
        names = self.backend.object_attributes
        return self.changed(path={name: value for name, value in self.path.items() if name not in names})

    def resolved(self) -> KeyURI:
        """Return the URI with the scheme of the backend that opens it: a file's content may make it a TPM's key."""
        # A pipe can be read only once, by the file backend.
        if self.scheme != "file" or not os.path.isfile(self.file):
            return self
        try:
            with open(self.file, "rb", buffering=0) as file:
                start = file.read(_START_BYTES)
        except OSError:
            return self  # The file backend reports it.
        for scheme, backend in tuple(BACKENDS.items()):
            if backend.recognises and backend._guarded(scheme, backend.module, backend.recognises)(start):
                return KeyURI(scheme, self.path, self.query, self.pin_value)
        return self

    def without_pin(self) -> KeyURI:
        """Return this URI without its `pin-value` and `pin-source`."""
        return KeyURI(self.scheme, self.path, {name: text for name, text in self.query.items() if name not in _PINS})

    def with_pin_of(self, other: KeyURI) -> KeyURI:
        """Return this URI; if it has no PIN of its own, with the `pin-value` and `pin-source` of another."""
        if self.has_pin:
            return self
        source = {name: value for name, value in other.query.items() if name == "pin-source"}
        return KeyURI(self.scheme, self.path, {**self.query, **source}, other.pin_value)

    def text(self, name: str) -> str | None:
        """Return an attribute of the path, or else of the query, as text; None if it is absent.

        Raises:
            UsageError: the attribute is not UTF-8.
        """
        value = self.path.get(name, self.query.get(name))
        return None if value is None else _decode(self.scheme, name, value)

    def changed(self, *, path: Mapping[str, bytes] | None = None, query: Mapping[str, bytes] | None = None) -> KeyURI:
        """Return this URI with another path or query."""
        path, query = self.path if path is None else path, self.query if query is None else query
        return KeyURI(self.scheme, path, query, self.pin_value)

    def with_query(self, name: str, value: str) -> KeyURI:
        """Return this URI with one query attribute set."""
        return self.changed(query={**self.query, name: value.encode("utf-8", "surrogateescape")})

    def require_known(self, path: Set[str], query: Set[str]) -> None:
        """Check that the backend knows every attribute; it would ignore a misspelt one.

        Args:
            path: the path attributes that it knows.
            query: the query attributes that it knows. `pin-value` and `pin-source` are always known.

        Raises:
            UsageError: it does not know an attribute. The message names the first.
        """
        query = query | _PINS
        for given, known, place in ((self.path, path, "after"), (self.query, query, "before")):
            for name in given:
                if name not in known:
                    hint = suggestion(name, known, f"Known here: {', '.join(sorted(known))}")
                    if name in path | query:
                        hint = f"Write {name}=… {place} the question mark"
                    raise UsageError(f"{self.scheme}: URIs have no attribute {name!r}", hint)


def in_full(place: str | KeyURI) -> str:
    """Return a path or key URI as a profile keeps it: with the full path of its file, and without a PIN."""
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


def check_no_pin(value: bytes) -> None:
    """Check that a path or an attribute's value does not contain what was meant as the URI's PIN.

    The error does not quote it.
    """
    if _MISPLACED_PIN.search(value):
        hint = "Write SCHEME:…?name=value&name=value, for a file file:/path?pin-source=file:/path"
        raise UsageError("a key URI or path has a pin-value or pin-source in the wrong place", hint)


def _check_is_place(text: str) -> None:
    """Refuse a text that is a key itself, as an expanded $KEY would be, without quoting it as a missing path."""
    if text.startswith(_PEM_STARTS) or re.match(_DER_START, text):
        raise UsageError("a key or certificate is given where its place is wanted", "For a variable, write env:NAME")


def _inherited_name(scheme: str, body: str) -> bytes:
    """Return the name of a variable, or the number of an open file. One that is not valid may be the key itself."""
    _check_is_place(body)  # The base64 of a key may be a valid name too.
    if scheme == "env" and body.isascii() and body.isidentifier():
        return body.encode()
    if scheme == "fd" and body.isascii() and body.isdigit() and len(body) < 6:
        return b"%d" % int(body)
    raise UsageError(f"the {scheme}: URI has no valid name", _INHERITED[scheme])


def _attributes(scheme: str, text: str, separator: str) -> dict[str, bytes]:
    attributes: dict[str, bytes] = {}
    for item in filter(None, text.split(separator)):
        name, equals, value = item.partition("=")
        # Only the name goes into a message: the value may be a PIN.
        if not name or not equals:
            example = _EXAMPLES.get(scheme, "name=value")
            hint = f"Write {scheme}:{example}, and a semicolon in a value as %3B"
            if scheme == "tpm2" and re.fullmatch(r"(0x)?81[0-9a-f]{6}", item, re.IGNORECASE):
                hint = f"Write handle:0x{item[-8:]}"
            raise UsageError(f"the {scheme}: URI has a part that is not name=value", hint)
        if name in attributes:
            raise UsageError(f"a {scheme}: URI gives {name!r} twice", "Give it once")
        if separator == "&" and (";" in value or (name == "pin-value" and "?" in value)):
            # RFC 7512, 2.3, allows neither there, and what follows would become part of a PIN.
            hint = "Split a query's attributes by &, and write a semicolon as %3B and a question mark as %3F"
            raise UsageError(f"a {scheme}: URI has a semicolon or question mark in {name!r}", hint)
        # The label of a token or of an object on it may have a NUL character.
        attributes[name] = _value(scheme, name, value, allow_nul=separator == ";" and name != "path")
    return attributes


def _value(scheme: str, name: str, value: str, *, allow_nul: bool = False) -> bytes:
    if re.search(_BAD_PERCENT, value):
        raise UsageError(f"a {scheme}: URI has a bad percent-encoding in {name!r}", "Write a percent sign as %25")
    decoded = unquote_to_bytes(_bytes(value))
    if b"\0" in decoded and not (allow_nul or name in _BINARY):
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
        raise UsageError("a key URI or path has a character that is not Unicode text", "Leave it out") from None


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
