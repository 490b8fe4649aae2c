"""Questions: how subject alternative names become session tags, and what attribute mappings change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from cryptography import x509
from cryptography.x509 import DirectoryName, DNSName, GeneralName, IPAddress, RFC822Name, UniformResourceIdentifier

from hwsigner.trial.questions import Source, choice
from trial_aws.authority import name_of
from trial_aws.plan import AWSQuestion
from trial_aws.probes import Probe, ProbeTable, Reading, equals, lacks, put_mapping
from trial_aws.sources import MAPPING, SESSION_TAGS, UNMAPPED_NAMES
from trial_aws.tags import unmapped
from trial_aws.wanted import WantedProfile

_CONDITIONS = "docs/how-to/aws.md#what-each-condition-means"
_FACTS = "docs/how-to/aws.md#what-aws-documents-and-what-was-only-observed"
_SANS = "hwsigner/emulator/tags.py: _alternative_tags"
_LATER = "hwsigner/emulator/tags.py: _later_dns_names"
_MAPPED = "hwsigner/emulator/tags.py: _is_mapped"
_EMULATOR = "docs/how-to/emulator.md#more-than-one-profile"
_DNS, _URI = "x509SAN/DNS", "x509SAN/URI"
_FIRST, _LAST, _BOTH, _NO_TAG = "the first", "the last", "both, joined by a slash", "no tag"
_NONE = "none of these"
_IGNORED = "ignored, and the session is given out"


def _directory(*names: tuple[str, str]) -> DirectoryName:
    return DirectoryName(name_of(names))


def _two(name: str, what: str, tag: str, values: tuple[str, str], san: Sequence[GeneralName]) -> Probe:
    """Return a question about two names of one kind."""
    first, last = values
    readings = {_FIRST: equals(tag, first), _BOTH: equals(tag, f"{first}/{last}"), _LAST: equals(tag, last)}
    return Probe(
        f"san.{name}",
        f"Which of two {what} becomes the tag {tag}?",
        _FIRST,
        MAPPING,
        (_CONDITIONS, _SANS),
        (*(Reading(answer, condition) for answer, condition in readings.items()), Reading(_NO_TAG, lacks(tag))),
        san=san,
        otherwise=_NONE,
    )


def _odd(name: str, what: str, expected: str, source: Source, tag: str, san: Sequence[GeneralName]) -> Probe:
    """Return a question about a value that can't be a tag."""
    there = Reading("the tag is there", {"Null": {f"aws:PrincipalTag/{tag}": "false"}})
    return Probe(
        f"san.{name}",
        f"What becomes of {what}?",
        expected,
        source,
        (_FACTS, _LATER, "hwsigner/emulator/tags.py: _is_tag"),
        (there, Reading("the tag is missing", lacks(tag))),
        san=san,
    )


def _ignored(name: str, what: str, san: GeneralName, *tags: str) -> Probe:
    """Return a question about a kind of name that is not mapped."""
    missing = {"Null": {f"aws:PrincipalTag/{tag}": "true" for tag in tags}}
    readings = Reading(_IGNORED, missing), Reading("a tag", {"Null": {f"aws:PrincipalTag/{tags[0]}": "false"}})
    return Probe(
        f"san.{name}", f"What becomes of {what}?", _IGNORED, MAPPING, (_CONDITIONS, _SANS), readings, san=(san,)
    )


_SAN_PROBES = [
    _two("dns", "DNS names", _DNS, ("b.example", "a.example"), (DNSName("b.example"), DNSName("a.example"))),
    _two(
        "uri",
        "URIs",
        _URI,
        ("spiffe://example/b", "spiffe://example/a"),
        (UniformResourceIdentifier("spiffe://example/b"), UniformResourceIdentifier("spiffe://example/a")),
    ),
    _two(
        "directory-name",
        "directory names",
        "x509SAN/Name/CN",
        ("b", "a"),
        (_directory(("CN", "b"), ("O", "x")), _directory(("CN", "a"))),
    ),
    Probe(
        "san.directory-name-ous",
        "What becomes of two OUs, b and then a, of a directory name?",
        "b/a",
        choice("they are joined as those of the subject are"),
        (_FACTS, _SANS),
        (
            Reading("b/a", equals("x509SAN/Name/OU", "b/a")),
            Reading("b", equals("x509SAN/Name/OU", "b")),
            Reading(_NO_TAG, lacks("x509SAN/Name/OU")),
        ),
        san=(_directory(("OU", "b"), ("OU", "a")),),
        otherwise=_NONE,
    ),
    _odd(
        "dns-wildcard", "a DNS name with an asterisk", unmapped(san="DNS"), SESSION_TAGS, _DNS, (DNSName("*.example"),)
    ),
    _odd(
        "dns-second-wildcard",
        "a second DNS name that can't be a tag",
        unmapped(san="DNS/2"),
        UNMAPPED_NAMES,
        _DNS,
        (DNSName("a.example"), DNSName("*.example")),
    ),
    _odd(
        "dns-third-wildcard",
        "a third DNS name that can't be a tag",
        unmapped(san="DNS/3"),
        choice("as the second, with its number"),
        _DNS,
        (DNSName("a.example"), DNSName("b.example"), DNSName("*.example")),
    ),
    _odd(
        "uri-query",
        "a URI with a question mark",
        unmapped(san="URI"),
        SESSION_TAGS,
        _URI,
        (UniformResourceIdentifier("https://example/?a"),),
    ),
    _odd(
        "uri-second",
        "a second URI that can't be a tag",
        "the tag is there",
        choice("users saw a later DNS name refused, and no other kind of name"),
        _URI,
        (UniformResourceIdentifier("https://example/"), UniformResourceIdentifier("https://example/?a")),
    ),
    _odd(
        "directory-name-ampersand",
        "a directory name with an ampersand",
        unmapped(san="Name/O"),
        SESSION_TAGS,
        "x509SAN/Name/O",
        (_directory(("O", "R&D")),),
    ),
    _ignored("email", "an e-mail address", RFC822Name("trial@example.com"), "x509SAN/Email", "x509SAN/RFC822"),
    _ignored("email-odd", "an e-mail address with an ampersand", RFC822Name("r&d@example.com"), "x509SAN/Email"),
    _ignored("ip", "an IP address", IPAddress(IPv4Address("192.0.2.1")), "x509SAN/IP", "x509SAN/IPAddress"),
    _ignored(
        "other-name",
        "a user principal name",
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a"),
        "x509SAN/UPN",
        "x509SAN/OtherName",
    ),
]

_OU = "x509Subject/OU"
_AMPERSAND = (("OU", "R&D"),)


def _mapping(name: str, text: str, profile: str, readings: Sequence[Reading], **more: object) -> Probe:
    """Return a question about a profile with other attribute mappings. The first reading is expected."""
    made = Probe(
        f"mappings.{name}", text, readings[0].answer, MAPPING, (_EMULATOR, _MAPPED), tuple(readings), profile=profile
    )
    return replace(made, **more)  # type: ignore[arg-type]


_MAPPING_PROBES = [
    _mapping(
        "left-out",
        "Is the first DNS name a tag if the profile's mappings leave out the subject alternative names?",
        "unmapped",
        [Reading(_NO_TAG, lacks(_DNS)), Reading("a tag", equals(_DNS, "a.example"))],
        san=(DNSName("a.example"),),
    ),
    _mapping(
        "left-out-odd",
        "Is a second DNS name that can't be a tag ignored if the mappings leave it out?",
        "unmapped",
        [Reading(_IGNORED, lacks(_DNS))],
        san=(DNSName("a.example"), DNSName("*.example")),
    ),
    _mapping(
        "narrowed",
        "Is the OU a tag if the mappings of the subject have the CN only?",
        "narrow",
        [Reading(_NO_TAG, lacks(_OU)), Reading("a tag", equals(_OU, "a"))],
        names=(("OU", "a"),),
    ),
    _mapping(
        "narrowed-odd",
        "Is an OU with an ampersand ignored if the mappings of the subject have the CN only?",
        "narrow",
        [Reading(_IGNORED, lacks(_OU))],
        names=_AMPERSAND,
    ),
    _mapping(
        "added",
        "Is the OU a tag if the mappings of the subject have the CN and the OU?",
        "added",
        [Reading("a tag", equals(_OU, "a")), Reading(_NO_TAG, lacks(_OU))],
        names=(("OU", "a"),),
    ),
    _mapping(
        "added-only",
        "Is the L a tag if the mappings of the subject have the CN and the OU?",
        "added",
        [Reading(_NO_TAG, lacks("x509Subject/L")), Reading("a tag", equals("x509Subject/L", "a"))],
        names=(("L", "a"),),
    ),
    _mapping(
        "san-name",
        "Is the O of a directory name a tag if the mappings have its CN only?",
        "narrow",
        [Reading(_NO_TAG, lacks("x509SAN/Name/O")), Reading("a tag", equals("x509SAN/Name/O", "a"))],
        san=(_directory(("CN", "a"), ("O", "a")),),
    ),
    _mapping(
        "san-name-kept",
        "Is the CN of a directory name a tag if the mappings have its CN only?",
        "narrow",
        [Reading("a tag", equals("x509SAN/Name/CN", "a")), Reading(_NO_TAG, lacks("x509SAN/Name/CN"))],
        san=(_directory(("CN", "a"), ("O", "a")),),
    ),
]


_PROFILES = [
    WantedProfile("unmapped", then=(("delete_attribute_mapping", {"certificateField": "x509SAN"}),)),
    WantedProfile("narrow", then=(put_mapping("x509Subject", "CN"), put_mapping("x509SAN", "Name/CN"))),
    WantedProfile("added", then=(put_mapping("x509Subject", "CN", "OU"),)),
]


QUESTIONS: list[AWSQuestion] = [
    *ProbeTable("san", _SAN_PROBES).questions,
    *ProbeTable("mappings", _MAPPING_PROBES, _PROFILES).questions,
]
