"""A certificate that was issued by other means: put beside its key, once it is known to fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hwsigner._identity import Identity
from hwsigner._identity.certificate import Certificate, Chain, build_chain, leaves, preflight
from hwsigner._uri import KeyURI
from hwsigner.enrolment.profile import certificate_values, is_for_person
from hwsigner.enrolment.steps import install
from hwsigner.errors import AmbiguousCertificateError, CertificateWarning, KeyMismatchError
from hwsigner.key.management import KeyAccess


@dataclass(frozen=True)
class InstalledLeaf:
    """A certificate beside its key, the flags that name both, as a profile has them, and notes for the user, a sentence
    each.

    `for_person` says whether each session with the key needs a touch, or a PIN that is not stored.
    """

    leaf: Certificate
    values: Mapping[str, str]
    notes: tuple[str, ...]
    for_person: bool


def install_leaf(
    access: KeyAccess, certificates: Sequence[Certificate], *, nv_index: str = "", check: bool = True
) -> InstalledLeaf:
    """Put the certificate of a key beside it, with its chain.

    `nv_index` is a TPM's NV index for the leaf; empty for a file beside the key. If `check` is False, the service may
    refuse the certificate. If none is for the key, this is a KeyMismatchError; if several are, an
    AmbiguousCertificateError.
    """
    key, uri = access.describe(), access.uri
    chain = _chain_of(uri, key.public_key, certificates)
    if check:
        preflight(chain.leaf, datetime.now(UTC))
    if key.public_key is None:  # The token hides it, so a signature shows whether they belong together.
        with Identity(access.open(), chain) as identity:
            identity.sign(b"hwsigner install-certificate")
    installed = install(access, chain, nv_index)
    for_person = is_for_person(key, access.pins)
    if "pivSlot" in key.properties:  # A slot is written with the management key, which can't sign.
        uri = uri.without_pin()
        for_person = for_person or key.properties.get("pinPolicy") != "never"
    return InstalledLeaf(chain.leaf, certificate_values(installed, uri), tuple(installed.notes), for_person)


def _chain_of(uri: KeyURI, public_key: bytes | None, certificates: Sequence[Certificate]) -> Chain:
    """Return the chain of a key's certificate, and warn of the certificates that are not in it."""
    different = list({one.der: one for one in certificates}.values())
    if public_key is None:
        candidates = leaves(different)
    else:
        candidates = [one for one in different if one.public_key() == public_key]
    if not candidates:
        problem = f"no certificate in {certificates[0].source} is for key {uri.name}"
        raise KeyMismatchError(problem, "Give the certificate that was issued for this key's certificate request")
    if len(candidates) > 1:
        known = ", ".join(f"{one.subject}, serial {one.x509.serial_number:X}" for one in candidates)
        problem = f"{len(candidates)} certificates in {candidates[0].source} may be the one for the key: {known}"
        raise AmbiguousCertificateError(problem, "Keep the one to be installed, and name its CAs by --intermediates")
    chain, strangers = build_chain(candidates[0], different)
    for stranger in strangers:
        problem = f"{stranger.source} has a certificate that is not in the chain: {stranger.subject}"
        warnings.warn(CertificateWarning(problem, "It is not installed"), stacklevel=3)
    return chain
