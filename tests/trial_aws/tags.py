"""What asks how the names of a certificate become session tags, and what attribute mappings change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.x509 import DirectoryName, DNSName, GeneralName, UniformResourceIdentifier

from trial_aws.authority import Names, name_of
from trial_aws.plan import Ask
from trial_aws.probes import REFUSED, TAG_KEY, Condition, Probe, ProbeTable, Reading, equals, lacks, put_mapping
from trial_aws.wanted import WantedProfile

_AS_IT_IS, _NO_TAG, _A_TAG = "a tag with this value", "no tag", "a tag"
_NEITHER, _NONE = "neither: the tag has another value", "none of these"
_IGNORED = "ignored, and the session is given out"
_TITLE = "2.5.4.12"
_OU, _DNS, _URI = "x509Subject/OU", "x509SAN/DNS", "x509SAN/URI"


def unmapped(*, subject: str = "", san: str = "", issuer: str = "") -> str:
    """Return the refusal of names that can't be session tags, as users saw it."""
    shown = f"Issuer: [ {issuer} ]; Subject: [ {subject} ]; SAN: [ {san} ]"
    return f"{REFUSED}: Some attributes failed to be mapped into session tags. {shown}"


def _becomes(tag: str, value: str) -> tuple[Reading, Reading]:
    """Return the readings of a name: it is a tag with a value, or no tag."""
    return Reading(_AS_IT_IS, equals(tag, value)), Reading(_NO_TAG, lacks(tag))


def _of_ou(value: str) -> Probe:
    return Probe(_becomes(_OU, value), (("OU", value),), otherwise=_NEITHER)


def _read(
    tag: str, readings: Mapping[str, str], subject: Names | x509.Name = (), san: Sequence[GeneralName] = ()
) -> Probe:
    """Return what tells the values of a tag apart, by the answer that each one is."""
    found = (*(Reading(answer, equals(tag, value)) for answer, value in readings.items()), Reading(_NO_TAG, lacks(tag)))
    return Probe(found, subject, san, "O" if tag == "x509Subject/CN" else "CN", _NONE)


_NAMES = {
    "O": "an organization",
    "OU": "a unit",
    "C": "DE",
    "ST": "a state",
    "L": "a town",
    "SN": "a surname",
    "GN": "a given name",
    "DC": "example",
    "SERIALNUMBER": "Number 7",
    "UID": "a user",
}
_EACH: Condition = {"StringEquals": {f"{TAG_KEY}x509Subject/{name}": value for name, value in _NAMES.items()}}
_TITLE_TAGS = ("x509Subject/T", "x509Subject/TITLE")
_TITLE_MISSING: Condition = {"Null": {TAG_KEY + tag: "true" for tag in _TITLE_TAGS}}
_TITLE_THERE: Condition = {"Null": {f"{TAG_KEY}x509Subject/{_TITLE}": "false"}}
_B_THEN_A = {"b/a": "b/a", "a/b": "a/b", "b, the first": "b", "a, the last": "a"}
_ONE_RDN = x509.Name([x509.RelativeDistinguishedName(name_of((("OU", "a"), ("OU", "b"))))])
_TAGS = {
    "names": Probe((Reading("each does", _EACH),), tuple(_NAMES.items()), otherwise="not each does"),
    "email": _read(
        "x509Subject/E",
        {_AS_IT_IS: "Trial@Example.com", "a tag in lower case": "trial@example.com"},
        (("E", "Trial@Example.com"),),
    ),
    "two-ous": _read(_OU, _B_THEN_A, (("OU", "b"), ("OU", "a"))),
    "one-rdn": _read(
        _OU, {"a/b": "a/b", "a+b": "a+b", "a, the first": "a", "b, the last": "b", "a+OU=b": "a+OU=b"}, _ONE_RDN
    ),
    "ampersand": _of_ou("R&D"),
    "parentheses": _of_ou("unit (old)"),
    "punctuation": _of_ou("_.:/=+-@"),
    "umlauts": _of_ou("B\u00fccher \u00d8\u00df"),
    "256": _of_ou("a" * 256),
    "257": _of_ou("a" * 257),
    "title": Probe(
        (Reading(_IGNORED, _TITLE_MISSING), Reading(f"the tag x509Subject/{_TITLE}", _TITLE_THERE)), ((_TITLE, "R&D"),)
    ),
    "issuer": Probe(_becomes("x509Issuer/CN", "intermediate"), otherwise=_NEITHER),
}


def _of_two(tag: str, first: str, last: str, *san: GeneralName) -> Probe:
    readings = {"the first": first, "both, joined by a slash": f"{first}/{last}", "the last": last}
    return _read(tag, readings, san=san)


def _second_odd(tag: str, *san: GeneralName) -> Probe:
    """Return what tells whether a name is a tag if the second one of its kind can't be one."""
    there = Reading("the tag is there", {"Null": {TAG_KEY + tag: "false"}})
    return Probe((there, Reading("the tag is missing", lacks(tag))), san=san)


def _directory(*names: tuple[str, str]) -> DirectoryName:
    return DirectoryName(name_of(names))


_SANS = {
    "dns": _of_two(_DNS, "b.example", "a.example", DNSName("b.example"), DNSName("a.example")),
    "uri": _of_two(
        _URI,
        "spiffe://example/b",
        "spiffe://example/a",
        *(UniformResourceIdentifier(f"spiffe://example/{each}") for each in "ba"),
    ),
    "directory-name": _of_two(
        "x509SAN/Name/CN", "b", "a", _directory(("CN", "b"), ("O", "x")), _directory(("CN", "a"))
    ),
    "dns-second-wildcard": _second_odd(_DNS, DNSName("a.example"), DNSName("*.example")),
}


def _mapped(profile: str, tag: str, value: str, subject: Names = (), *san: GeneralName) -> Probe:
    """Return what tells whether a profile's mappings leave a name out."""
    readings = Reading(_NO_TAG, lacks(tag)), Reading(_A_TAG, equals(tag, value))
    return Probe(readings, subject, san, profile=profile)


def _odd(profile: str, tag: str, subject: Names = (), *san: GeneralName) -> Probe:
    """Return what tells whether a name that can't be a tag is ignored if it is not mapped."""
    return Probe((Reading(_IGNORED, lacks(tag)),), subject, san, profile=profile)


_UNIT = (("OU", "a"),)
_MAPPINGS = {
    "left-out": _mapped("unmapped", _DNS, "a.example", (), DNSName("a.example")),
    "narrowed": _mapped("narrow", _OU, "a", _UNIT),
    "narrowed-odd": _odd("narrow", _OU, (("OU", "R&D"),)),
    "san-name": _mapped("narrow", "x509SAN/Name/O", "a", (), _directory(("CN", "a"), ("O", "a"))),
}
_PROFILES = (
    WantedProfile("unmapped", then=(("delete_attribute_mapping", {"certificateField": "x509SAN"}),)),
    WantedProfile("narrow", then=(put_mapping("x509Subject", "CN"), put_mapping("x509SAN", "Name/CN"))),
)
ASKS: dict[str, Ask] = {
    **ProbeTable("tags", _TAGS).asks,
    **ProbeTable("san", _SANS).asks,
    **ProbeTable("mappings", _MAPPINGS, _PROFILES).asks,
}
