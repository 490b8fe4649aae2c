"""Questions: session names, source identities and the ARNs of subjects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cryptography import x509

from hwsigner.trial.questions import NotAskedError, Source, choice, document
from trial_aws.authority import CertificateShape, Names, TrialLeaf
from trial_aws.plan import AWSQuestion, needing
from trial_aws.probes import in_words, put_mapping
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession, SessionAnswer
from trial_aws.sources import SESSION_API, TRUST_MODEL
from trial_aws.wanted import OPEN, Wanted, WantedProfile

_CONDITIONS = "docs/how-to/aws.md#what-each-condition-means"
_KEYS = "docs/how-to/emulator.md#trust-policies"
_DEFAULT_NAME = "hwsigner/emulator/tags.py: default_session_name"
_SOURCE_IDENTITY = "hwsigner/emulator/tags.py: source_identity"
_SUBJECT_ARN = "hwsigner/emulator/tags.py: subject_arn"
_PARAMETERS = "hwsigner/emulator/parameters.py: read_parameters"
_RECORD = "hwsigner/emulator/sessions.py: SessionService"
_OF_UNITS = WantedProfile("of-units", then=(put_mapping("x509Subject", "OU"),))
_PROFILE = WantedProfile("naming", members={"acceptRoleSessionName": True})
_HEXADECIMAL = "the serial number in lower-case hexadecimal, two digits a byte"


def _spellings(serial: int) -> dict[str, str]:
    """Return how a serial number may be written, and what that is called."""
    digits = f"{serial:x}"
    even = digits.zfill(len(digits) + len(digits) % 2)
    return {
        f"00{even}": f"{_HEXADECIMAL}, with DER's leading zeros",
        str(serial): "the serial number in decimal",
        digits.upper(): "the serial number in upper-case hexadecimal, without leading zeros",
        even.upper(): "the serial number in upper-case hexadecimal, two digits a byte",
        digits: "the serial number in lower-case hexadecimal, without leading zeros",
        even: _HEXADECIMAL,
    }


def _default_name(serial: int, scene: AWSScene) -> str:
    answer = scene.session(scene.leaf(CertificateShape(serial=serial)))
    return _spellings(serial).get(answer.session_name, "something else") if answer.ok else in_words(answer)


def _given_name(name: str, profile: str, scene: AWSScene) -> str:
    answer = scene.session(scene.leaf(), AskedSession(profile=profile, session_name=name))
    if answer.ok:
        return "taken" if answer.session_name == name else "another name is taken"
    # The words of a ValidationException are a question of their own.
    return "400 ValidationException" if answer.kind == "ValidationException" else in_words(answer)


def _question(
    id: str, text: str, expected: str, source: Source, rests_on: str, ask: Callable[[AWSScene], str], *needs: Wanted
) -> AWSQuestion:
    return AWSQuestion(id, text, expected, source, (_CONDITIONS, rests_on), needing(ask, *(needs or (OPEN,))))


def _default(name: str, what: str, serial: int) -> AWSQuestion:
    text = f"What is a session's name if the serial number {what}?"
    ask = partial(_default_name, serial)
    return _question(f"session-name.{name}", text, _HEXADECIMAL, TRUST_MODEL, _DEFAULT_NAME, ask)


def _name(name: str, what: str, given: str, expected: str, source: Source = SESSION_API) -> AWSQuestion:
    text = f"What becomes of a roleSessionName {what}, if the profile accepts one?"
    ask = partial(_given_name, given, "naming")
    return _question(f"session-name.{name}", text, expected, source, _PARAMETERS, ask, OPEN, _PROFILE)


_REFUSED, _TAKEN = "400 ValidationException", "taken"
_SESSION_NAMES = [
    _default("default", "begins with a digit from 1 to 7", 0x3A45C0FFEE1234567890ABCDEF012345),
    _default("odd", "has an odd number of hexadecimal digits", 0xA45C0FFEE1234567890ABCDEF012345),
    _default("high-bit", "has its highest bit set", 0xFA45C0FFEE1234567890ABCDEF012345),
    _default("one-byte", "is 1", 1),
    _name("one", "of one character", "a", _REFUSED),
    _name("two", "of two characters", "ab", _TAKEN),
    _name("64", "of 64 characters", "a" * 64, _TAKEN),
    _name("65", "of 65 characters", "a" * 65, _REFUSED),
    _name("empty", "of no characters", "", _REFUSED, choice("the shortest name has two characters")),
    _name("punctuation", "with each of _+=,.@-", "a_+=,.@-", _TAKEN),
    _name("space", "with a space", "a b", _REFUSED),
    _name("slash", "with a slash", "a/b", _REFUSED),
    _name("umlaut", "with a letter that ASCII does not have", "B\u00fccher", _REFUSED),
]


def _identity_of(names: Names, scene: AWSScene, profile: str = "") -> str:
    """Return the source identity, with CN and serial number in words."""
    leaf = scene.leaf(CertificateShape(names))
    answer = scene.session(leaf, AskedSession(profile=profile))
    if not answer.ok:
        return in_words(answer)
    values = [value for name, value in names if name == "CN"]
    known = {"/".join(values): "the CNs joined by a slash", **dict.fromkeys(values, "the CN")} if values else {}
    if len(values) > 1:
        known |= {values[0]: "the first CN", values[-1]: "the last CN"}
    known |= {spelling: name for spelling, name in _spellings(leaf.certificate.serial_number).items() if not values}
    prefix = next((each for each in ("CN=", "ID=") if answer.source_identity.startswith(each)), "")
    rest = answer.source_identity.removeprefix(prefix)
    return " and ".join(filter(None, (prefix, known.get(rest, "something else" if rest else "nothing"))))


def _identity(name: str, what: str, names: Names, expected: str, source: Source = TRUST_MODEL) -> AWSQuestion:
    text = f"What is the source identity of a certificate {what}?"
    ask = partial(_identity_of, names)
    return _question(f"source-identity.{name}", text, expected, source, _SOURCE_IDENTITY, ask)


_CN = "CN= and the CN"
_LIKE_TAGS = choice("the characters are those of session tags, as the CN is one")
_UNMAPPED = "refused: Some attributes failed to be mapped into session tags. Issuer: [  ]; Subject: [ CN ]; SAN: [  ]"
_SOURCE_IDENTITIES = [
    _identity("cn", "with a CN", (("CN", "web"),), _CN),
    _identity("61", "with a CN of 61 characters", (("CN", "a" * 61),), _CN),
    _identity("62", "with a CN of 62 characters", (("CN", "a" * 62),), "the CN"),
    _identity("64", "with a CN of 64 characters", (("CN", "a" * 64),), "the CN"),
    _identity("no-cn", "without a CN", (("O", "web"),), f"ID= and {_HEXADECIMAL}"),
    _identity(
        "two-cns",
        "with two CNs",
        (("CN", "b"), ("CN", "a")),
        "CN= and the CNs joined by a slash",
        choice("they are joined as in the tag x509Subject/CN"),
    ),
    _identity("space", "whose CN has a space", (("CN", "my web"),), _CN, _LIKE_TAGS),
    _identity("slash", "whose CN has a slash and a colon", (("CN", "a/b:c"),), _CN, _LIKE_TAGS),
    _identity("umlaut", "whose CN has a letter that ASCII does not have", (("CN", "B\u00fccher"),), _CN, _LIKE_TAGS),
    _identity("ampersand", "whose CN has an ampersand", (("CN", "R&D"),), _UNMAPPED, _LIKE_TAGS),
    _question(
        "source-identity.unmapped",
        "What is the source identity of a certificate with a CN, if the mappings leave out the CN?",
        _CN,
        choice("the mappings are about tags"),
        _SOURCE_IDENTITY,
        partial(_identity_of, (("CN", "web"), ("OU", "a")), profile="of-units"),
        OPEN,
        _OF_UNITS,
    ),
    _question(
        "source-identity.unmapped-ampersand",
        "What is the source identity of a certificate whose CN has an ampersand, if the mappings leave out the CN?",
        "refused",
        _LIKE_TAGS,
        _SOURCE_IDENTITY,
        partial(_identity_of, (("CN", "R&D"), ("OU", "a")), profile="of-units"),
        OPEN,
        _OF_UNITS,
    ),
]


def _same_arn(first: Callable[[AWSScene], TrialLeaf], second: Callable[[AWSScene], TrialLeaf], scene: AWSScene) -> str:
    found = []
    for leaf in (first, second):
        answer = scene.session(leaf(scene))
        if not answer.ok:
            return in_words(answer)
        found.append(answer.subject_arn)
    if not all(found):
        return "no ARN"
    return "the same" if found[0] == found[1] else "another"


def _of(*names: tuple[str, str], san: Sequence[x509.GeneralName] = ()) -> Callable[[AWSScene], TrialLeaf]:
    return lambda scene: scene.leaf(CertificateShape(names, san))


def _arn(name: str, text: str, expected: str, source: Source, second: Callable[[AWSScene], TrialLeaf]) -> AWSQuestion:
    first = _of(("CN", "web"), ("OU", "a"))
    return _question(f"subject.{name}", text, expected, source, _SUBJECT_ARN, partial(_same_arn, first, second))


def _other_ca(scene: AWSScene) -> TrialLeaf:
    return scene.leaf(CertificateShape((("CN", "web"), ("OU", "a"))), scene.ca.root)


def _subject(scene: AWSScene, answer: SessionAnswer) -> Mapping[str, Any]:
    found = scene.calls.call("rolesanywhere", "get_subject", subjectId=answer.subject_arn.rpartition("/")[2])
    if found.code:
        raise NotAskedError(f"GetSubject was refused: {found.code}")
    subject: Mapping[str, Any] = found.response["subject"]
    return subject


def _recorded(member: str, scene: AWSScene) -> str:
    """Return a member of the subject that a session has recorded, in words."""
    leaf = scene.leaf(CertificateShape((("CN", "web"), ("OU", "a"))))
    answer = scene.session(leaf)
    if not answer.ok:
        return in_words(answer)
    subject = _subject(scene, answer)
    if member == "x509Subject":
        return str(subject[member])
    serial = leaf.certificate.serial_number
    numbers = {str(each["serialNumber"]) for each in subject["credentials"]}
    return next((words for text, words in _spellings(serial).items() if text in numbers), "something else")


def _after_refusal(scene: AWSScene) -> str:
    """Return whether a request that is refused after the signature was accepted is recorded."""
    shape = CertificateShape((("CN", "web"), ("OU", "b")))
    first, refused = scene.session(scene.leaf(shape)), scene.leaf(shape)
    second = scene.session(refused, AskedSession(session_name="web"))
    if not first.ok or second.ok:
        raise NotAskedError(f"the requests were answered otherwise: {in_words(first)}, {in_words(second)}")
    known = _spellings(refused.certificate.serial_number)
    found = [each for each in _subject(scene, first)["credentials"] if each["serialNumber"] in known]
    return "as a failed one" if found and found[0].get("failed") else "as others" if found else "no"


def _parts_of_arn(scene: AWSScene) -> str:
    answer = scene.session(scene.leaf())
    head = f"arn:{scene.partition}:rolesanywhere:{scene.region}:{scene.account}:subject/"
    parts = re.fullmatch(re.escape(head) + r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", answer.subject_arn)
    return "region, account, subject and a UUID" if parts else "something else" if answer.ok else in_words(answer)


def _caller_arn(scene: AWSScene) -> str:
    answer = scene.session(scene.leaf())
    head = f"arn:{scene.partition}:sts::{scene.account}:assumed-role/"
    known = {
        f"{head}{scene.named('open')}/{answer.session_name}": "without the path",
        f"{head}{scene.arn('role', 'open').partition('/')[2]}/{answer.session_name}": "with the path",
    }
    return known.get(answer.assumed_role_arn, "something else") if answer.ok else in_words(answer)


_BY_SUBJECT = choice("the guide calls the certificate's subject the key of the Subject resource")
_SUBJECTS = [
    _arn(
        "again",
        "Is the subject's ARN the same for another certificate with the same names?",
        "the same",
        TRUST_MODEL,
        _of(("CN", "web"), ("OU", "a")),
    ),
    _arn(
        "order",
        "Is the subject's ARN the same for the same names in another order?",
        "another",
        _BY_SUBJECT,
        _of(("OU", "a"), ("CN", "web")),
    ),
    _arn(
        "case",
        "Is the subject's ARN the same for a CN in capitals?",
        "another",
        _BY_SUBJECT,
        _of(("CN", "WEB"), ("OU", "a")),
    ),
    _arn(
        "ca",
        "Is the subject's ARN the same for a certificate of another CA of the trust anchor?",
        "the same",
        _BY_SUBJECT,
        _other_ca,
    ),
    _arn(
        "san",
        "Is the subject's ARN the same for a certificate with another subject alternative name?",
        "the same",
        _BY_SUBJECT,
        _of(("CN", "web"), ("OU", "a"), san=(x509.DNSName("a.example"),)),
    ),
    _question(
        "subject.name",
        "How does GetSubject write the names CN=web and OU=a, in this order?",
        "OU=a,CN=web",
        choice("as RFC 4514 does"),
        _RECORD,
        partial(_recorded, "x509Subject"),
    ),
    _question(
        "subject.serial",
        "How does GetSubject write a serial number?",
        "the serial number in decimal",
        choice("as CreateSession does"),
        _RECORD,
        partial(_recorded, "credentials"),
    ),
    _question(
        "subject.refused",
        "Is a request recorded with its subject that is refused after its signature was accepted?",
        "as a failed one",
        choice("GetSubject's credentials have a member failed"),
        _RECORD,
        _after_refusal,
    ),
    _question(
        "subject.arn",
        "What is a subject's ARN made of?",
        "region, account, subject and a UUID",
        document("IAM Roles Anywhere API Reference: SubjectDetail"),
        _SUBJECT_ARN,
        _parts_of_arn,
    ),
    _question(
        "session-name.arn",
        "Has the ARN of the assumed role the role's name with its path?",
        "without the path",
        document("IAM User Guide: IAM identifiers"),
        _RECORD,
        _caller_arn,
    ),
]

QUESTIONS: list[AWSQuestion] = [*_SESSION_NAMES, *_SOURCE_IDENTITIES, *_SUBJECTS]
