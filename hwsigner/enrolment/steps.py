"""The steps of a first enrolment and of a renewal. Each looks at what there is, so that all can be run again.

There is no state but the key at its URI and the certificate beside it. A request is made again if need be. What stops
in the middle goes on with the next run: a key is made once, and a certificate that is in place is not asked for again.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from hwsigner._identity.certificate import Chain, build_chain, latest_expiring, preflight
from hwsigner._identity.certificate_request import CertificateRequest, sign_certificate_request
from hwsigner._identity.key_certificates import certificates_of_key
from hwsigner._uri import in_full
from hwsigner.backends.key_files import certificate_files, check_replaceable
from hwsigner.enrolment.checking import check_issued, check_names
from hwsigner.enrolment.issuers import Issuer, Pending
from hwsigner.enrolment.pace import check_life
from hwsigner.errors import CertificateError, KeyMismatchError, KeyNotFoundError, ServiceError
from hwsigner.key import FoundCertificate, Key, management

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0


@dataclass(frozen=True)
class KeyToCertify:
    """A key that is to have a certificate, whether or not there is either yet.

    `new_key` is what it must be like if there is none. A TPM has the leaf at `nv_index`; empty for a file beside the
    key.
    """

    access: management.KeyAccess
    subject: str
    dns_names: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    new_key: management.KeyRequest = field(default_factory=management.KeyRequest)
    nv_index: str = ""


def ensure_key(target: KeyToCertify) -> tuple[management.KeyDescription, bool]:
    """Return the key, and whether it was made now. A key that is there is never replaced."""
    access = target.access
    try:
        return access.describe(), False
    except KeyNotFoundError:
        made = management.generate_key(access.uri, target.new_key, access.pins, allow_modules=access.allow_modules)
        return made, True


def sign_request(target: KeyToCertify, key: Key) -> CertificateRequest:
    """Return a request for the names, signed by the open key, if the file for its certificate can be replaced."""
    uri, public_key = target.access.uri.resolved(), key.public_key()
    if public_key is None:
        delete = f"hwsigner delete {shlex.quote(in_full(target.access.uri))}"
        hint = f"If no program uses that key, run {delete}, then run this again: it makes another one"
        raise KeyMismatchError(f"the token has no public key for {uri.name}", hint)
    if "path" in uri.path and not target.nv_index:
        check_replaceable(certificate_files(uri.file)[0], public_key)
    return sign_certificate_request(key, target.subject, dns_names=target.dns_names, uris=target.uris)


def installed_chain(target: KeyToCertify, request: CertificateRequest, now: datetime) -> Chain | None:
    """Return the chain of the certificate beside the key, if it is as wanted and valid now; otherwise None."""
    public_key = request.public_key()
    access = target.access
    found = certificates_of_key(access.uri, public_key, allow_modules=access.allow_modules)
    fitting = []
    for one in found:
        try:
            if one.public_key() == public_key:
                check_names(request.x509, one.x509)
                preflight(one, now)
                fitting.append(one)
        except CertificateError:
            continue
    return build_chain(latest_expiring(fitting), found)[0] if fitting else None


def request_certificate(
    request: CertificateRequest,
    issuer: Issuer,
    now: Callable[[], datetime],
    *,
    wait: float,
    pause: Callable[[float], None] = time.sleep,
) -> Chain:
    """Have a request answered, and check the answer. Nothing is installed.

    `wait` is how long to wait, in seconds, for an issuer that has no certificate yet. Its answers take part of that.
    """
    step, begin = _FIRST_PAUSE, now()
    while isinstance(answer := issuer.issue(request), Pending):
        wait -= max(0.0, (now() - begin).total_seconds())
        seconds = answer.retry_after or step
        if seconds > wait:
            again = f" in {seconds:.0f} s" if answer.retry_after else ""
            problem = "the issuer took the request and has no certificate yet"
            hint = f"Run the same command again{again}"
            raise ServiceError(problem, hint, retryable=True, retry_after=answer.retry_after)
        pause(seconds)
        wait -= seconds
        step, begin = min(2 * step, _LONGEST_PAUSE), now()
    chain = check_issued(request, answer, now())
    check_life(chain.leaf)
    return chain


def install(access: management.KeyAccess, chain: Chain, nv_index: str = "") -> management.InstalledCertificate:
    """Put a chain beside its key. The old certificate stays until the new one is in."""
    found = [FoundCertificate(one.der, one.source) for one in chain.certificates]
    return management.install_certificate(
        access.uri, found, access.pins, nv_index=nv_index, allow_modules=access.allow_modules
    )
