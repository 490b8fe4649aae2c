"""Records who asked CreateSession for credentials, with a certificate and signature that it accepted."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hwsigner.emulator.resources import Subject
from hwsigner.emulator.world import World

# The oldest are dropped, so that an emulator that runs for days does not grow without limit.
MAX_SUBJECTS = 10_000
MAX_CERTIFICATES = 100


def record_attempt(
    world: World, arn: str, leaf: x509.Certificate, properties: dict[str, str], *, now: datetime, failed: bool
) -> None:
    """Add a request to its subject. The first one makes the subject.

    Args:
        world: gets the subject.
        arn: the subject's ARN.
        leaf: the certificate of the request.
        properties: its instance properties.
        now: the time.
        failed: whether the request was refused.
    """
    subject = world.subjects.setdefault(
        arn, Subject(arn, leaf.subject.rfc4514_string(), now, created_at=now, updated_at=now)
    )
    subject.last_seen_at = subject.updated_at = now
    if len(world.subjects) > MAX_SUBJECTS:
        del world.subjects[next(iter(world.subjects))]
    issuer, serial = leaf.issuer.rfc4514_string(), str(leaf.serial_number)
    seen = now.isoformat(timespec="microseconds")
    subject.credentials[issuer, serial] = {
        "seenAt": seen,
        "serialNumber": serial,
        "issuer": issuer,
        "enabled": True,
        "x509CertificateData": leaf.public_bytes(Encoding.PEM).decode(),
        "failed": failed,
    }
    if len(subject.credentials) > MAX_CERTIFICATES:
        del subject.credentials[next(iter(subject.credentials))]
    if properties:
        subject.instance_properties = [{"seenAt": seen, "properties": properties, "failed": failed}]
