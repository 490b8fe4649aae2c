"""Sessions that fail, each with words that name the cause, and sessions that are sound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from certs import Authority, ago
from emulator.material import CA_FORM, DAY, Form, authority, certificate, sha1_signed, version_1

KEY = ec.generate_private_key(ec.SECP256R1())
ROOT, OTHER = authority(Form("Root CA", ca=True, usages=("key_cert_sign",))), authority()
LEAF = Form("bamboo-01")
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
EXPIRED: dict[str, Any] = {"begin": -2 * DAY, "end": -DAY}
FUTURE: dict[str, Any] = {"begin": DAY, "end": 2 * DAY}
LONG = "x" * 257


@dataclass(frozen=True)
class Session:
    """What a client has and what AWS has.

    Attributes:
        others: the certificates in the client's file beside the leaf.
        anchors: the certificates of the trust anchor.
        cause: words of the finding that names the cause; empty if the session is sound.
        mappings: the Roles Anywhere profile's attribute mappings; None for AWS's.
        crl: an enabled revocation list of the trust anchor, in PEM.
    """

    leaf: x509.Certificate
    others: tuple[x509.Certificate, ...] = ()
    anchors: tuple[x509.Certificate, ...] = (ROOT.certificate,)
    cause: str = ""
    key: Any = KEY
    mappings: Mapping[str, tuple[str, ...]] | None = None
    crl: bytes = b""
    tip: dict[str, str] = field(default_factory=dict)


def form(name: x509.Name | str = "bamboo-01", **more: Any) -> Form:
    return Form(name, **more)


def leaf(form: Form = LEAF, issuer: Authority = ROOT, key: Any = KEY) -> x509.Certificate:
    return certificate(form, key.public_key(), issuer)


def ca(issuer: Authority | None = ROOT, *, key: Any = None, name: str = "A CA", **more: Any) -> Authority:
    """Return a CA below another one; without an issuer, a root. `name` is its common name."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    made = Form(name, **{"ca": True, "usages": ("key_cert_sign",), **more})
    return Authority(certificate(made, key.public_key(), issuer, key), key)


def line(*length: int | None, root: Authority = ROOT) -> list[Authority]:
    """Return CAs, each below the one before it, with these path lengths."""
    made = [root]
    for number, each in enumerate(length):
        made.append(ca(made[-1], name=f"Number {number}", path_length=each))
    return made[1:]


def of_leaf(cause: str, key: Any = KEY, **more: Any) -> Callable[[], Session]:
    return lambda: Session(leaf(form(**more), key=key), cause=cause, key=key)


def below(cause: str, **more: Any) -> Callable[[], Session]:
    """Return a session through one intermediate."""

    def make() -> Session:
        middle = ca(**more)
        return Session(leaf(issuer=middle), (middle.certificate,), cause=cause)

    return make


def under(cause: str, **more: Any) -> Callable[[], Session]:
    """Return a session whose leaf is directly below a trust anchor."""

    def make() -> Session:
        anchor = ca(None, **more)
        return Session(leaf(issuer=anchor), anchors=(anchor.certificate,), cause=cause)

    return make


def named(cause: str, *names: x509.GeneralName, mappings: Any = None, **more: Any) -> Callable[[], Session]:
    alternatives = ((x509.SubjectAlternativeName(names), False),) if names else ()
    return lambda: Session(leaf(form(**more, extensions=alternatives)), cause=cause, mappings=mappings)


def through(cause: str, chain: list[Authority], *sent: int, anchor: Authority = ROOT) -> Session:
    """Return a session of a leaf below a line of CAs, of which the client has some."""
    others = tuple(chain[number].certificate for number in sent)
    return Session(leaf(issuer=chain[-1]), others, (anchor.certificate,), cause)


def renewed(of: Authority, issuer: Authority | None = ROOT, **more: Any) -> x509.Certificate:
    """Return another certificate of a CA: the same name and key."""
    made = Form(of.certificate.subject, **{"ca": True, "usages": ("key_cert_sign",), **more})
    return certificate(made, of.key.public_key(), issuer, of.key)


def crl_of(issuer: Authority, *revoked: x509.Certificate) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    builder = builder.last_update(ago(1)).next_update(ago(-1)).add_extension(x509.CRLNumber(1), critical=False)
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.serial_number).revocation_date(ago(1))
        builder = builder.add_revoked_certificate(entry.build())
    algorithm = None if isinstance(issuer.key, mldsa.MLDSA44PrivateKey) else hashes.SHA256()
    return builder.sign(issuer.key, algorithm).public_bytes(Encoding.PEM)


def _self_signed() -> Session:
    return Session(certificate(LEAF, KEY.public_key(), None, KEY), cause="was issued by")


def _of_version_1() -> Session:
    old = version_1(KEY.public_key(), ROOT)
    return Session(leaf(issuer=Authority(old, KEY)), (old,), cause="build-7,OU=devops,O=Example,C=DE")


def _intermediate_of_sha_1() -> Session:
    key = ec.generate_private_key(ec.SECP256R1())
    middle = Authority(sha1_signed(CA_FORM, key.public_key(), ROOT), key)
    return Session(leaf(issuer=middle), (middle.certificate,), cause="is signed with SHA1")


def _anchor_of_sha_1() -> Session:
    root = ca(None, name="Old root")
    old = sha1_signed(form("Old root", ca=True, usages=("key_cert_sign",)), root.key.public_key(), root)
    return Session(leaf(issuer=root), anchors=(old,), cause="is signed with SHA1")


def _expired_among_two() -> Session:
    old = ca(None, **EXPIRED)
    return Session(leaf(issuer=old), anchors=(old.certificate, OTHER.certificate), cause="expired on")


def _cross_signed_elsewhere(*more: x509.Certificate) -> Session:
    """Return a session whose file has the intermediate's certificates by two roots; the other one expires later."""
    middle = ca(end=3 * DAY)
    others = (renewed(middle, OTHER, end=5 * DAY), middle.certificate, *more)
    return Session(leaf(issuer=middle), others)


def _upper_expired() -> Session:
    upper = ca(name="Upper", **EXPIRED)
    lower = ca(upper)
    return Session(leaf(issuer=lower), (lower.certificate, upper.certificate), cause="intermediate CN=Upper")


def _anchor_is_intermediate_of_no_length() -> Session:
    anchor = ca(name="Anchor", path_length=0)
    middle = ca(anchor)
    return Session(leaf(issuer=middle), (middle.certificate,), (anchor.certificate,), "allows 0 intermediates")


def _revoked() -> Session:
    made = leaf()
    return Session(made, cause="revokes CN=bamboo-01", crl=crl_of(ROOT, made))


def _revoked_ca() -> Session:
    middle = ca()
    return Session(
        leaf(issuer=middle), (middle.certificate,), cause="revokes CN=A CA", crl=crl_of(ROOT, middle.certificate)
    )


def _revoked_by_ml_dsa() -> Session:
    root = ca(None, key=mldsa.MLDSA44PrivateKey.generate())
    made = leaf(issuer=root)
    return Session(made, anchors=(root.certificate,), cause="revokes CN=bamboo-01", crl=crl_of(root, made))


def _below_ed25519() -> Session:
    anchor = ca(None, key=ed25519.Ed25519PrivateKey.generate())
    return Session(leaf(issuer=anchor), anchors=(anchor.certificate,), cause="is signed with neither")


def _no_subject_for_tip() -> Session:
    tip = {"status": "ENABLED", "subjectSource": "x509SAN/URI"}
    return Session(leaf(), cause="x509SAN/URI is not in the certificate", tip=tip)


_RSA_1024 = rsa.generate_private_key(65537, 1024)
_P_224 = ec.generate_private_key(ec.SECP224R1())
_DNS, _WILD, _OUTSIDE = x509.DNSName("a.example"), x509.DNSName("*.example"), x509.UniformResourceIdentifier("x:a?b")
_INNER = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A (B)")]))
_WITHOUT_CN = {"x509Subject": ("OU",), "x509Issuer": ("*",), "x509SAN": ("DNS",)}
_LONG_OU = x509.Name(
    [
        x509.NameAttribute(NameOID.COMMON_NAME, "bamboo-01"),
        *(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "x" * 64) for _ in range(4)),
    ]
)

FAILING: dict[str, Callable[[], Session]] = {
    "the leaf is of version 1": lambda: Session(version_1(KEY.public_key(), ROOT), cause="version 3"),
    "the leaf is a CA's": of_leaf("is a CA certificate", ca=True),
    "the leaf has no key usage": of_leaf("digitalSignature", usages=None),
    "the leaf has another key usage": of_leaf("digitalSignature", usages=("key_encipherment", "key_agreement")),
    "the leaf expired": of_leaf("expired at", **EXPIRED),
    "the leaf is not yet valid": of_leaf("is not valid before", **FUTURE),
    "the leaf is signed with SHA-1": lambda: Session(sha1_signed(LEAF, KEY.public_key(), ROOT), cause="SHA1"),
    "the leaf is signed with SHA-224": of_leaf("SHA224", hash=hashes.SHA224),
    "the leaf is signed with SHA3-256": of_leaf("SHA3-256", hash=hashes.SHA3_256),
    "the leaf has an unknown critical extension": of_leaf("extension 1.2.3.4", extensions=((UNKNOWN, True),)),
    "the leaf's key is RSA-1024": of_leaf("an RSA key of 1024 bits", _RSA_1024),
    "the leaf's key is P-224": of_leaf("kind of key", _P_224),
    "the leaf's key is secp256k1": of_leaf("kind of key", ec.generate_private_key(ec.SECP256K1())),
    "the leaf's key is Ed25519": of_leaf("kind of key", ed25519.Ed25519PrivateKey.generate()),
    "the leaf has an empty subject": of_leaf("has an empty subject", name=x509.Name([])),
    "the leaf is self-signed": _self_signed,
    "the leaf is of another CA": lambda: Session(leaf(issuer=OTHER), cause="was issued by"),
    "the leaf is of another CA with the same name": lambda: Session(leaf(issuer=ca(None, name="Root CA")), cause="by"),
    "the only intermediate is missing": lambda: through("issued by CN=Number 0", line(None)),
    "the upper intermediate is missing": lambda: through("issued by CN=Number 1", line(None, None, None), 2),
    "the lower intermediate is missing": lambda: through("issued by CN=Number 2", line(None, None, None), 0, 1),
    "the middle intermediate is missing": lambda: through("issued by CN=Number 1", line(None, None, None), 0, 2),
    "an intermediate expired": below("expired on", **EXPIRED),
    "the upper intermediate expired": _upper_expired,
    "an intermediate is not yet valid": below("is not valid before", **FUTURE),
    "an intermediate lacks keyCertSign": below("keyCertSign", usages=("crl_sign", "digital_signature")),
    "an intermediate has no key usage": below("keyCertSign", usages=None),
    "an intermediate is CA:FALSE": below("CA:TRUE", ca=False),
    "an intermediate has no basic constraints": below("CA:TRUE", ca=None),
    "an intermediate is of version 1": _of_version_1,
    "an intermediate is signed with SHA-1": _intermediate_of_sha_1,
    "an intermediate is signed with SHA-224": below("SHA224", hash=hashes.SHA224),
    "an intermediate's key is RSA-1024": below("an RSA key of 1024 bits", key=_RSA_1024),
    "an intermediate's key is P-224": below("kind of key", key=_P_224),
    "an intermediate has an unknown critical extension": below("1.2.3.4", extensions=((UNKNOWN, True),)),
    "the trust anchor's path length is exceeded": lambda: through(
        "Root 0,OU=devops,O=Example,C=DE of trust anchor web allows 0 intermediates",
        line(None, root=(root := ca(None, name="Root 0", path_length=0))),
        *(0,),
        anchor=root,
    ),
    "the trust anchor's path length is exceeded by two": lambda: through(
        "and there are 2", line(None, None, root=(root := ca(None, path_length=1))), 0, 1, anchor=root
    ),
    "an intermediate's path length is exceeded": lambda: through("intermediate CN=Number 0", line(0, None), 0, 1),
    "a middle intermediate's path length is exceeded": lambda: through("CN=Number 0", line(1, 1, 1, 0), 0, 1, 2, 3),
    "the trust anchor is an intermediate, its path length is exceeded": _anchor_is_intermediate_of_no_length,
    "the intermediate is cross-signed by another root": lambda: replace(
        _cross_signed_elsewhere(), cause="and to trust anchor web leads CN=A CA,OU=devops"
    ),
    "the trust anchor expired": under("expired on", **EXPIRED),
    "the trust anchor is not yet valid": under("is not valid before", **FUTURE),
    "the trust anchor lacks keyCertSign": under("keyCertSign", usages=("crl_sign",)),
    "the trust anchor has no key usage": under("keyCertSign", usages=None),
    "the trust anchor is CA:FALSE": under("CA:TRUE", ca=False),
    "the trust anchor is signed with SHA-1": _anchor_of_sha_1,
    "the trust anchor is signed with SHA-224": under("SHA224", hash=hashes.SHA224),
    "the trust anchor's key is RSA-1024": under("an RSA key of 1024 bits", key=_RSA_1024),
    "the trust anchor's key is Ed25519": _below_ed25519,
    "the trust anchor has an unknown critical extension": under("1.2.3.4", extensions=((UNKNOWN, True),)),
    "of two CAs in the trust anchor, the leaf's expired": _expired_among_two,
    "the CN has an ampersand": named("x509Subject/CN is 'R&D'", name="R&D"),
    "the CN has parentheses and is not mapped": named("source identity", name="A (B)", mappings=_WITHOUT_CN),
    "the joined OUs are too long": named("x509Subject/OU has 259 characters", name=_LONG_OU),
    "the issuer's CN has parentheses": under("x509Issuer/CN is 'CA (1)'", name="CA (1)"),
    "the first DNS name is a wildcard": named("x509SAN/DNS is", _WILD),
    "the second DNS name is a wildcard": named("x509SAN/DNS/2 is", _DNS, _WILD),
    "the third DNS name is a wildcard": named("x509SAN/DNS/3 is", _DNS, _DNS, _WILD),
    "the URI has a question mark": named("x509SAN/URI is", _OUTSIDE),
    "the directory name has parentheses": named("x509SAN/Name/O is", _INNER),
    "the leaf is revoked": _revoked,
    "the leaf is revoked by a CA whose key is ML-DSA": _revoked_by_ml_dsa,
    "the intermediate is revoked": _revoked_ca,
    "the trust policy names another CN": named("but it is 'bamboo-02'", name="bamboo-02"),
    "identity propagation has no subject": _no_subject_for_tip,
}


def _constrained(cause: str, names: x509.NameConstraints, *, by_anchor: bool = False) -> Callable[[], Session]:
    """Return a session of a host below a CA that constrains names."""

    def make() -> Session:
        issuer = ca(None if by_anchor else ROOT, extensions=((names, True),))
        made = leaf(form(extensions=((x509.SubjectAlternativeName([_DNS]), False),)), issuer)
        own = (issuer.certificate,)
        return Session(made, anchors=own, cause=cause) if by_anchor else Session(made, own, cause=cause)

    return make


def _named_otherwise(cause: str, names: x509.AuthorityKeyIdentifier) -> Callable[[], Session]:
    """Return a session whose leaf names another issuer than the one that signed it."""

    def make() -> Session:
        middle = ca(extensions=((x509.SubjectKeyIdentifier(b"own"), False),))
        return Session(leaf(form(extensions=((names, False),)), middle), (middle.certificate,), cause=cause)

    return make


_FRANCE = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "FR")]))
# OpenSSL refuses them, the emulator does not, and AWS's documents say nothing.
UNDOCUMENTED: dict[str, Callable[[], Session]] = {
    "an intermediate allows another country": _constrained(
        "does not allow the name CN=bamboo-01", x509.NameConstraints([_FRANCE], None)
    ),
    "an intermediate excludes the host": _constrained(
        "does not allow the DNS name 'a.example'", x509.NameConstraints(None, [x509.DNSName("example")])
    ),
    "the trust anchor allows another host": _constrained(
        "of trust anchor web does not allow the DNS name",
        x509.NameConstraints([x509.DNSName("x.org")], None),
        by_anchor=True,
    ),
    "the leaf names another key of its issuer": _named_otherwise(
        "another subjectKeyIdentifier", x509.AuthorityKeyIdentifier(b"other", None, None)
    ),
    "the leaf names another certificate of its issuer": _named_otherwise(
        "is not the one that", x509.AuthorityKeyIdentifier(None, [_FRANCE], 1)
    ),
}


def _several(*others: x509.Certificate, anchor: x509.Certificate, issuer: Authority) -> Session:
    return Session(leaf(issuer=issuer), others, (anchor,))


def _renewed_intermediate() -> Session:
    middle = ca(**EXPIRED)
    return _several(middle.certificate, renewed(middle, end=5 * DAY), anchor=ROOT.certificate, issuer=middle)


def _intermediate_of_tomorrow() -> Session:
    middle = ca()
    return _several(renewed(middle, begin=DAY, end=9 * DAY), middle.certificate, anchor=ROOT.certificate, issuer=middle)


def _renewed_intermediate_is_the_anchor() -> Session:
    middle = ca(**EXPIRED)
    return _several(middle.certificate, anchor=renewed(middle), issuer=middle)


def _unfit_above_the_anchor() -> Session:
    upper = ca(name="Upper", usages=("crl_sign",), path_length=0)
    middle = ca(upper)
    return _several(middle.certificate, upper.certificate, anchor=middle.certificate, issuer=middle)


def _two_cas(*, same_key: bool) -> Session:
    old = ca(None, **EXPIRED)
    new = renewed(old, None) if same_key else ROOT.certificate
    return Session(leaf(issuer=old if same_key else ROOT), anchors=(old.certificate, new))


def _cross_signed() -> Session:
    crossed = renewed(OTHER, ROOT)
    return _several(crossed, OTHER.certificate, anchor=ROOT.certificate, issuer=OTHER)


def _cross_signed_but_not_needed() -> Session:
    crossed = renewed(OTHER, ROOT, **EXPIRED)
    return _several(crossed, OTHER.certificate, anchor=OTHER.certificate, issuer=OTHER)


def _rollover() -> Session:
    """A CA's old key certified its new one. Such certificates do not count for path lengths (RFC 5280, 6.1.4)."""
    old = ca(None, name="Root", path_length=0)
    new = ca(old, name="Root", path_length=0)
    return Session(leaf(issuer=new), (new.certificate,), (old.certificate,))


def _revoked_elsewhere() -> Session:
    made = leaf()
    middle = ca()
    of_middle = certificate(Form("bamboo-01", serial=made.serial_number), KEY.public_key(), middle)
    return Session(of_middle, (middle.certificate,), crl=crl_of(ROOT, made))


def _revoked_by_the_name() -> Session:
    old, new = ca(None), ca(None)
    made = leaf(issuer=new)
    return Session(made, anchors=(old.certificate, new.certificate), crl=crl_of(old, made))


def _with_key(key: Any) -> Callable[[], Session]:
    return lambda: Session(leaf(key=key), key=key)


def _usage(*usages: x509.ObjectIdentifier, critical: bool = False) -> Callable[[], Session]:
    extension = x509.ExtendedKeyUsage(usages)
    return lambda: Session(leaf(form(extensions=((extension, critical),))))


# RFC 5280 (4.2.1.5) says that CAs should mark it critical. cryptography does not parse it.
_POLICY_MAPPINGS = x509.UnrecognizedExtension(
    ExtensionOID.POLICY_MAPPINGS, bytes.fromhex("300c300a06032a030406032a0305")
)
_UMLAUTS = x509.Name(
    [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Größe 7"),
        x509.NameAttribute(NameOID.COMMON_NAME, "bamboo-01"),
        x509.NameAttribute(NameOID.STREET_ADDRESS, "A & B"),
    ]
)
SOUND: dict[str, Callable[[], Session]] = {
    "nothing is unusual": lambda: Session(leaf()),
    "the leaf has no basic constraints": lambda: Session(leaf(form(ca=None))),
    "the leaf has more key usages": lambda: Session(leaf(form(usages=("digital_signature", "key_agreement")))),
    "the leaf has an unknown extension": lambda: Session(leaf(form(extensions=((UNKNOWN, False),)))),
    "the leaf is for servers": _usage(ExtendedKeyUsageOID.SERVER_AUTH),
    "the leaf has a critical extended key usage": _usage(ExtendedKeyUsageOID.CLIENT_AUTH, critical=True),
    "the leaf's key is RSA-2048": _with_key(rsa.generate_private_key(65537, 2048)),
    "the leaf's key is P-384": _with_key(ec.generate_private_key(ec.SECP384R1())),
    "the leaf's key is P-521": _with_key(ec.generate_private_key(ec.SECP521R1())),
    "the leaf's key is ML-DSA-65": _with_key(mldsa.MLDSA65PrivateKey.generate()),
    "the leaf is signed with SHA-512": lambda: Session(leaf(form(hash=hashes.SHA512))),
    "the leaf expires in a minute": lambda: Session(leaf(form(end=timedelta(minutes=1)))),
    "the CA's key is RSA-2048": under("", key=rsa.generate_private_key(65537, 2048)),
    "the CA's key is ML-DSA-44": under("", key=mldsa.MLDSA44PrivateKey.generate()),
    "the CA has more key usages": under("", usages=("key_cert_sign", "crl_sign", "digital_signature")),
    "the CA allows no intermediates, and there are none": under("", path_length=0),
    "there is an intermediate": below(""),
    "an intermediate maps policies": below("", extensions=((_POLICY_MAPPINGS, True),)),
    "there are five intermediates": lambda: through("", line(*[None] * 5), *range(5)),
    "path lengths just suffice": lambda: through("", line(2, 1, 0), 2, 0, 1),
    "the file has the root, too": lambda: _several(
        ROOT.certificate, (middle := ca()).certificate, anchor=ROOT.certificate, issuer=middle
    ),
    "the trust anchor is an intermediate": lambda: Session(
        leaf(issuer=(middle := ca())), anchors=(middle.certificate,)
    ),
    "the trust anchor is an intermediate that is sent": lambda: _several(
        (middle := ca()).certificate, anchor=middle.certificate, issuer=middle
    ),
    "the expired intermediate was renewed": _renewed_intermediate,
    "the next certificate of the intermediate begins tomorrow": _intermediate_of_tomorrow,
    "the trust anchor is the renewed intermediate": _renewed_intermediate_is_the_anchor,
    "what is above the trust anchor is unfit": _unfit_above_the_anchor,
    "the other CA of the trust anchor expired": lambda: _two_cas(same_key=False),
    "the trust anchor has the CA's old and new certificate": lambda: _two_cas(same_key=True),
    "the trust anchor's key certified its next one": _rollover,
    "the root is cross-signed": _cross_signed,
    "the intermediate is cross-signed, and the file has the root": lambda: _cross_signed_elsewhere(ROOT.certificate),
    "the cross-signed certificate expired, and is not needed": _cross_signed_but_not_needed,
    "a list revokes the serial number of another CA": _revoked_elsewhere,
    "a list of another CA with the same name revokes the serial number": _revoked_by_the_name,
    "names have other letters": lambda: Session(leaf(form(_UMLAUTS))),
    "there are two DNS names": named("", _DNS, x509.DNSName("b.example"), x509.RFC822Name("a*b@c.example")),
    "a wildcard is not mapped": named("", _WILD, mappings={"x509Subject": ("*",), "x509Issuer": ("*",)}),
}
