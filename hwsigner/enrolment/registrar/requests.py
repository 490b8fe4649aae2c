"""A certificate request against the policy: exactly the names that the machine has there, and nothing else.

The issuer may put into the certificate whatever a request asks for, so all of it is checked: what was read of it,
written again, must give the same bytes. Otherwise bits that a reader skips could carry anything into the certificate.
The order of the names counts: of several alternative names of a kind, AWS takes the first.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from hwsigner._identity.certificate_request import CertificateRequest, parse_name, request_info
from hwsigner.enrolment.registrar.policy import Machine

_EXTENSION_REQUEST = x509.ObjectIdentifier("1.2.840.113549.1.9.14")  # RFC 2985, 5.4.2.
_NO_USAGE = dict.fromkeys(
    (
        *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign"),
        *("encipher_only", "decipher_only"),
    ),
    False,
)
_UNREADABLE = (
    *(ValueError, TypeError, UnsupportedAlgorithm, NotImplementedError),
    *(x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
)
# What a request may ask for besides the names.
_HARMLESS: tuple[x509.ExtensionType, ...] = (
    x509.BasicConstraints(ca=False, path_length=None),
    x509.KeyUsage(digital_signature=True, **_NO_USAGE),
    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
)
_MOST_EXTENSIONS = len(_HARMLESS) + 1  # To write many takes long.


def problem_with(request: CertificateRequest, machine: Machine) -> str:
    """Return why the policy does not allow a request, for the audit line; empty if it does.

    The request's signature is not verified: the attestation does that.
    """
    try:
        parsed = request.x509
        attributes = [attribute.oid for attribute in parsed.attributes]
        extensions = list(parsed.extensions)
        if len(extensions) > _MOST_EXTENSIONS:
            return f"the request has more than {_MOST_EXTENSIONS} extensions"
        written: bytes = request_info(parsed.subject, request.public_key(), extensions).dump()
    except _UNREADABLE:
        return "the request can't be read"
    if attributes not in ([], [_EXTENSION_REQUEST]):
        return "the request has another attribute than its extensions"
    if written != parsed.tbs_certrequest_bytes:
        return "the request has its key or an extension in another form than the usual one"
    if parsed.subject.public_bytes() != parse_name(machine.subject).public_bytes():
        return "the request has another subject than the policy"
    allowed = {value.oid: value for value in _HARMLESS}
    names = [*map(x509.DNSName, machine.dns), *map(x509.UniformResourceIdentifier, machine.uris)]
    san = x509.SubjectAlternativeName.oid
    if names:
        allowed[san] = x509.SubjectAlternativeName(names)
    asked = {one.oid: one.value for one in extensions}
    if asked.get(san) != allowed.get(san):
        return "the request has other alternative names than the policy"
    for oid, value in asked.items():
        if allowed.get(oid) != value:
            return f"the request asks for the extension {oid.dotted_string} with a value that is not allowed"
    return ""
