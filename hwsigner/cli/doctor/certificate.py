"""Mistakes of the certificate and its chain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hwsigner.errors import CertificateError
from hwsigner.findings import Finding, Mistake, local

if TYPE_CHECKING:
    from hwsigner.cli.doctor.subject import Subject
    from hwsigner.identity.certificate import Certificate, Rule


def check(subject: Subject) -> Iterator[Finding]:
    """Yield why the service refuses the certificate, whatever AWS has."""
    if subject.leaf is None:
        return
    from hwsigner.identity.certificate import broken_rules, is_attestation

    if is_attestation(subject.leaf.x509):
        yield local.CERTIFICATE_ATTESTATION.found(f"{subject.leaf.source} attests a key of a YubiKey")
    for broken in broken_rules(subject.leaf, subject.now):
        problem = f"certificate {subject.leaf.source} {broken.problem}"
        yield _mistake(broken.rule).found(problem)
    try:
        _ = subject.leaf.algorithm
    except CertificateError as error:
        yield local.CERTIFICATE_UNREADABLE.found_by(error)
    yield from _check_chain(subject.leaf, subject.certificates)
    yield from _check_names(subject.leaf)


def _mistake(rule: Rule) -> Mistake:
    """Return the mistake by which the service refuses a certificate. mypy sees that each rule has one."""
    match rule:
        case "expired":
            return local.CERTIFICATE_EXPIRED
        case "not-yet-valid":
            return local.CERTIFICATE_NOT_YET_VALID
        case "version":
            return local.CERTIFICATE_VERSION
        case "ca":
            return local.CERTIFICATE_CA
        case "key-usage":
            return local.CERTIFICATE_KEY_USAGE
        case "hash":
            return local.CERTIFICATE_HASH


def _check_chain(leaf: Certificate, certificates: Sequence[Certificate]) -> Iterator[Finding]:
    from hwsigner.identity.certificate import build_chain

    try:
        chain, strangers = build_chain(leaf, certificates)
    except CertificateError as error:
        yield local.CHAIN_TOO_LONG.found_by(error)
        return
    is_one_file = {each.source for each in certificates} == {leaf.source}
    if strangers and not leaf.source.startswith("pkcs11:"):  # A token may have others of other keys.
        last = chain.certificates[-1]
        issuer = last.x509.issuer.rfc4514_string()
        yield local.CHAIN_GAP.found(
            f"{strangers[0].subject} did not issue {last.subject}, whose issuer {issuer} is missing"
        )
    sent = [each for each in certificates if each is leaf or each in chain.intermediates]
    if is_one_file and sent != [*chain.certificates]:
        yield local.CHAIN_ORDER.found(f"{leaf.source} has the certificates in another order than that of the chain")


def _check_names(leaf: Certificate) -> Iterator[Finding]:
    from hwsigner.identity.session_tags import session_tags, untaggable

    problems = untaggable(leaf)
    for problem in problems:
        yield local.NAME_UNTAGGABLE.found(problem)
    has_name = session_tags(leaf).get("x509Subject/CN") or any(each.startswith("x509Subject/CN ") for each in problems)
    if not has_name:
        yield local.NAME_EMPTY.found(f"certificate {leaf.source} has no CN in its subject, or an empty one")
