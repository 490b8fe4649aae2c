"""Questions about the words of refusals that hwsigner chose, because AWS's words are not known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hwsigner.trial.questions import choice
from trial_aws.anchors import with_arns
from trial_aws.asking import INVALID, Ask, of_leaf
from trial_aws.authority import A_CA, LEAF, OF_CA, TrialCA
from trial_aws.calls import CallAnswer
from trial_aws.chains import with_chain
from trial_aws.forging import sha1_signed
from trial_aws.making_anchors import Bundle, made, source_of, words_of
from trial_aws.making_profiles import MAPPED
from trial_aws.plan import AWSQuestion, needing
from trial_aws.scene import AWSScene

_CHOSEN = choice("only the status and the type are documented; the words say what is wrong")
_PARAMETERS = "hwsigner/emulator/parameters.py"
_CHAIN = "hwsigner/emulator/certificates.py: read_chain"


def _in_session(name: str, words: str, message: str, rests_on: str, ask: Ask) -> AWSQuestion:
    text = f"In which words does CreateSession refuse {words}?"
    return AWSQuestion(f"words.{name}", text, f"{INVALID}: {message}", _CHOSEN, (rests_on,), ask)


def _no_role(_: AWSScene, arns: list[str]) -> None:
    arns[1] = "trial"


def _in_call(name: str, what: str, message: str, rests_on: str, ask: Callable[[AWSScene], CallAnswer]) -> AWSQuestion:
    def words(scene: AWSScene) -> str:
        return words_of(ask(scene))

    text, expected = f"In which words does {what}?", f"ValidationException: {message}"
    return AWSQuestion(f"words.{name}", text, expected, _CHOSEN, (rests_on,), needing(words, MAPPED))


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
    _in_session(
        "duration",
        "a durationSeconds of 899",
        _DURATION,
        f"{_PARAMETERS}: read_parameters",
        of_leaf(LEAF, duration=899),
    ),
    _in_session(
        "long-duration",
        "a durationSeconds of 43201",
        _DURATION,
        f"{_PARAMETERS}: read_parameters",
        of_leaf(LEAF, duration=43201),
    ),
    _in_session(
        "empty-body", "an empty body", "the body is empty", f"{_PARAMETERS}: _read_body", of_leaf(LEAF, body=b"")
    ),
    _in_session(
        "no-json",
        "a body that is not JSON",
        "the body is not JSON, or names a member twice",
        f"{_PARAMETERS}: _read_body",
        of_leaf(LEAF, body=b"{"),
    ),
    _in_session(
        "properties",
        "51 instanceProperties",
        "instanceProperties has more than 50 entries",
        f"{_PARAMETERS}: _read_properties",
        of_leaf(LEAF, properties={f"property {number}": "x" for number in range(51)}),
    ),
    _in_session(
        "long-property",
        "an instance property of 201 characters",
        "instanceProperties has a name or value that is not 1 to 200 characters",
        f"{_PARAMETERS}: _read_properties",
        of_leaf(LEAF, properties={"a": "x" * 201}),
    ),
    _in_session(
        "no-role",
        "a roleArn that is not an ARN",
        "roleArn is not the ARN of a role",
        f"{_PARAMETERS}: _read_arn",
        with_arns(_no_role),
    ),
    _in_session(
        "session-name",
        "a session name of one character",
        "roleSessionName does not match [\\w+=,.@-]{2,64}",
        f"{_PARAMETERS}: read_parameters",
        of_leaf(LEAF, session_name="a"),
    ),
    _in_session(
        "root",
        "a chain with a root",
        "X-Amz-X509-Chain holds a root, a self-signed certificate",
        _CHAIN,
        with_chain(lambda ca, leaf: (*leaf.chain, ca.root.certificate)),
    ),
    _in_session(
        "leaf-last",
        "a chain with the leaf as the last",
        "X-Amz-X509-Chain holds the certificate of X-Amz-X509 itself, and not as its first",
        _CHAIN,
        with_chain(lambda ca, leaf: (*leaf.chain, leaf.certificate)),
    ),
    _in_session(
        "twice",
        "a chain with a certificate twice",
        "X-Amz-X509-Chain holds a certificate twice",
        _CHAIN,
        with_chain(lambda ca, leaf: leaf.chain * 2),
    ),
    _in_session(
        "six",
        "a chain of six certificates",
        "X-Amz-X509-Chain holds 6 certificates, more than 5",
        _CHAIN,
        with_chain(lambda ca, leaf: leaf.chain * 6),
    ),
)
_BUNDLE = "hwsigner/emulator/control/anchors.py: _read_bundle"
_CRL = "hwsigner/emulator/control/crls.py: _check_list"
_SUBJECT = "the CA certificate CN=another CA,O=hwsigner trial"
_NO_CRL = "crlData is not one CRL in PEM"
_OF_THE_CONTROL_PLANE = (
    _in_call(
        "three-cas",
        "CreateTrustAnchor refuse three CAs",
        "A trust anchor may have at most 2 certificates, not 3",
        _BUNDLE,
        _anchor("three", lambda ca: [ca.issuer(f"of three {number}").certificate for number in range(3)]),
    ),
    _in_call(
        "no-key-usage",
        "CreateTrustAnchor refuse a CA without a key usage",
        f"{_SUBJECT} lacks the key usage keyCertSign",
        _BUNDLE,
        _anchor("usage", lambda ca: [ca.issuer("no usage", replace(A_CA, extensions=OF_CA[:1])).certificate]),
    ),
    _in_call(
        "sha-1",
        "CreateTrustAnchor refuse a CA that is signed with SHA-1",
        f"{_SUBJECT} is not signed with SHA-256, SHA-384, SHA-512 or ML-DSA",
        _BUNDLE,
        _anchor("sha-1", lambda ca: [sha1_signed(ca.issuer("sha1").certificate, ca.issuer("sha1"))]),
    ),
    _in_call(
        "rsa-1024",
        "CreateTrustAnchor refuse a CA with an RSA key of 1,024 bits",
        f"{_SUBJECT} has a key other than RSA of at least 2048 bits, P-256, P-384, P-521 or ML-DSA",
        _BUNDLE,
        _anchor("rsa-1024", lambda ca: [ca.issuer("rsa-1024", replace(A_CA, key="RSA-1024")).certificate]),
    ),
    _in_call(
        "stranger",
        "ImportCrl refuse a list of another CA",
        "The CRL is not signed by a certificate of the trust anchor",
        _CRL,
        _list("stranger", lambda ca: ca.revocation_list([1], ca.issuer("stranger"))),
    ),
    _in_call("no-list", "ImportCrl refuse what is not a list", _NO_CRL, _CRL, _list("no-list", lambda ca: b"trial")),
    _in_call(
        "mapping",
        "PutAttributeMapping refuse an unknown specifier",
        "the attribute mapping x509Subject = ['Trial'] is not known. "
        "Subject and issuer have * or names such as CN; SANs have DNS, URI and Name/*",
        "hwsigner/emulator/tags.py: parse_mappings",
        _mapping,
    ),
)

QUESTIONS = (*_OF_SESSIONS, *_OF_THE_CONTROL_PLANE)
