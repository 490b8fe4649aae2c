"""The chain in X-Amz-X509-Chain, and the CAs in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from cryptography import x509

from trial_aws.asking import Ask, kind, of_leaf, outcome
from trial_aws.authority import A_CA, LEAF, OF_CA, CertificateShape, Issued, TrialCA, usage
from trial_aws.forging import sha1_signed
from trial_aws.plan import needing
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.wanted import WantedAnchor

MIDDLE_ANCHOR = WantedAnchor("middle", lambda ca: [ca.intermediate.certificate])
_BASIC, _ = OF_CA
_HOUR = timedelta(hours=1)

Order = Callable[[TrialCA, Issued], Sequence[x509.Certificate]]


def _line(ca: TrialCA, length: int) -> Issued:
    """Return the last of some CAs, each issued by the one before it, and the first by the root."""
    issuer = ca.root
    for number in range(1, length + 1):
        shape = CertificateShape((("O", "hwsigner trial"), ("CN", f"CA number {number}")), extensions=OF_CA)
        issuer = ca.issuer(f"line-{number}", shape, issuer)
    return issuer


def _with_chain(order: Order, *, length: int = 1, words: bool = True) -> Ask:
    """Return what asks for a session with a leaf below so many CAs, and a header in an order."""

    def ask(scene: AWSScene) -> str:
        leaf = scene.leaf(LEAF, _line(scene.ca, length))
        answer = scene.session(leaf, AskedSession(chain=order(scene.ca, leaf)))
        return outcome(answer) if words else kind(answer)

    return ask


def _below(shape: CertificateShape) -> Ask:
    """Return what asks for a session with a leaf of an intermediate CA of this shape."""
    return of_leaf(lambda ca: ca.leaf(LEAF, _issuer_of(ca, shape)))


def _issuer_of(ca: TrialCA, shape: CertificateShape) -> Issued:
    return ca.issuer(f"shaped {shape!r}", replace(shape, subject=(("CN", "a CA to judge"),)), ca.root)


def _below_expired(ca: TrialCA) -> Issued:
    """Return a CA whose issuer has expired."""
    above = _issuer_of(ca, replace(A_CA, end=-_HOUR))
    return ca.issuer("below-expired", CertificateShape((("CN", "CA below an expired one"),), extensions=OF_CA), above)


def _unrelated(ca: TrialCA) -> Issued:
    return ca.issuer("unrelated", CertificateShape((("CN", "unrelated CA"),), extensions=OF_CA), ca.root)


def _constrained(ca: TrialCA) -> Issued:
    constraints = x509.NameConstraints([x509.DNSName("permitted.example")], None)
    issuer = _issuer_of(ca, replace(A_CA, extensions=(*OF_CA, (constraints, True))))
    return ca.leaf(replace(LEAF, san=[x509.DNSName("other.example")]), issuer)


def _self_issued(ca: TrialCA) -> Issued:
    """Return a leaf below two CAs of one name, the upper of which allows no CA below it."""
    shape = replace(A_CA, extensions=((x509.BasicConstraints(ca=True, path_length=0), True), OF_CA[1]))
    upper = ca.issuer("self-issuing", shape, ca.root)
    return ca.leaf(LEAF, ca.issuer("self-issued", shape, upper))


def _other_key_id(ca: TrialCA) -> Issued:
    key_id = x509.AuthorityKeyIdentifier(b"another key's ID", None, None)
    return ca.leaf(replace(LEAF, extensions=(*LEAF.extensions, (key_id, False))))


def _of_sha1(ca: TrialCA) -> Issued:
    leaf = ca.leaf(LEAF, _issuer_of(ca, A_CA))
    return replace(leaf, chain=(sha1_signed(leaf.chain[0], ca.root),))


def _ml_dsa_87(ca: TrialCA) -> Issued:
    return ca.leaf(replace(LEAF, key="ML-DSA-87"), _issuer_of(ca, replace(A_CA, key="ML-DSA-87")))


_EXPIRED_ABOVE = WantedAnchor("below-expired", lambda ca: [_below_expired(ca).certificate])
ASKS: Mapping[str, Ask] = {
    "chains.one": of_leaf(LEAF),
    "chains.missing": of_leaf(LEAF, chain=()),
    "chains.leaf-first": _with_chain(lambda _, leaf: (leaf.certificate, *leaf.chain)),
    "chains.root-last": _with_chain(lambda ca, leaf: (*leaf.chain, ca.root.certificate), words=False),
    "chains.unrelated": _with_chain(lambda ca, leaf: (*leaf.chain, _unrelated(ca).certificate)),
    "chains.six": _with_chain(lambda _, leaf: leaf.chain, length=6, words=False),
    "chains.intermediate-anchor-sent": needing(of_leaf(LEAF, anchor="middle"), MIDDLE_ANCHOR),
    "chains.expired-above": needing(
        of_leaf(lambda ca: ca.leaf(LEAF, _below_expired(ca)), anchor="below-expired"), _EXPIRED_ABOVE
    ),
    "chains.no-cert-sign": _below(replace(A_CA, extensions=(_BASIC, usage("crl_sign")))),
    "chains.no-key-usage": _below(replace(A_CA, extensions=(_BASIC,))),
    "chains.sha-1-ca": of_leaf(_of_sha1),
    "chains.self-issued": of_leaf(_self_issued),
    "chains.name-constraints": of_leaf(_constrained),
    "chains.key-identifier": of_leaf(_other_key_id),
    "chains.ml-dsa-ca": _below(replace(A_CA, key="ML-DSA-65")),
    "chains.ml-dsa-87-both": of_leaf(_ml_dsa_87),
}
