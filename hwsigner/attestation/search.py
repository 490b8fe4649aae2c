"""The search for the chain from a chip's certificate to a vendor's root. Its work is limited."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace

from hwsigner.attestation.chain import LONGEST_CHAIN, Trust, VendorCertificate, is_slow
from hwsigner.errors import AttestationError

# For one look at a statement, which any client may have sent: certificates, bytes of one and of all, signatures to
# verify, and processor time. Those of real chips need 4, 2 KiB, 8 KiB, 8 and 5 ms.
MOST_CERTIFICATES = 16
_MOST_BYTES = 8192
_MOST_BYTES_IN_ALL = 24 * 1024
MOST_CHECKS = 32
MOST_SECONDS = 0.2
_NEEDLESS = "Leave out the certificates that the chain does not need"


class Search:
    """The search for the chains of one statement. Its work is limited, since any client may have sent the statement.

    What needs too much work is an AttestationError.
    """

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._end = time.thread_time() + MOST_SECONDS
        self._certificates = self._bytes = 0
        # By issuer's key and certificate: many certificates of one key cost no more than one.
        self._checked: dict[tuple[bytes, bytes], bool] = {}

    def read(self, data: bytes, name: str) -> VendorCertificate:
        """Read a certificate of the statement; padding may follow it."""
        self._certificates += 1
        if self._certificates > MOST_CERTIFICATES:
            raise AttestationError(f"there are more than {MOST_CERTIFICATES} certificates", _NEEDLESS)
        if len(data) > _MOST_BYTES:
            raise AttestationError(f"{name} has more than {_MOST_BYTES} bytes", "Get another copy")
        self._bytes += len(data)
        if self._bytes > _MOST_BYTES_IN_ALL:
            raise AttestationError(f"the certificates have more than {_MOST_BYTES_IN_ALL} bytes", _NEEDLESS)
        self._check_end()
        certificate = VendorCertificate.read(data, name)
        if is_slow(certificate.public_key):
            raise AttestationError(f"{name} has a key of an unusual kind, size or exponent", "Leave it out")
        return certificate

    def issued(self, issuer: VendorCertificate, other: VendorCertificate) -> bool:
        """Return whether a certificate's name and key issued another one."""
        if not issuer.is_issuer(other):
            return False
        pair = issuer.public_key, other.der
        if pair not in self._checked:
            if len(self._checked) >= MOST_CHECKS:
                raise AttestationError(f"more than {MOST_CHECKS} signatures would have to be verified", _NEEDLESS)
            self._check_end()
            self._checked[pair] = other.is_signed_by(issuer.public_key)
        return self._checked[pair]

    def under(self, root: VendorCertificate) -> Search:
        """Return a search that trusts one root alone. The work of both counts together."""
        other = copy(self)
        other._trust = replace(self._trust, roots=(root,))
        return other

    def verify(
        self, leaf: VendorCertificate, others: Sequence[VendorCertificate] = (), *, leaf_counts: bool = False
    ) -> tuple[VendorCertificate, ...]:
        """Return the chain from a leaf to a root: the shortest of those whose certificates are valid.

        `others` may stand between leaf and root. `leaf_counts` is whether path lengths count the leaf as a CA, except
        that of a root that issued it. If no chain leads to a root, or each has a certificate that is not valid now,
        that is an AttestationError.
        """
        extra = 1 if leaf_counts else 0
        chain = self._path(leaf, others, extra, self._trust.is_valid) or self._path(leaf, others, extra, lambda _: True)
        if chain is None:
            name = leaf.subject or "the chip"
            problem = f"the certificate of {name}, issued by {leaf.issuer}, leads to none of the roots"
            hint = "Add the vendor's root and intermediate certificates to the folder, if you trust that vendor"
            raise AttestationError(problem, hint)
        for certificate in chain:
            self._trust.check(certificate)
        return chain

    def _path(
        self,
        leaf: VendorCertificate,
        others: Sequence[VendorCertificate],
        extra: int,
        is_usable: Callable[[VendorCertificate], bool],
    ) -> tuple[VendorCertificate, ...] | None:
        """Return the shortest chain of usable certificates.

        A longer way to a certificate never fits where a shorter one does not, so each is reached once.
        """
        roots = [root for root in self._trust.roots if is_usable(root)]
        unreached = [one for one in others if one.is_ca and is_usable(one)]
        chains: list[tuple[VendorCertificate, ...]] = [(leaf,)]
        for length in range(LONGEST_CHAIN):
            longer: list[tuple[VendorCertificate, ...]] = []
            for chain in chains:
                for root in roots:
                    if root.longest_path >= (length and length + extra) and self.issued(root, chain[-1]):
                        return (*chain, root)
                fitting = (one for one in unreached if one.longest_path >= length + extra)
                found = [one for one in fitting if self.issued(one, chain[-1])]
                unreached = [one for one in unreached if one not in found]
                longer += [(*chain, one) for one in found]
            chains = longer
        return None

    def _check_end(self) -> None:
        if self._trust.has_left():
            raise AttestationError("the client has left", "Send the statement again, and wait for the answer")
        if time.thread_time() > self._end:
            problem = f"the statement takes more than {MOST_SECONDS} s of processor time to verify"
            raise AttestationError(problem, _NEEDLESS)
