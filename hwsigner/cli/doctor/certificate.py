"""Mistakes of the certificate and its chain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hwsigner.cli.doctor.findings import Finding, finding, of_error
from hwsigner.errors import CertificateError

if TYPE_CHECKING:
    from hwsigner.cli.doctor.subject import Subject
    from hwsigner.identity.certificate import Certificate


def check(subject: Subject) -> Iterator[Finding]:
    """Yield why the service refuses the certificate, whatever AWS has."""
    if subject.leaf is None:
        return
    from hwsigner.identity.certificate import is_attestation, refusals

    if is_attestation(subject.leaf.x509):
        yield finding("certificate-attestation", f"{subject.leaf.source} attests a key of a YubiKey")
    for refusal in refusals(subject.leaf, subject.now):
        problem = f"certificate {subject.leaf.source} {refusal.problem}"
        yield finding(f"certificate-{refusal.rule}", problem)
    try:
        _ = subject.leaf.algorithm
    except CertificateError as error:
        yield of_error("certificate-unreadable", error)
    yield from _check_chain(subject.leaf, subject.certificates)
    yield from _check_names(subject.leaf)


def _check_chain(leaf: Certificate, certificates: Sequence[Certificate]) -> Iterator[Finding]:
    from hwsigner.identity.certificate import build_chain

    try:
        chain, strangers = build_chain(leaf, certificates)
    except CertificateError as error:
        yield of_error("chain-too-long", error)
        return
    is_one_file = {each.source for each in certificates} == {leaf.source}
    if strangers and not leaf.source.startswith("pkcs11:"):  # A token may have others of other keys.
        last = chain.certificates[-1]
        issuer = last.x509.issuer.rfc4514_string()
        yield finding(
            "chain-gap", f"{strangers[0].subject} did not issue {last.subject}, whose issuer {issuer} is missing"
        )
    sent = [each for each in certificates if each is leaf or each in chain.intermediates]
    if is_one_file and sent != [*chain.certificates]:
        yield finding("chain-order", f"{leaf.source} has the certificates in another order than that of the chain")


def _check_names(leaf: Certificate) -> Iterator[Finding]:
    from hwsigner.identity.session_tags import session_tags, untaggable

    problems = untaggable(leaf)
    for problem in problems:
        yield finding("name-untaggable", problem)
    has_name = session_tags(leaf).get("x509Subject/CN") or any(each.startswith("x509Subject/CN ") for each in problems)
    if not has_name:
        yield finding("name-empty", f"certificate {leaf.source} has no CN in its subject, or an empty one")
