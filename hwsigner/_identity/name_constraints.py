"""Name constraints of CAs (RFC 5280, 4.2.1.10): which names of a certificate a CA above it does not allow.

The reading is that of OpenSSL, which also compares a common name that may be a host's with constraints on DNS names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from hwsigner._identity.certificate import Certificate, extension_of

_LABEL = r"\w(?:[\w-]*\w)?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})+", re.ASCII)


def forbidden_names(certificate: Certificate, ca: Certificate) -> Iterator[str]:
    """Yield the names of a certificate that a CA above it does not allow, in words."""
    constraints = extension_of(ca.x509.extensions, x509.NameConstraints)
    if constraints is None:
        return
    for name in _names(certificate.x509):
        permitted = [each for each in constraints.permitted_subtrees or () if type(each) is type(name)]
        excluded = [each for each in constraints.excluded_subtrees or () if type(each) is type(name)]
        is_within = _WITHIN.get(type(name), lambda value, base: None)
        allowed = [is_within(name.value, each.value) for each in permitted]
        denied = [is_within(name.value, each.value) for each in excluded]
        # Of a name or a constraint that can't be compared, nothing good is known.
        if (permitted and True not in allowed) or not all(each is False for each in denied):
            yield _in_words(name)


def _names(certificate: x509.Certificate) -> Iterator[x509.GeneralName]:
    alternative = extension_of(certificate.extensions, x509.SubjectAlternativeName) or ()
    if certificate.subject:
        yield x509.DirectoryName(certificate.subject)
    for attribute in certificate.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS):
        yield from _made(x509.RFC822Name, str(attribute.value))
    yield from alternative
    is_leaf = not (basic := extension_of(certificate.extensions, x509.BasicConstraints)) or not basic.ca
    if is_leaf and not any(isinstance(each, x509.DNSName) for each in alternative):
        for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
            if _HOST.fullmatch(str(attribute.value)):
                yield from _made(x509.DNSName, str(attribute.value))


def _made(kind: Callable[[str], x509.GeneralName], text: str) -> Iterator[x509.GeneralName]:
    try:
        yield kind(text)
    except ValueError:  # It is not ASCII.
        return


def _dns_within(name: str, base: str) -> bool:
    name, base = name.lower(), base.lower()
    return not base or name == base or name.endswith(base if base.startswith(".") else f".{base}")


def _directory_within(name: x509.Name, base: x509.Name) -> bool:
    return [*map(_folded, name.rdns)][: len(base.rdns)] == [*map(_folded, base.rdns)]


def _folded(part: x509.RelativeDistinguishedName) -> frozenset[tuple[str, str]]:
    return frozenset((each.oid.dotted_string, " ".join(str(each.value).lower().split())) for each in part)


def _host_within(host: str, base: str) -> bool:
    """Return whether a host is the one of a constraint on URIs or mail, or in its domain, which begins with a dot."""
    host, base = host.lower(), base.lower()
    return not base or (host.endswith(base) and host != base if base.startswith(".") else host == base)


def _uri_within(name: str, base: str) -> bool | None:
    try:
        host = urlsplit(name).hostname
    except ValueError:
        host = None
    return _host_within(host, base) if host else None


def _mail_within(name: str, base: str) -> bool:
    if "@" in base and not base.startswith("@"):
        local, _, host = base.rpartition("@")
        return name.rpartition("@")[0] == local and name.rpartition("@")[2].lower() == host.lower()
    return _host_within(name.rpartition("@")[2], base.removeprefix("@"))


# Whether a name is within a subtree, or None if that is not known; by the kind of name.
_WITHIN: dict[type, Callable[[Any, Any], bool | None]] = {
    x509.DNSName: _dns_within,
    x509.DirectoryName: _directory_within,
    x509.UniformResourceIdentifier: _uri_within,
    x509.RFC822Name: _mail_within,
    x509.IPAddress: lambda name, base: name in base,
}


def _in_words(name: x509.GeneralName) -> str:
    kinds = {x509.DNSName: "DNS name", x509.UniformResourceIdentifier: "URI", x509.RFC822Name: "mail address"}
    if isinstance(name, x509.DirectoryName):
        return f"the name {name.value.rfc4514_string()}"
    kind = kinds.get(type(name), "IP address" if isinstance(name, x509.IPAddress) else "name")
    return f"the {kind} {str(name.value)!r}"
