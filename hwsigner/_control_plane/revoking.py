"""A revocation that is prepared and not carried out yet: with a CA's next CRL, or by AWS Private CA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hwsigner._aws.apis import ServiceClient
from hwsigner._control_plane.resources import TrustAnchor
from hwsigner._control_plane.revocation import Revocation, RevocationPlan, carry_out, in_force, plan_revocation
from hwsigner._identity.bundle import read_bundle
from hwsigner._identity.certificate import Certificate
from hwsigner._identity.next_revocation_list import Draft
from hwsigner._identity.revocation_list import RevocationList
from hwsigner._identity.serial_numbers import described_serial, serial_text
from hwsigner.errors import CertificateError, HwsignerError, Interruption, UsageError

EXISTING_SESSIONS = "Credentials that were given out stay valid until they expire"
_ALREADY = frozenset({"RequestAlreadyProcessedException"})
# The API's names for those of RFC 5280.
_REASONS = {
    "unspecified": "UNSPECIFIED",
    "keyCompromise": "KEY_COMPROMISE",
    "cACompromise": "CERTIFICATE_AUTHORITY_COMPROMISE",
    "affiliationChanged": "AFFILIATION_CHANGED",
    "superseded": "SUPERSEDED",
    "cessationOfOperation": "CESSATION_OF_OPERATION",
    "privilegeWithdrawn": "PRIVILEGE_WITHDRAWN",
    "aACompromise": "A_A_COMPROMISE",
}


@dataclass(frozen=True)
class Outcome:
    """What was done: a line for each step, and the same for programs."""

    lines: Sequence[str]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A revocation that is not carried out yet."""

    steps: Sequence[str]  # What would be done, a line each; none if nothing has to be.
    done: Sequence[str]  # What is so already, a line each.
    notes: Sequence[str]  # What the user should know, a sentence each.
    carry_out: Callable[[], Outcome]  # Raises Interruption for KeyboardInterrupt.


def prepare_list(
    client: ServiceClient,
    anchor: TrustAnchor,
    revocation: Revocation,
    *,
    ca: Certificate,
    sign: Callable[[Draft], RevocationList],
) -> Prepared:
    """Find out what must change so that a CA's CRL revokes certificates. Nothing is changed.

    `sign` signs the next CRL with the CA's key. It is called when the revocation is carried out.
    """
    _check_issued(ca, revocation.certificates, "Give the CA that issued it with --ca")
    plan = plan_revocation(client, anchor, ca, revocation, datetime.now(UTC))
    named = _words(revocation)
    steps = _steps(plan, named)

    def run() -> Outcome:
        try:
            signed = sign(plan.draft) if plan.draft else None
        except KeyboardInterrupt:
            raise Interruption("interrupted before anything was sent", in_force(plan.current, None)) from None
        put = carry_out(client, plan, signed)
        end = put.contents.x509.next_update_utc
        values = {
            **_values(plan.anchor, plan.new),
            "crlId": put.id,
            "crlNumber": put.contents.number,
            "entries": len(put.contents.revoked),
            "nextUpdate": f"{end:%Y-%m-%dT%H:%M:%SZ}" if end else None,
        }
        return Outcome([f"done: {step}" for step in steps], values)

    done = [f"{named[serial]} was revoked at {time:%Y-%m-%dT%H:%M:%SZ}" for serial, time in plan.already.items()]
    notes = [f"The trust anchor also has {one}" for one in plan.other_lists]
    end = plan.current.contents.x509.next_update_utc if plan.current and not plan.draft else None
    if plan.current and end and end < datetime.now(UTC):
        notes.append(f"{plan.current.contents.source} expired at {end:%Y-%m-%dT%H:%M:%SZ}: make the next with --renew")
    notes.append(f"Another trust anchor with {ca.subject} needs a CRL of its own: run this for each")
    return Prepared(steps, done, [*notes, EXISTING_SESSIONS], run)


def prepare_private(client: ServiceClient, anchor: TrustAnchor, revocation: Revocation) -> Prepared:
    """Find out what AWS Private CA, which makes its own CRLs, would revoke. Nothing is changed."""
    authority = anchor.private_ca
    if revocation.renews:
        raise UsageError("AWS Private CA renews its CRLs by itself", "Omit --renew")
    if revocation.certificates:
        found = client.call("get_certificate_authority_certificate", CertificateAuthorityArn=authority)
        issuer = read_bundle(found["Certificate"], authority)[0]
        _check_issued(issuer, revocation.certificates, "Name the trust anchor of its CA")
    named = _words(revocation)
    steps = {serial: f"revoke {words}, issued by {authority}" for serial, words in named.items()}

    def run() -> Outcome:
        new = _revoke_each(client, authority, list(steps), revocation.reason)
        lines = [
            f"done: {step}" if serial in new else f"{named[serial]} was revoked already"
            for serial, step in steps.items()
        ]
        return Outcome(lines, {**_values(anchor, new), "certificateAuthorityArn": authority})

    if anchor.reads_distribution_points:
        note = "The service obeys once AWS Private CA has written its next CRL, some 30 minutes later"
    else:
        note = (
            f"Trust anchor {anchor.name!r} does not read the CA's CRLs: enable crlDpRevocationEnabled, or import each"
            " new CRL with aws rolesanywhere import-crl and enable it"
        )
    return Prepared(list(steps.values()), (), (note, EXISTING_SESSIONS), run)


def _check_issued(ca: Certificate, certificates: Sequence[Certificate], hint: str) -> None:
    for one in certificates:
        if not ca.issued(one):
            problem = f"certificate {one.source} was issued by {one.x509.issuer.rfc4514_string()}, not by {ca.source}"
            raise CertificateError(problem, hint)


def _words(revocation: Revocation) -> dict[int, str]:
    """Return words for each certificate by its serial number."""
    subjects = {one.x509.serial_number: f"{one.subject}, " for one in revocation.certificates}
    return {
        serial: f"{subjects.get(serial, '')}serial number {described_serial(serial)}"
        for serial in revocation.all_serials
    }


def _steps(plan: RevocationPlan, named: Mapping[int, str]) -> list[str]:
    steps = [f"revoke {named[serial]}, issued by {plan.ca.subject}" for serial in plan.new]
    if plan.draft:
        made = plan.draft.preview
        old = f"replace {plan.current.contents.source}" if plan.current else "import the first CRL of this CA"
        contents = (
            f"number {made.number}, entries: {len(made.revoked)}, good until {made.x509.next_update_utc:%Y-%m-%d}"
        )
        steps.append(f"{old} on trust anchor {plan.anchor.name!r} ({contents})")
    if plan.enables:
        steps.append(f"enable {plan.current.contents.source if plan.current else 'it'}")
    return steps


def _revoke_each(client: ServiceClient, authority: str, serials: Sequence[int], reason: str) -> list[int]:
    """Revoke certificates of AWS Private CA, and return those that were not revoked already."""
    new: list[int] = []
    for number, serial in enumerate(serials):
        parameters = {"CertificateSerial": serial_text(serial), "RevocationReason": _REASONS[reason]}
        try:
            done = client.call_unless(_ALREADY, "revoke_certificate", CertificateAuthorityArn=authority, **parameters)
        except (HwsignerError, KeyboardInterrupt) as error:
            before = ", ".join(map(described_serial, serials[:number])) or "none"
            said = f"Revoked before that: {before}. If the answer was lost, this one may be revoked too"
            if isinstance(error, KeyboardInterrupt):
                what = f"interrupted while {described_serial(serial)} was being revoked"
                raise Interruption(what, said) from None
            error.hint = f"{error.hint}. {said}"
            raise
        new += [serial] if done is not None else []
    return new


def _values(anchor: TrustAnchor, revoked: Sequence[int]) -> dict[str, Any]:
    return {"trustAnchorArn": anchor.arn, "revoked": [f"{serial:x}" for serial in revoked]}
