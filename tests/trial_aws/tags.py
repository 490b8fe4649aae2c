"""Questions: how the names of a certificate become session tags."""

from __future__ import annotations

from cryptography import x509

from hwsigner.trial.questions import Source, choice
from trial_aws.authority import OF_CA, CertificateShape, Names, name_of
from trial_aws.plan import AWSQuestion
from trial_aws.probes import REFUSED, Condition, Probe, ProbeTable, Reading, equals, in_words, lacks
from trial_aws.scene import AWSScene
from trial_aws.sources import MAPPING, SESSION_TAGS, TRUST_MODEL, UNMAPPED_NAMES, UNMAPPED_SUBJECT

_FACTS = "docs/how-to/aws.md#what-aws-documents-and-what-was-only-observed"
_CONDITIONS = "docs/how-to/aws.md#what-each-condition-means"
_TAGS = "hwsigner/emulator/tags.py: principal_tags"
_IS_TAG = "hwsigner/emulator/tags.py: _is_tag"
_NAMES = "hwsigner/emulator/tags.py: _name_tags"
_NEITHER = "neither: the tag has another value"
_AS_IT_IS = "a tag with this value"
_NO_TAG = "no tag"
_STREET, _TITLE, _PRIVATE = "2.5.4.9", "2.5.4.12", "1.3.6.1.4.1.32473.1"
_LETTERS = choice("STS takes letters, digits and spaces of every script, and nothing else")


def unmapped(*, subject: str = "", san: str = "", issuer: str = "") -> str:
    """Return the refusal of names that can't be session tags, as users saw it."""
    shown = f"Issuer: [ {issuer} ]; Subject: [ {subject} ]; SAN: [ {san} ]"
    return f"{REFUSED}: Some attributes failed to be mapped into session tags. {shown}"


def becomes(tag: str, value: str) -> tuple[Reading, Reading]:
    """Return the readings of a name: it is a tag with a value, or no tag."""
    return Reading(_AS_IT_IS, equals(tag, value)), Reading(_NO_TAG, lacks(tag))


def _attribute(name: str, value: str) -> Probe:
    tag = f"x509Subject/{name}"
    return Probe(
        f"tags.{name.lower()}",
        f"Does {name} of the subject become the tag {tag}, with its value?",
        _AS_IT_IS,
        MAPPING,
        (_CONDITIONS, "hwsigner/emulator/tags.py: _NAMES"),
        becomes(tag, value),
        ((name, value),),
        known_by="O" if name == "CN" else "CN",
        otherwise=_NEITHER,
    )


_ATTRIBUTES = [
    _attribute(name, value)
    for name, value in {
        "CN": "a name",
        "O": "an organization",
        "OU": "a unit",
        "C": "DE",
        "ST": "a state",
        "L": "a town",
        "SN": "a surname",
        "GN": "a given name",
        "DC": "example",
        "SERIALNUMBER": "Number 7",
        "E": "trial@example.com",
        "UID": "a user",
    }.items()
]


def _several(name: str, text: str, subject: Names | x509.Name, readings: dict[str, str], source: Source) -> Probe:
    """Return a question about several values of one name: readings and the values of the tag by them."""
    tag = "x509Subject/CN" if name == "two-cns" else "x509Subject/OU"
    return Probe(
        f"tags.{name}",
        text,
        next(iter(readings)),
        source,
        (_FACTS, _TAGS),
        (*(Reading(answer, equals(tag, value)) for answer, value in readings.items()), Reading(_NO_TAG, lacks(tag))),
        subject,
        known_by="O" if name == "two-cns" else "CN",
        otherwise="none of these",
    )


def _one_rdn(*pairs: tuple[str, str]) -> x509.Name:
    return x509.Name([x509.RelativeDistinguishedName(name_of(pairs))])


_JOINED = choice("read in several places that the values are joined by slashes, never seen")
_B_THEN_A = {"b/a": "b/a", "a/b": "a/b", "b, the first": "b", "a, the last": "a"}
_SEVERAL = [
    _several("two-ous", "What becomes of two OUs, b and then a?", (("OU", "b"), ("OU", "a")), _B_THEN_A, _JOINED),
    _several("two-cns", "What becomes of two CNs, b and then a?", (("CN", "b"), ("CN", "a")), _B_THEN_A, _JOINED),
    _several(
        "apart",
        "What becomes of two OUs, b and then a, that have another name between them?",
        (("OU", "b"), ("L", "a town"), ("OU", "a")),
        _B_THEN_A,
        _JOINED,
    ),
    _several(
        "same-twice",
        "What becomes of the OU a that is there twice?",
        (("OU", "a"), ("OU", "a")),
        {"a/a": "a/a", "a": "a"},
        _JOINED,
    ),
    _several(
        "one-rdn",
        "What becomes of two OUs, a and b, in one relative distinguished name?",
        _one_rdn(("OU", "a"), ("OU", "b")),
        {"a/b": "a/b", "a+b": "a+b", "a, the first": "a", "b, the last": "b", "a+OU=b": "a+OU=b"},
        _JOINED,
    ),
    _several(
        "mixed-rdn",
        "Is the OU a tag if it and an L are one relative distinguished name?",
        _one_rdn(("OU", "a"), ("L", "a town")),
        {"a": "a", "a+L=a town": "a+L=a town", "a/a town": "a/a town"},
        choice("each attribute counts, whatever name it is in"),
    ),
]


def _character(name: str, words: str, value: str, expected: str, source: Source) -> Probe:
    """Return a question about an OU with a value that may not be a tag."""
    return Probe(
        f"tags.{name}",
        f"What becomes of an OU with {words}?",
        expected,
        source,
        (_FACTS, _IS_TAG),
        becomes("x509Subject/OU", value),
        (("OU", value),),
        otherwise=_NEITHER,
    )


_NOT_MAPPED = unmapped(subject="OU")
_CHARACTERS = [
    _character("ampersand", "an ampersand", "R&D", _NOT_MAPPED, UNMAPPED_NAMES),
    _character("parentheses", "parentheses", "unit (old)", _NOT_MAPPED, UNMAPPED_SUBJECT),
    _character("comma", "a comma", "a, b", _NOT_MAPPED, SESSION_TAGS),
    _character("asterisk", "an asterisk", "a*", _NOT_MAPPED, SESSION_TAGS),
    _character("apostrophe", "an apostrophe", "a's", _NOT_MAPPED, SESSION_TAGS),
    _character("line-feed", "a line feed", "a\nb", _NOT_MAPPED, SESSION_TAGS),
    _character("punctuation", "each of _.:/=+-@", "_.:/=+-@", _AS_IT_IS, SESSION_TAGS),
    _character("spaces", "spaces at both ends and two in the middle", " a  b ", _AS_IT_IS, _LETTERS),
    _character(
        "umlauts", "letters of Latin that ASCII does not have", "B\u00fccher \u00d8\u00df", _AS_IT_IS, SESSION_TAGS
    ),
    _character(
        "scripts",
        "letters of other scripts",
        "\u6771\u4eac \u041c\u043e\u0441\u043a\u0432\u0430",
        _AS_IT_IS,
        SESSION_TAGS,
    ),
    _character("digits", "digits of another script", "\u0661\u0662", _AS_IT_IS, SESSION_TAGS),
    _character("combining", "a combining mark", "Bu\u0308cher", _NOT_MAPPED, _LETTERS),
    _character("emoji", "an emoji", "\U0001f600", _NOT_MAPPED, _LETTERS),
    _character("256", "256 characters", "a" * 256, _AS_IT_IS, SESSION_TAGS),
    _character("257", "257 characters", "a" * 257, _NOT_MAPPED, SESSION_TAGS),
]


def _dropped(name: str, words: str, subject: Names, source: Source, *tags: str) -> Probe:
    """Return a question about names that are not mapped, each with the tags that it might be."""
    some: Condition = {"Null": {f"aws:PrincipalTag/{tag}": "false" for tag in tags[:1]}}
    missing = {"Null": {f"aws:PrincipalTag/{tag}": "true" for tag in tags}}
    readings = Reading("ignored, and the session is given out", missing), Reading(f"the tag {tags[0]}", some)
    return Probe(f"tags.{name}", f"What becomes of {words}?", readings[0].answer, source, (_NAMES,), readings, subject)


_OTHERS = [
    Probe(
        "tags.empty",
        "What becomes of an OU with an empty value?",
        "a tag with an empty value",
        choice("session tags may be empty, so the value is mapped like others"),
        (_IS_TAG, "docs/how-to/aws.md#the-trust-policy"),
        (
            Reading("a tag with an empty value", equals("x509Subject/OU", "")),
            Reading(_NO_TAG, lacks("x509Subject/OU")),
        ),
        (("OU", ""),),
        otherwise="none of these",
    ),
    Probe(
        "tags.case",
        "Is the OU DevOps equal to devops in a condition?",
        "only with StringEqualsIgnoreCase",
        MAPPING,
        (_CONDITIONS, _TAGS),
        (
            Reading("yes", equals("x509Subject/OU", "devops")),
            Reading(
                "only with StringEqualsIgnoreCase",
                {"StringEqualsIgnoreCase": {"aws:PrincipalTag/x509Subject/OU": "devops"}},
            ),
        ),
        (("OU", "DevOps"),),
    ),
    _dropped(
        "street", "a street, whose OID is not on AWS's list", ((_STREET, "a street"),), MAPPING, "x509Subject/STREET"
    ),
    _dropped("title", "a title with an ampersand", ((_TITLE, "R&D"),), MAPPING, "x509Subject/T", "x509Subject/TITLE"),
    _dropped(
        "private", "a name with an OID of a private enterprise", ((_PRIVATE, "a"),), MAPPING, f"x509Subject/{_PRIVATE}"
    ),
    Probe(
        "tags.issuer",
        "Does the issuer's CN become the tag x509Issuer/CN?",
        _AS_IT_IS,
        TRUST_MODEL,
        (_CONDITIONS, _TAGS),
        becomes("x509Issuer/CN", "intermediate"),
        otherwise=_NEITHER,
    ),
    Probe(
        "tags.issuer-o",
        "Does the issuer's O become the tag x509Issuer/O?",
        _AS_IT_IS,
        MAPPING,
        (_CONDITIONS, _TAGS),
        becomes("x509Issuer/O", "hwsigner trial"),
        otherwise=_NEITHER,
    ),
]


def _of_bad_issuer(scene: AWSScene) -> str:
    issuer = scene.ca.issuer("ampersand", CertificateShape((("CN", "R&D"),), extensions=OF_CA), scene.ca.root)
    return in_words(scene.session(scene.leaf(CertificateShape((("CN", "web"),)), issuer)))


QUESTIONS: list[AWSQuestion] = [
    *ProbeTable("tags", [*_ATTRIBUTES, *_SEVERAL, *_CHARACTERS, *_OTHERS]).questions,
    AWSQuestion(
        "tags.issuer-ampersand",
        "What becomes of a CA's CN with an ampersand?",
        unmapped(issuer="CN"),
        UNMAPPED_NAMES,
        (_FACTS, _TAGS),
        _of_bad_issuer,
    ),
]
