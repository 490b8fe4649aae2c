"""Questions about the chain in X-Amz-X509-Chain, and the CAs in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from hwsigner.trial.questions import choice, document
from trial_aws.asking import INVALID, SESSION, UNTRUSTED, Ask, kind, of_leaf, of_root, outcome, usage
from trial_aws.authority import A_CA, LEAF, OF_CA, CertificateShape, TrialCA, TrialIssuer, TrialLeaf
from trial_aws.forging import sha1_signed
from trial_aws.plan import AWSRow
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.sources import CERTIFICATE_RULES, QUOTED, SIGNING, VENDORS_CLIENT
from trial_aws.wanted import OPEN, Wanted, WantedAnchor

_EMULATOR = "hwsigner/emulator/certificates.py"
_READING, _PATH = f"{_EMULATOR}: read_chain", f"{_EMULATOR}: check_path"
_ISSUING, _COMMON = f"{_EMULATOR}: _issuing_problem", f"{_EMULATOR}: _common_problem"
_CHECKS = "docs/how-to/emulator.md#what-it-checks"
_STRICTER = "docs/how-to/emulator.md#what-it-does-not-check"
_FACTS = "docs/how-to/aws.md#what-aws-documents-and-what-was-only-observed"
_DAY = timedelta(days=1)
_NOT_ENOUGH = choice("the signing process says what the header is for, and not what else may be in it")
_PATHS = choice("so RFC 5280 has it; AWS names no standard but PKIX")
_ROOT_OR_BELOW = document(
    "IAM Roles Anywhere User Guide: Getting started: roots and intermediates can be trust anchors"
)
MIDDLE_ANCHOR = WantedAnchor("middle", lambda ca: [ca.intermediate.certificate])
_BOTH: tuple[Wanted, ...] = (OPEN, MIDDLE_ANCHOR)

Order = Callable[[TrialCA, TrialLeaf], Sequence[x509.Certificate]]


def _row(name: str, words: str, needs: tuple[Wanted, ...] = (OPEN,)) -> AWSRow:
    return AWSRow(f"chains.{name}", f"Does a request get a session {words}?", (_CHECKS,), needs)


def _line(ca: TrialCA, length: int) -> TrialIssuer:
    """Return the last of some CAs, each issued by the one before it, and the first by the root."""
    issuer = ca.root
    for number in range(1, length + 1):
        shape = CertificateShape((("O", "hwsigner trial"), ("CN", f"CA number {number}")), extensions=OF_CA)
        issuer = ca.issuer(f"line-{number}", shape, issuer)
    return issuer


def with_chain(order: Order, *, length: int = 1, words: bool = True, anchor: str = "main") -> Ask:
    """Return what asks for a session with a leaf below a line of CAs.

    Args:
        order: returns the certificates of the header.
        length: how many CAs there are below the root.
        words: whether the answer has the words of a refusal.
        anchor: the name of the trust anchor.
    """

    def ask(scene: AWSScene) -> str:
        leaf = scene.leaf(LEAF, _line(scene.ca, length))
        answer = scene.session(leaf, AskedSession(chain=order(scene.ca, leaf), anchor=anchor))
        return outcome(answer) if words else kind(answer)

    return ask


def _below(shape: CertificateShape) -> Ask:
    """Return what asks for a session with a leaf of an intermediate CA of this shape."""
    return of_leaf(lambda ca: ca.leaf(LEAF, _issuer_of(ca, shape)))


def _issuer_of(ca: TrialCA, shape: CertificateShape) -> TrialIssuer:
    return ca.issuer(f"shaped {shape!r}", replace(shape, subject=(("CN", "a CA to judge"),)), ca.root)


def _below_expired(ca: TrialCA) -> TrialIssuer:
    """Return a CA whose issuer has expired."""
    above = _issuer_of(ca, replace(A_CA, end=-_DAY / 24))
    return ca.issuer("below-expired", CertificateShape((("CN", "CA below an expired one"),), extensions=OF_CA), above)


def _unrelated(ca: TrialCA) -> TrialIssuer:
    return ca.issuer("unrelated", CertificateShape((("CN", "unrelated CA"),), extensions=OF_CA), ca.root)


_ORDERS = (
    _row("none", "with a leaf of the trust anchor's root and no chain").expects(
        SESSION, SIGNING, of_leaf(of_root(LEAF)), _PATH
    ),
    _row("one", "with the one intermediate CA in the chain").expects(SESSION, SIGNING, of_leaf(LEAF), _PATH),
    _row("missing", "without the intermediate CA").expects(UNTRUSTED, QUOTED, of_leaf(LEAF, chain=()), _PATH),
    _row("gap", "without the second of two intermediate CAs").expects(
        UNTRUSTED, QUOTED, with_chain(lambda ca, leaf: leaf.chain[:1], length=2), _PATH
    ),
    _row("two", "with two intermediate CAs, the leaf's issuer first").expects(
        SESSION, SIGNING, with_chain(lambda ca, leaf: leaf.chain, length=2), _PATH
    ),
    _row("reversed", "with two intermediate CAs, the leaf's issuer last").expects(
        UNTRUSTED, _NOT_ENOUGH, with_chain(lambda ca, leaf: leaf.chain[::-1], length=2), _PATH
    ),
    _row("leaf-first", "with the leaf as the first in the chain").expects(
        SESSION, VENDORS_CLIENT, with_chain(lambda ca, leaf: (leaf.certificate, *leaf.chain)), _READING
    ),
    _row("leaf-last", "with the leaf as the last in the chain").expects(
        INVALID, _NOT_ENOUGH, with_chain(lambda ca, leaf: (*leaf.chain, leaf.certificate), words=False), _READING
    ),
    _row("root-last", "with the root as the last in the chain").expects(
        INVALID,
        _NOT_ENOUGH,
        with_chain(lambda ca, leaf: (*leaf.chain, ca.root.certificate), words=False),
        _READING,
        _STRICTER,
    ),
    _row("unrelated", "with an unrelated CA as the last in the chain").expects(
        UNTRUSTED, _NOT_ENOUGH, with_chain(lambda ca, leaf: (*leaf.chain, _unrelated(ca).certificate)), _PATH, _STRICTER
    ),
    _row("twice", "with the intermediate CA twice in the chain").expects(
        INVALID, _NOT_ENOUGH, with_chain(lambda ca, leaf: (*leaf.chain, *leaf.chain), words=False), _READING
    ),
    _row("five", "with five intermediate CAs").expects(
        SESSION, SIGNING, with_chain(lambda ca, leaf: leaf.chain, length=5), _READING
    ),
    _row("six", "with six intermediate CAs").expects(
        INVALID, SIGNING, with_chain(lambda ca, leaf: leaf.chain, length=6, words=False), _READING
    ),
)


def _too_deep(ca: TrialCA) -> TrialLeaf:
    """Return a leaf of a CA below the trial's intermediate, which allows none below it."""
    shape = CertificateShape((("CN", "CA too deep"),), extensions=OF_CA)
    return ca.leaf(LEAF, ca.issuer("too-deep", shape, ca.intermediate))


def _same_name(ca: TrialCA) -> TrialLeaf:
    """Return a leaf of another CA with the name of the trial's intermediate."""
    shape = CertificateShape(ca.intermediate.certificate.subject, extensions=OF_CA)
    return replace(ca.leaf(LEAF, ca.issuer("namesake", shape)), chain=ca.intermediate.chain)


_ANCHORS = (
    _row(
        "intermediate-anchor", "if the intermediate CA is the trust anchor, and there is no chain", needs=_BOTH
    ).expects(SESSION, _ROOT_OR_BELOW, of_leaf(LEAF, anchor="middle", chain=()), _PATH),
    _row(
        "intermediate-anchor-sent", "if the intermediate CA is the trust anchor and in the chain too", needs=_BOTH
    ).expects(SESSION, _NOT_ENOUGH, of_leaf(LEAF, anchor="middle"), _PATH),
    _row(
        "expired-above",
        "if the second intermediate CA is the trust anchor, and the first is in the chain and has expired",
        needs=(OPEN, WantedAnchor("below-expired", lambda ca: [_below_expired(ca).certificate])),
    ).expects(
        SESSION,
        choice("what is above a trust anchor is not judged, as in RFC 5280"),
        of_leaf(lambda ca: ca.leaf(LEAF, _below_expired(ca)), anchor="below-expired"),
        _PATH,
    ),
    _row(
        "above-the-anchor", "if the intermediate CA is the trust anchor, with a leaf of the root", needs=_BOTH
    ).expects(UNTRUSTED, CERTIFICATE_RULES, of_leaf(of_root(LEAF), anchor="middle"), _PATH),
    _row("anchor-path-length", "if the path length of the trust anchor is exceeded", needs=_BOTH).expects(
        UNTRUSTED, _PATHS, of_leaf(_too_deep, anchor="middle"), _ISSUING
    ),
    _row("other-ca", "with a leaf of another CA").expects(
        UNTRUSTED, QUOTED, of_leaf(lambda ca: ca.leaf(LEAF, ca.issuer("stranger"))), _PATH
    ),
    _row("namesake", "with a leaf of another CA of the same name").expects(
        UNTRUSTED, _PATHS, of_leaf(_same_name), _PATH
    ),
)


def _ca_with(*more: tuple[x509.ExtensionType, bool]) -> CertificateShape:
    return replace(A_CA, extensions=(*OF_CA, *more))


def _constrained(ca: TrialCA) -> TrialLeaf:
    constraints = x509.NameConstraints([x509.DNSName("permitted.example")], None)
    shape = replace(LEAF, san=[x509.DNSName("other.example")])
    return ca.leaf(shape, _issuer_of(ca, _ca_with((constraints, True))))


def _self_issued(ca: TrialCA) -> TrialLeaf:
    """Return a leaf below two CAs of one name, the upper of which allows no CA below it."""
    shape = replace(A_CA, extensions=((x509.BasicConstraints(ca=True, path_length=0), True), OF_CA[1]))
    upper = ca.issuer("self-issuing", shape, ca.root)
    return ca.leaf(LEAF, ca.issuer("self-issued", shape, upper))


def _other_key_id(ca: TrialCA) -> TrialLeaf:
    key_id = x509.AuthorityKeyIdentifier(b"another key's ID", None, None)
    return ca.leaf(replace(LEAF, extensions=(*LEAF.extensions, (key_id, False))))


def _of_sha1(ca: TrialCA) -> TrialLeaf:
    leaf = ca.leaf(LEAF, _issuer_of(ca, _ca_with()))
    return replace(leaf, chain=(sha1_signed(leaf.chain[0], ca.root),))


_BASIC, _USAGE = OF_CA
_MAPPED_POLICY = bytes.fromhex("3010300e0605 2b06010401 0605 2b06010402")
_CAS = (
    _row("expired-ca", "if the intermediate CA has expired").expects(
        UNTRUSTED, _PATHS, _below(replace(A_CA, end=-_DAY / 24)), _COMMON
    ),
    _row("early-ca", "if the intermediate CA is not valid yet").expects(
        UNTRUSTED, _PATHS, _below(replace(A_CA, begin=_DAY / 24)), _COMMON
    ),
    _row("not-a-ca", "if the leaf's issuer is CA:FALSE").expects(
        UNTRUSTED,
        CERTIFICATE_RULES,
        _below(replace(A_CA, extensions=((x509.BasicConstraints(ca=False, path_length=None), True), _USAGE))),
        _ISSUING,
    ),
    _row("no-basic-constraints", "if the leaf's issuer has no basic constraints").expects(
        UNTRUSTED, CERTIFICATE_RULES, _below(replace(A_CA, extensions=(_USAGE,))), _ISSUING
    ),
    _row("no-cert-sign", "if the intermediate CA lacks the key usage keyCertSign").expects(
        UNTRUSTED, _PATHS, _below(replace(A_CA, extensions=(_BASIC, usage("crl_sign")))), _ISSUING
    ),
    _row("no-key-usage", "if the intermediate CA has no key usage").expects(
        UNTRUSTED, _PATHS, _below(replace(A_CA, extensions=(_BASIC,))), _ISSUING
    ),
    _row("rsa-1024-ca", "if the intermediate CA has an RSA key of 1,024 bits").expects(
        UNTRUSTED,
        choice("a CA may have the keys that a leaf may have"),
        _below(replace(A_CA, key="RSA-1024")),
        f"{_EMULATOR}: _is_strong_key",
    ),
    _row("unknown-critical-ca", "if the intermediate CA has an unknown critical extension").expects(
        UNTRUSTED,
        _PATHS,
        _below(
            _ca_with((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.32473.1.1"), b"\x05\x00"), True))
        ),
        _COMMON,
    ),
    _row("sha-1-ca", "if the intermediate CA is signed with SHA-1").expects(
        UNTRUSTED, CERTIFICATE_RULES, of_leaf(_of_sha1), _COMMON
    ),
    _row("path-length", "if the path length of the intermediate CA is exceeded").expects(
        UNTRUSTED, _PATHS, of_leaf(_too_deep), _ISSUING
    ),
    _row(
        "self-issued", "if the intermediate CA allows none below it, and has issued a certificate to its own name"
    ).expects(SESSION, _PATHS, of_leaf(_self_issued), _PATH),
    _row("policy-mappings", "if the intermediate CA has critical policy mappings").expects(
        SESSION,
        _PATHS,
        _below(_ca_with((x509.UnrecognizedExtension(ExtensionOID.POLICY_MAPPINGS, _MAPPED_POLICY), True))),
        _COMMON,
    ),
    _row("name-constraints", "if the intermediate CA's name constraints exclude the leaf's DNS name").expects(
        SESSION,
        choice("AWS does not say that it checks them, and the emulator does not; aws check warns of them"),
        of_leaf(_constrained),
        _STRICTER,
    ),
    _row("key-identifier", "if the leaf's authority key identifier is not the intermediate CA's").expects(
        SESSION,
        choice("RFC 5280 uses it to find the issuer, not to check it; aws check warns of it"),
        of_leaf(_other_key_id),
        _FACTS,
    ),
    _row("ml-dsa-ca", "if an ML-DSA-65 CA is between the P-256 root and the P-256 leaf").expects(
        SESSION,
        choice("AWS documents ML-DSA for the keys of leaves; a CA may have what a leaf may have"),
        _below(replace(A_CA, key="ML-DSA-65")),
        f"{_EMULATOR}: _is_strong_key",
    ),
    _row("ml-dsa-both", "if both the leaf and its CA have ML-DSA-44 keys below a P-256 root").expects(
        SESSION,
        choice("AWS documents ML-DSA for the keys of leaves; a CA may have what a leaf may have"),
        of_leaf(lambda ca: ca.leaf(replace(LEAF, key="ML-DSA-44"), _issuer_of(ca, replace(A_CA, key="ML-DSA-44")))),
        f"{_EMULATOR}: _is_strong_key",
    ),
    _row(
        "ml-dsa-87-both",
        "if both the leaf and its CA have ML-DSA-87 keys below a P-256 root, which makes over 20 KB of headers",
    ).expects(
        SESSION,
        choice("AWS documents ML-DSA-87, and no limit for headers"),
        of_leaf(lambda ca: ca.leaf(replace(LEAF, key="ML-DSA-87"), _issuer_of(ca, replace(A_CA, key="ML-DSA-87")))),
        "hwsigner/emulator/wire.py: MAX_LINE",
    ),
)

QUESTIONS = (*_ORDERS, *_ANCHORS, *_CAS)
