"""What an issuer returned, checked before anything is installed. It is the same for every issuer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from cryptography import x509

from hwsigner._identity.certificate import Certificate, Chain, build_chain, extension_of, load, preflight
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.enrolment.issuers import Issued
from hwsigner.errors import AmbiguousCertificateError, CertificateError
from hwsigner.key import FoundCertificate

_SOURCE = "from the issuer"
_ISSUERS_FAULT = "The issuer's settings must change. Nothing was installed"


def check_issued(request: CertificateRequest, issued: Issued, now: datetime) -> Chain:
    """Return the chain that an issuer returned, once it is known to fit the request.

    The leaf is for the request's key. It has the request's subject, in any order, and its subjectAltNames, no more and
    no less. Its validity and that of its CAs cover now, and the service will accept it. If CAs came with it, one of
    them issued it; CAs that are not in the chain are ignored, as an issuer sends old and new ones while it changes.

    Args:
        request: the request.
        issued: the certificates, in any order.
        now: the time, with its zone.

    Raises:
        CertificateError: something does not fit. The message says what.
    """
    found = load([FoundCertificate(der, _SOURCE) for der in issued.certificates])
    leaf = _leaf(request, found)
    check_names(request.x509, leaf.x509)
    try:
        preflight(leaf, now)
    except CertificateError as error:
        hint = "Fix this machine's clock if it is wrong; else the issuer's settings must change. Nothing was installed"
        raise CertificateError(error.message, hint) from error
    chain, _ = build_chain(leaf, found)
    others = [one for one in found if one.der != leaf.der]
    if others and not leaf.is_root() and not any(one.issued(leaf) for one in others):
        problem = f"the chain from the issuer does not fit: none of its certificates issued {leaf.subject}"
        raise CertificateError(problem, _ISSUERS_FAULT)
    _check_authorities(chain, now)
    return chain


def check_names(request: x509.CertificateSigningRequest, certificate: x509.Certificate) -> None:
    """Check that a certificate has the names of a request, and no others."""
    _check_same("subject", _parts(request.subject), _parts(certificate.subject))
    _check_same("subjectAltName", _alternatives(request.extensions), _alternatives(certificate.extensions))


def _leaf(request: CertificateRequest, found: list[Certificate]) -> Certificate:
    wanted = request.public_key()
    leaves = list({one.der: one for one in found if one.public_key() == wanted}.values())
    if not leaves:
        problem = f"the certificate from the issuer is for another key: {found[0].subject}"
        raise CertificateError(problem, _ISSUERS_FAULT)
    if len(leaves) > 1:
        problem = f"the issuer returned {len(leaves)} certificates for the key"
        raise AmbiguousCertificateError(problem, "It must return one. Nothing was installed")
    return leaves[0]


def _parts(name: x509.Name) -> Counter[str]:
    # A CA may change the order of the attributes, how a value is encoded, and join values of a type in one part.
    return Counter(attribute.rfc4514_string() for attribute in name)


def _alternatives(extensions: x509.Extensions) -> Counter[str]:
    names = extension_of(extensions, x509.SubjectAlternativeName) or ()
    return Counter(f"{type(one).__name__} {one.value}" for one in names)


def _check_same(what: str, wanted: Counter[str], found: Counter[str]) -> None:
    if wanted != found:
        lost, added = _listed(wanted - found), _listed(found - wanted)
        difference = " and ".join(filter(None, (lost and f"lacks {lost}", added and f"adds {added}")))
        problem = f"the certificate from the issuer has another {what} than the request: it {difference}"
        raise CertificateError(problem, "Ask for the names that the issuer gives, or change its settings")


def _listed(items: Iterable[str]) -> str:
    return ", ".join(sorted(items))


def _check_authorities(chain: Chain, now: datetime) -> None:
    for one in chain.intermediates:
        begin, end = one.x509.not_valid_before_utc, one.x509.not_valid_after_utc
        if not begin <= now <= end:
            problem = f"the CA certificate {one.subject} from the issuer is valid"
            problem += f" from {begin:%Y-%m-%d} to {end:%Y-%m-%d}"
            raise CertificateError(problem, "Fix this machine's clock if it is wrong; else the issuer must renew it")
