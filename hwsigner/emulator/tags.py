"""What a session takes from its certificate: principal tags, source identity, subject ARN and default session name."""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Iterator, Mapping, Sequence

from cryptography import x509
from cryptography.x509.oid import NameOID

from hwsigner.emulator.arns import Arn
from hwsigner.emulator.differences import NONE, Difference, Differences
from hwsigner.emulator.refusals import denied
from hwsigner.errors import ConfigError

# The certificate's fields, as tags and the service's message name them.
_FIELDS = {"x509Issuer": "Issuer", "x509Subject": "Subject", "x509SAN": "SAN"}
_MAX_PREFIXED_NAME = 61
_NAMES = {
    NameOID.COMMON_NAME: "CN",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.COUNTRY_NAME: "C",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.LOCALITY_NAME: "L",
    NameOID.SURNAME: "SN",
    NameOID.GIVEN_NAME: "GN",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.SERIAL_NUMBER: "SERIALNUMBER",
    NameOID.EMAIL_ADDRESS: "E",
    NameOID.USER_ID: "UID",
}


# A profile's attribute mappings: for each field of the certificate, the specifiers of what becomes a tag.
Mappings = Mapping[str, tuple[str, ...]]
DEFAULT_MAPPINGS: Mappings = {"x509Subject": ("*",), "x509Issuer": ("*",), "x509SAN": ("DNS", "URI", "Name/*")}


def parse_mappings(mappings: Mapping[str, Sequence[str]]) -> Mappings:
    """Check attribute mappings, such as {"x509Subject": ["CN", "OU"]}. A field that is missing is not mapped.

    A field or specifier that is unknown, or that has no documented meaning, is a ConfigError.
    """
    parsed = {}
    for field, specifiers in mappings.items():
        known = ["*", *_NAMES.values()]
        if field == "x509SAN":
            known = ["DNS", "URI", "Name", "Name/", *(f"Name/{name}" for name in known)]
        is_list = isinstance(specifiers, list | tuple) and all(each in known for each in specifiers)
        if field not in _FIELDS or not is_list:
            given = list(specifiers) if isinstance(specifiers, tuple) else specifiers
            problem = f"the attribute mapping {field} = {given!r} is not known"
            raise ConfigError(problem, "Subject and issuer have * or names such as CN; SANs have DNS, URI and Name/*")
        parsed[field] = tuple("Name/*" if each in ("Name", "Name/") else each for each in specifiers)
    return parsed


def principal_tags(
    leaf: x509.Certificate, role_arn: str, mappings: Mappings = DEFAULT_MAPPINGS, *, differing: Differences = NONE
) -> dict[str, str]:
    """Return the session's tags x509Subject/…, x509Issuer/… and x509SAN/…, by a profile's attribute mappings.

    As AWS documents ("Trust policy" in the Roles Anywhere User Guide), the first SAN of each kind is mapped. Several
    values of a name, such as two OUs, are joined by slashes in the certificate's order: that was read, and never seen.
    Later DNS names give no tag, but must be such that they could: users saw "SAN: [ DNS/2 ]" refused. A value with
    characters that session tags can't have, or with more than 256, is refused.
    """
    values: dict[tuple[str, str], list[str]] = {}
    for field, name, value in (
        *_name_tags("x509Subject", leaf.subject, differing=differing),
        *_name_tags("x509Issuer", leaf.issuer, differing=differing),
        *_alternative_tags(leaf, differing),
    ):
        if _is_mapped(name, mappings.get(field, ())):
            values.setdefault((field, name), []).append(value)
    joined = {
        tag: parts[0] if Difference.FIRST_VALUE in differing else "/".join(parts) for tag, parts in values.items()
    }
    if Difference.BAD_NAMES_IGNORED in differing:
        joined = {tag: value for tag, value in joined.items() if _is_tag(value)}
    is_checked = differing.isdisjoint((Difference.BAD_NAMES_IGNORED, Difference.LATER_DNS_IGNORED))
    later = _later_dns_names(leaf) if is_checked and _is_mapped("DNS", mappings.get("x509SAN", ())) else {}
    unmapped = {
        field: [name for (full, name), value in (joined | later).items() if full == field and not _is_tag(value)]
        for field in _FIELDS
    }
    if any(unmapped.values()):
        shown = "; ".join(f"{title}: [ {', '.join(unmapped[field])} ]" for field, title in _FIELDS.items())
        raise denied(
            f"Unable to assume role for {role_arn}. Some attributes failed to be mapped into session tags. {shown}"
        )
    return {f"{field}/{name}": value for (field, name), value in joined.items()}


def source_identity(leaf: x509.Certificate, role_arn: str, differing: Differences = NONE) -> str:
    """Return the session's source identity, by "Source identity rules" in the Roles Anywhere User Guide.

    It is the subject's CN after "CN=", or alone if it has 62 characters or more. Without a CN it is the serial number
    after "ID=". A CN with characters that a source identity can't have is refused.
    """
    names = [str(each.value) for each in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not names:
        return f"ID={default_session_name(leaf, differing)}"
    name = "/".join(names)
    if not _is_tag(name):
        raise denied(f"Unable to assume role for {role_arn}", "the CN has characters that a source identity can't have")
    is_bare = len(name) > _MAX_PREFIXED_NAME or Difference.BARE_SOURCE_IDENTITY in differing
    return name if is_bare else f"CN={name}"


def default_session_name(leaf: x509.Certificate, differing: Differences = NONE) -> str:
    """Return the serial number in lower-case hexadecimal, two digits per byte."""
    digits = f"{leaf.serial_number:{'X' if Difference.UPPER_CASE_SERIAL in differing else 'x'}}"
    return digits.zfill(len(digits) + len(digits) % 2)


def subject_arn(leaf: x509.Certificate, role: Arn, region: str, *, differing: Differences = NONE) -> str:
    """Return the ARN of the certificate's subject, in a role's account. Equal subjects have equal ARNs."""
    issuer = leaf.issuer.rfc4514_string() if Difference.SUBJECT_BY_CA in differing else ""
    name = uuid.uuid5(uuid.NAMESPACE_X500, leaf.subject.rfc4514_string() + issuer)
    return f"arn:{role.partition}:rolesanywhere:{region}:{role.account}:subject/{name}"


def _is_mapped(name: str, specifiers: tuple[str, ...]) -> bool:
    return name in specifiers or ("Name/*" if name.startswith("Name/") else "*") in specifiers


def _name_tags(
    field: str, name: x509.Name, prefix: str = "", *, differing: Differences
) -> Iterator[tuple[str, str, str]]:
    """Yield the field, the tag's name in it, and the value of each known attribute."""
    for attribute in name:
        if attribute.oid in _NAMES or Difference.OID_TAGS in differing:
            yield field, prefix + _NAMES.get(attribute.oid, attribute.oid.dotted_string), str(attribute.value)


def _alternative_names(leaf: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


def _later_dns_names(leaf: x509.Certificate) -> dict[tuple[str, str], str]:
    names = _alternative_names(leaf).get_values_for_type(x509.DNSName)
    return {("x509SAN", f"DNS/{number}"): name for number, name in enumerate(names[1:], start=2)}


def _alternative_tags(leaf: x509.Certificate, differing: Differences) -> Iterator[tuple[str, str, str]]:
    names = _alternative_names(leaf)
    for value in names.get_values_for_type(x509.DNSName)[:1]:
        yield "x509SAN", "DNS", value
    for value in names.get_values_for_type(x509.UniformResourceIdentifier)[:1]:
        yield "x509SAN", "URI", value
    for directory_name in names.get_values_for_type(x509.DirectoryName)[:1]:
        yield from _name_tags("x509SAN", directory_name, "Name/", differing=differing)


def _is_tag(value: str) -> bool:
    """Return whether STS accepts a value: 256 characters at most of the Unicode classes L, Z and N, and these."""
    return len(value) <= 256 and all(c in "_.:/=+-@" or unicodedata.category(c)[0] in "LZN" for c in value)
