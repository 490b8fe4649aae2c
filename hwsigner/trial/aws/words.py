"""Questions about the words of refusals that hwsigner chose, because AWS's words are not known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hwsigner.trial.aws.asking import INVALID, Ask, outcome
from hwsigner.trial.aws.authority import A_CA, LEAF, OF_CA, TrialCA, TrialLeaf
from hwsigner.trial.aws.calls import CallAnswer
from hwsigner.trial.aws.forging import sha1_signed
from hwsigner.trial.aws.making_anchors import Bundle, made, source_of, words_of
from hwsigner.trial.aws.making_profiles import MAPPED
from hwsigner.trial.aws.plan import AWSQuestion
from hwsigner.trial.aws.scene import AWSScene
from hwsigner.trial.aws.sessions import AskedSession
from hwsigner.trial.aws.wanted import OPEN
from hwsigner.trial.questions import choice

_CHOSEN = choice("only the status and the type are documented; the words say what is wrong")
_PARAMETERS = "hwsigner/emulator/parameters.py"
_CHAIN = "hwsigner/emulator/certificates.py: read_chain"


def _said(name: str, words: str, message: str, rests_on: str, ask: Ask) -> AWSQuestion:
    text = f"In which words does CreateSession refuse {words}?"
    return AWSQuestion(f"words.{name}", text, f"{INVALID}: {message}", _CHOSEN, (rests_on,), ask, (OPEN,))


def _to(**members: Any) -> Ask:
    return lambda scene: outcome(scene.session(scene.leaf(), AskedSession(**members)))


def _to_chain(*parts: str) -> Ask:
    """Return what sends a chain of the leaf, its issuer and the root, by these names."""

    def ask(scene: AWSScene) -> str:
        leaf: TrialLeaf = scene.leaf(LEAF)
        named = {"leaf": leaf.certificate, "issuer": leaf.chain[0], "root": scene.ca.root.certificate}
        return outcome(scene.session(leaf, AskedSession(chain=[named[part] for part in parts])))

    return ask


def _to_arn(place: int, arn: str) -> Ask:
    """Return what names something else than the profile (0), the role (1) or the trust anchor (2)."""

    def ask(scene: AWSScene) -> str:
        arns = [scene.arn("profile", "main"), scene.arn("role", "open"), scene.arn("anchor", "main")]
        arns[place] = arn
        return outcome(scene.send(scene.leaf(), AskedSession(), (arns[0], arns[1], arns[2])))

    return ask


def _told(name: str, what: str, message: str, rests_on: str, ask: Callable[[AWSScene], CallAnswer]) -> AWSQuestion:
    def words(scene: AWSScene) -> str:
        return words_of(ask(scene))

    text, expected = f"In which words does {what}?", f"ValidationException: {message}"
    return AWSQuestion(f"words.{name}", text, expected, _CHOSEN, (rests_on,), words, (OPEN, MAPPED))


def _anchor(name: str, bundle: Bundle) -> Callable[[AWSScene], CallAnswer]:
    """Return what makes a trust anchor with the certificates of a bundle."""
    return lambda scene: made(scene, f"words-{name}", "create_trust_anchor", source=source_of(bundle(scene.ca)))


def _list(name: str, data: Callable[[TrialCA], bytes]) -> Callable[[AWSScene], CallAnswer]:
    """Return what imports a CRL."""

    def ask(scene: AWSScene) -> CallAnswer:
        given = {"crlData": data(scene.ca), "trustAnchorArn": scene.arn("anchor", "main"), "enabled": False}
        return scene.calls.call("rolesanywhere", "import_crl", name=scene.named(f"words-{name}"), **given)

    return ask


def _mapping(scene: AWSScene) -> CallAnswer:
    identifier = {"profileId": scene.arn("profile", MAPPED.name).rpartition("/")[2]}
    rules = [{"specifier": "Trial"}]
    return scene.calls.call(
        "rolesanywhere", "put_attribute_mapping", **identifier, certificateField="x509Subject", mappingRules=rules
    )


_DURATION = "durationSeconds is not a whole number from 900 to 43200"
_OF_SESSIONS = (
    _said("duration", "a durationSeconds of 899", _DURATION, f"{_PARAMETERS}: read_parameters", _to(duration=899)),
    _said(
        "long-duration", "a durationSeconds of 43201", _DURATION, f"{_PARAMETERS}: read_parameters", _to(duration=43201)
    ),
    _said("empty-body", "an empty body", "the body is empty", f"{_PARAMETERS}: _read_body", _to(body=b"")),
    _said(
        "no-json",
        "a body that is not JSON",
        "the body is not JSON, or names a member twice",
        f"{_PARAMETERS}: _read_body",
        _to(body=b"{"),
    ),
    _said(
        "properties",
        "51 instanceProperties",
        "instanceProperties has more than 50 entries",
        f"{_PARAMETERS}: _read_properties",
        _to(properties={f"property {number}": "x" for number in range(51)}),
    ),
    _said(
        "long-property",
        "an instance property of 201 characters",
        "instanceProperties has a name or value that is not 1 to 200 characters",
        f"{_PARAMETERS}: _read_properties",
        _to(properties={"a": "x" * 201}),
    ),
    _said(
        "no-role",
        "a roleArn that is not an ARN",
        "roleArn is not the ARN of a role",
        f"{_PARAMETERS}: _read_arn",
        _to_arn(1, "trial"),
    ),
    _said(
        "session-name",
        "a session name of one character",
        "roleSessionName does not match [\\w+=,.@-]{2,64}",
        f"{_PARAMETERS}: read_parameters",
        _to(session_name="a"),
    ),
    _said(
        "root",
        "a chain with a root",
        "X-Amz-X509-Chain holds a root, a self-signed certificate",
        _CHAIN,
        _to_chain("issuer", "root"),
    ),
    _said(
        "leaf-last",
        "a chain with the leaf as the last",
        "X-Amz-X509-Chain holds the certificate of X-Amz-X509 itself, and not as its first",
        _CHAIN,
        _to_chain("issuer", "leaf"),
    ),
    _said(
        "twice",
        "a chain with a certificate twice",
        "X-Amz-X509-Chain holds a certificate twice",
        _CHAIN,
        _to_chain("issuer", "issuer"),
    ),
    _said(
        "six",
        "a chain of six certificates",
        "X-Amz-X509-Chain holds 6 certificates, more than 5",
        _CHAIN,
        _to_chain(*["issuer"] * 6),
    ),
)
_BUNDLE = "hwsigner/emulator/control/anchors.py: _read_bundle"
_CRL = "hwsigner/emulator/control/crls.py: _check_list"
_SUBJECT = "the CA certificate CN=another CA,O=hwsigner trial"
_NO_CRL = "crlData is not one CRL in PEM"
_OF_THE_CONTROL_PLANE = (
    _told(
        "three-cas",
        "CreateTrustAnchor refuse three CAs",
        "A trust anchor may have at most 2 certificates, not 3",
        _BUNDLE,
        _anchor("three", lambda ca: [ca.issuer(f"of three {number}").certificate for number in range(3)]),
    ),
    _told(
        "no-key-usage",
        "CreateTrustAnchor refuse a CA without a key usage",
        f"{_SUBJECT} lacks the key usage keyCertSign",
        _BUNDLE,
        _anchor("usage", lambda ca: [ca.issuer("no usage", replace(A_CA, extensions=OF_CA[:1])).certificate]),
    ),
    _told(
        "sha-1",
        "CreateTrustAnchor refuse a CA that is signed with SHA-1",
        f"{_SUBJECT} is not signed with SHA-256, SHA-384, SHA-512 or ML-DSA",
        _BUNDLE,
        _anchor("sha-1", lambda ca: [sha1_signed(ca.issuer("sha1").certificate, ca.issuer("sha1"))]),
    ),
    _told(
        "rsa-1024",
        "CreateTrustAnchor refuse a CA with an RSA key of 1,024 bits",
        f"{_SUBJECT} has a key other than RSA of at least 2048 bits, P-256, P-384, P-521 or ML-DSA",
        _BUNDLE,
        _anchor("rsa-1024", lambda ca: [ca.issuer("rsa-1024", replace(A_CA, key="RSA-1024")).certificate]),
    ),
    _told(
        "stranger",
        "ImportCrl refuse a list of another CA",
        "The CRL is not signed by a certificate of the trust anchor",
        _CRL,
        _list("stranger", lambda ca: ca.revocation_list([1], ca.issuer("stranger"))),
    ),
    _told("no-list", "ImportCrl refuse what is not a list", _NO_CRL, _CRL, _list("no-list", lambda ca: b"trial")),
    _told(
        "mapping",
        "PutAttributeMapping refuse an unknown specifier",
        "the attribute mapping x509Subject = ('Trial',) is not known. "
        "Subject and issuer have * or names such as CN; SANs have DNS, URI and Name/*",
        "hwsigner/emulator/tags.py: parse_mappings",
        _mapping,
    ),
)

QUESTIONS = (*_OF_SESSIONS, *_OF_THE_CONTROL_PLANE)
