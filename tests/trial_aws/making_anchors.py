"""Questions about what CreateTrustAnchor refuses, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from hwsigner.trial.questions import NotAskedError, Source, choice, document
from trial_aws.asking import ACCEPTED, Ask
from trial_aws.authority import A_CA, OF_CA, TrialCA, TrialIssuer
from trial_aws.calls import CallAnswer
from trial_aws.forging import sha1_signed
from trial_aws.plan import AWSQuestion, AWSRow, needing
from trial_aws.scene import AWSScene
from trial_aws.sources import ALIASES, CERTIFICATE_RULES, GETTING, QUOTAS, QUOTED, QUOTED_VALUES

_ANCHORS = "hwsigner/emulator/control/anchors.py"
SHAPES = "hwsigner/emulator/control/shapes.py: _unsatisfied"
_BUNDLE = f"{_ANCHORS}: _read_bundle"
PLANE = "docs/how-to/emulator.md#the-control-plane"
_FACTS = "docs/how-to/aws.md#what-aws-documents-and-what-was-only-observed"
_INVALID = "ValidationException"
_DAY = timedelta(days=1)
NAMES = choice("the API reference does not say that names are unique; IDs are")
BY_ITSELF = choice("the API reference has no default; nothing is enabled by itself")
NOT_CHECKED = choice("the API reference does not say that it is looked for")
_STRICT = choice("a trust anchor that lets nobody in should not be made")
_BEYOND_THE_MODEL = "The emulator "

Bundle = Callable[[TrialCA], Sequence[x509.Certificate]]


def code_of(answer: CallAnswer) -> str:
    """Return "accepted" or the code of a refusal.

    Raises:
        NotAskedError: the emulator says that it can't do it.
    """
    if answer.message.startswith(_BEYOND_THE_MODEL):
        raise NotAskedError("the emulator can't do this, and says so")
    return answer.code or ACCEPTED


def words_of(answer: CallAnswer) -> str:
    """Return "accepted", or the refusal with its words. A full stop at the end does not count."""
    return str(answer).rstrip(".")


def made(scene: AWSScene, name: str, operation: str, **members: Any) -> CallAnswer:
    """Create a trust anchor or a profile, and delete it at once."""
    answer = scene.calls.call("rolesanywhere", operation, name=scene.named(name), **members)
    if not answer.code:
        kind = {"create_trust_anchor": "trustAnchor", "create_profile": "profile"}[operation]
        deletion = operation.replace("create", "delete")
        scene.calls.call("rolesanywhere", deletion, **{f"{kind}Id": answer.response[kind][f"{kind}Id"]})
    return answer


def source_of(bundle: Sequence[x509.Certificate] | str) -> dict[str, Any]:
    """Return the source of a trust anchor with some certificates, or with what is to be in their place."""
    text = bundle if isinstance(bundle, str) else _pem(bundle)
    return {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": text}}


def _anchor_of(name: str, bundle: Bundle | str, read: Callable[[CallAnswer], str], **members: Any) -> Ask:
    def ask(scene: AWSScene) -> str:
        source = source_of(bundle if isinstance(bundle, str) else bundle(scene.ca))
        return read(made(scene, f"anchor-{name}", "create_trust_anchor", source=source, **members))

    return ask


def _pem(certificates: Sequence[x509.Certificate]) -> str:
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in certificates)


class _Row(NamedTuple):
    """What CreateTrustAnchor is asked."""

    name: str
    words: str

    def expects(self, answer: str, source: Source, bundle: Bundle | str, *rests_on: str, **members: Any) -> AWSQuestion:
        """Return the question."""
        read = words_of if ": " in answer else code_of
        ask, text = _anchor_of(self.name, bundle, read, **members), f"What does CreateTrustAnchor say {self.words}?"
        return AWSQuestion(f"control.anchor-{self.name}", text, answer, source, (*rests_on, PLANE), ask)


def _root(ca: TrialCA) -> list[x509.Certificate]:
    return [ca.root.certificate]


def _ca(**shape: Any) -> Bundle:
    return lambda ca: [_new(ca, **shape).certificate]


def _new(ca: TrialCA, **shape: Any) -> TrialIssuer:
    return ca.issuer(f"new {shape!r}", replace(A_CA, **shape))


def _three(ca: TrialCA) -> list[x509.Certificate]:
    return [ca.issuer(f"of three {number}").certificate for number in range(3)]


def _sha1_root(ca: TrialCA) -> list[x509.Certificate]:
    issuer = ca.issuer("sha1")
    return [sha1_signed(issuer.certificate, issuer)]


def _same_name(scene: AWSScene) -> str:
    name, members = scene.named("main"), {"source": source_of(_root(scene.ca))}
    return code_of(made(scene, name.removeprefix(f"{scene.prefix}-"), "create_trust_anchor", **members))


def _default_of_anchor(scene: AWSScene) -> str:
    answer = made(scene, "anchor-default", "create_trust_anchor", source=source_of(_root(scene.ca)))
    return answer.code or ("enabled" if answer.response["trustAnchor"]["enabled"] else "disabled")


def _thresholds(scene: AWSScene) -> str:
    answer = made(scene, "anchor-settings", "create_trust_anchor", source=source_of(_root(scene.ca)))
    if answer.code:
        return answer.code
    settings = answer.response["trustAnchor"]["notificationSettings"]
    shown = sorted(f"{each['event']}: {each['threshold']:g} days, enabled: {each['enabled']}" for each in settings)
    return "; ".join(shown)


_BASIC, _USAGE = OF_CA
_PATTERN = "Member must satisfy regular expression pattern: ^[ a-zA-Z0-9-_]*$"
UNFIT = "ValidationException: 1 validation error detected: Value"
_ANCHOR_QUESTIONS = (
    _Row("leaf", "to a leaf").expects(
        "ValidationException: Incorrect basic constraints for CA certificate",
        QUOTED,
        lambda ca: [ca.leaf().certificate],
        _BUNDLE,
    ),
    _Row("no-pem", "to what is not PEM").expects(
        "ValidationException: Error creating TrustAnchor. Bad certificate data", QUOTED, "trial", _BUNDLE
    ),
    _Row("intermediate", "to an intermediate CA").expects(
        ACCEPTED, CERTIFICATE_RULES, lambda ca: [ca.intermediate.certificate], _BUNDLE
    ),
    _Row("three", "to three CAs").expects(_INVALID, QUOTAS, _three, f"{_ANCHORS}: MAX_CERTIFICATES"),
    _Row("twice", "to one CA twice").expects(ACCEPTED, NOT_CHECKED, lambda ca: [ca.root.certificate] * 2, _BUNDLE),
    _Row("no-key-usage", "to a CA without a key usage").expects(
        _INVALID, CERTIFICATE_RULES, _ca(extensions=(_BASIC,)), _BUNDLE
    ),
    _Row("sha-1", "to a CA that is signed with SHA-1").expects(_INVALID, CERTIFICATE_RULES, _sha1_root, _BUNDLE),
    _Row("rsa-1024", "to a CA with an RSA key of 1,024 bits").expects(
        _INVALID, _STRICT, _ca(key="RSA-1024"), _BUNDLE, _FACTS
    ),
    _Row("ed25519", "to a CA with an Ed25519 key").expects(
        _INVALID, _STRICT, lambda ca: [_new(ca, key=ed25519.Ed25519PrivateKey.generate()).certificate], _BUNDLE, _FACTS
    ),
    _Row("ml-dsa", "to a CA with an ML-DSA-65 key").expects(
        ACCEPTED,
        choice("AWS documents ML-DSA for the keys of leaves; a CA may have what a leaf may have"),
        _ca(key="ML-DSA-65"),
        _BUNDLE,
    ),
    _Row("expired", "to a CA that has expired").expects(
        ACCEPTED,
        choice("a CA of a trust anchor expires while it is there; sessions are refused then"),
        _ca(end=-_DAY / 24),
        _BUNDLE,
    ),
    AWSRow("control.anchor-dot", "What does CreateTrustAnchor say to a name with a dot?").expects(
        f"{UNFIT} '(prefix)-anchor-a.b' at 'name' failed to satisfy constraint: {_PATTERN}",
        QUOTED_VALUES,
        _anchor_of("a.b", _root, words_of),
        SHAPES,
        PLANE,
    ),
    _Row("reserved-alias", "to an alias that begins with aws/").expects(
        _INVALID, ALIASES, _root, f"{_ANCHORS}: create", aliasName="aws/trial"
    ),
    _Row("distribution-points", "to crlDpRevocationEnabled").expects(
        ACCEPTED, ALIASES, _root, f"{_ANCHORS}: _refuse_distribution_points", crlDpRevocationEnabled=True
    ),
    AWSRow("control.anchor-same-name", "Are two trust anchors of one name accepted?").expects(
        ACCEPTED, NAMES, _same_name, f"{_ANCHORS}: create", PLANE
    ),
    AWSRow("control.anchor-default", "Is a trust anchor enabled if the request does not say so?").expects(
        "disabled", BY_ITSELF, _default_of_anchor, f"{_ANCHORS}: create", PLANE
    ),
    AWSRow(
        "control.anchor-notifications", "Which notification settings has a trust anchor whose request has none?"
    ).expects(
        "CA_CERTIFICATE_EXPIRY: 45 days, enabled: True; END_ENTITY_CERTIFICATE_EXPIRY: 45 days, enabled: True",
        document("IAM Roles Anywhere User Guide: Notifications: the default threshold is 45 days for both events"),
        _thresholds,
        f"{_ANCHORS}: setting_details",
        PLANE,
    ),
)


def _missing(kind: str, words: str) -> AWSQuestion:
    """Return a question about what the service says if there is no such resource."""

    def ask(scene: AWSScene) -> str:
        name = {"trust_anchor": "trustAnchorId", "profile": "profileId", "crl": "crlId"}[kind]
        identifier = {name: "00000000-0000-4000-8000-000000000000"}
        return code_of(scene.calls.call("rolesanywhere", f"get_{kind}", **identifier))

    text = f"What does the service say if there is no such {words}?"
    rests_on = ("hwsigner/emulator/control/calls.py: not_found", PLANE)
    name = f"control.missing-{kind.replace('_', '-')}"
    return AWSQuestion(name, text, "ResourceNotFoundException", GETTING, rests_on, needing(ask))


_MISSING = (_missing("trust_anchor", "trust anchor"), _missing("profile", "profile"), _missing("crl", "CRL"))

QUESTIONS = (*_ANCHOR_QUESTIONS, *_MISSING)
