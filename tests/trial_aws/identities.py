"""What asks for session names, source identities and the ARNs of subjects."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hwsigner.trial.questions import NotAskedError
from trial_aws.authority import CertificateShape, Issued, Names
from trial_aws.plan import Ask, needing
from trial_aws.probes import in_words, put_mapping
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.wanted import WantedProfile

_OF_UNITS = WantedProfile("of-units", then=(put_mapping("x509Subject", "OU"),))
_PROFILE = WantedProfile("naming", members={"acceptRoleSessionName": True})
_HEXADECIMAL = "the serial number in lower-case hexadecimal, two digits a byte"
_WEB = (("CN", "web"), ("OU", "a"))


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


def _of_one_character(scene: AWSScene) -> str:
    """Return what becomes of a session name of one character. The words of a ValidationException do not matter."""
    answer = scene.session(scene.leaf(), AskedSession(profile=_PROFILE.name, session_name="a"))
    if answer.ok:
        return "taken" if answer.session_name == "a" else "another name is taken"
    return "400 ValidationException" if answer.kind == "ValidationException" else in_words(answer)


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


def _identity(*names: tuple[str, str]) -> Ask:
    return partial(_identity_of, names)


def _same_arn(first: Callable[[AWSScene], Issued], second: Callable[[AWSScene], Issued], scene: AWSScene) -> str:
    found = []
    for leaf in (first, second):
        answer = scene.session(leaf(scene))
        if not answer.ok:
            return in_words(answer)
        found.append(answer.subject_arn)
    if not all(found):
        return "no ARN"
    return "the same" if found[0] == found[1] else "another"


def _of(*names: tuple[str, str]) -> Callable[[AWSScene], Issued]:
    return lambda scene: scene.leaf(CertificateShape(names))


def _arn(second: Callable[[AWSScene], Issued]) -> Ask:
    return partial(_same_arn, _of(*_WEB), second)


def _recorded(member: str, scene: AWSScene) -> str:
    """Return a member of the subject that a session has recorded, in words."""
    leaf = scene.leaf(CertificateShape((("CN", "web"), ("OU", "a"))))
    answer = scene.session(leaf)
    if not answer.ok:
        return in_words(answer)
    found = scene.calls.call("rolesanywhere", "get_subject", subjectId=answer.subject_arn.rpartition("/")[2])
    if found.code:
        raise NotAskedError(f"GetSubject was refused: {found.code}")
    subject = found.response["subject"]
    if member == "x509Subject":
        return str(subject[member])
    serial = leaf.certificate.serial_number
    numbers = {str(each["serialNumber"]) for each in subject["credentials"]}
    return next((words for text, words in _spellings(serial).items() if text in numbers), "something else")


ASKS: dict[str, Ask] = {
    "session-name.default": partial(_default_name, 0x3A45C0FFEE1234567890ABCDEF012345),
    "session-name.odd": partial(_default_name, 0xA45C0FFEE1234567890ABCDEF012345),
    "session-name.one": needing(_of_one_character, _PROFILE),
    "source-identity.cn": _identity(("CN", "web")),
    "source-identity.61": _identity(("CN", "a" * 61)),
    "source-identity.62": _identity(("CN", "a" * 62)),
    "source-identity.no-cn": _identity(("O", "web")),
    "source-identity.two-cns": _identity(("CN", "b"), ("CN", "a")),
    "source-identity.ampersand": _identity(("CN", "R&D")),
    "source-identity.unmapped": needing(partial(_identity_of, _WEB, profile=_OF_UNITS.name), _OF_UNITS),
    "subject.again": _arn(_of(*_WEB)),
    "subject.order": _arn(_of(*reversed(_WEB))),
    "subject.ca": _arn(lambda scene: scene.leaf(CertificateShape(_WEB), scene.ca.root)),
    "subject.name": partial(_recorded, "x509Subject"),
    "subject.serial": partial(_recorded, "credentials"),
}
