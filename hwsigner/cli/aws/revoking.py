"""A revocation that is prepared and not carried out yet, for the commands that revoke certificates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hwsigner.aws.apis import ServiceClient
from hwsigner.aws.region import parse_arn
from hwsigner.cli import options
from hwsigner.cli.aws.arguments import AWS, read_all, service_clients
from hwsigner.cli.parser import Arguments
from hwsigner.config.flags import KEY, Flag, one_of, whole_number
from hwsigner.control_plane import private_ca
from hwsigner.control_plane.resources import TrustAnchor
from hwsigner.control_plane.revocation import Plan, Revocation, carry_out, plan_revocation
from hwsigner.errors import AmbiguousCertificateError, CertificateError, HwsignerError, UsageError
from hwsigner.identity.certificate import Certificate
from hwsigner.identity.next_revocation_list import REASONS
from hwsigner.identity.serial_numbers import described_serial
from hwsigner.key import open_key

CA = (
    Flag("ca-key", "the CA's key, as a key URI or a path", "KEY-URI"),
    Flag("ca", "the CA's certificate", "FILE"),
)
REVOCATION = (
    Flag("reason", f"why: {', '.join(REASONS)}", "REASON", one_of(*REASONS), "unspecified"),
    Flag(
        "days", "days until the new CRL expires (default: 365, or as before if longer)", "DAYS", whole_number(1, 36500)
    ),
    *(flag for flag in AWS if flag.name != "region"),  # It is the trust anchor's.
    *KEY,
)
EXISTING_SESSIONS = "Credentials that were given out stay valid until they expire"


@dataclass(frozen=True)
class Outcome:
    """What was done: a line for each step, and the same for `--json`."""

    lines: Sequence[str]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A revocation that is not carried out yet.

    Attributes:
        steps: what would be done, a line each; none if nothing has to be.
        done: what is so already, a line each.
        notes: what the user should know, a sentence each.
        carry_out: does it.
    """

    steps: Sequence[str]
    done: Sequence[str]
    notes: Sequence[str]
    carry_out: Callable[[], Outcome]


def prepare(
    arguments: Arguments, arn: str, certificates: Sequence[Certificate], serials: Sequence[int] = ()
) -> Prepared:
    """Read what the service has, and find out what must change. Nothing is changed.

    Args:
        arguments: the command's arguments, which have the flags of `CA` and `REVOCATION`, and perhaps `renew`.
        arn: the trust anchor.
        certificates: the certificates to revoke.
        serials: serial numbers of more.

    Raises:
        UsageError: the ARN is malformed, or the CA's flags are missing or do not apply.
        CertificateError: the CA did not issue a certificate, or as `plan_revocation`.
        HwsignerError: the service refused or was not reached.
    """
    aws = service_clients(arguments, region=parse_arn(arn, "--trust-anchor-arn").region)
    anchor = TrustAnchor.of(aws.rolesanywhere.call("get_trust_anchor", trustAnchorId=arn)["trustAnchor"])
    named = _named(certificates, serials)
    if anchor.private_ca:
        if arguments.ca_key or arguments.ca:
            hint = "Omit --ca-key and --ca"
            raise UsageError(f"trust anchor {anchor.name!r} has a CA in AWS Private CA, which keeps its key", hint)
        if getattr(arguments, "renew", False):
            raise UsageError("AWS Private CA renews its CRLs by itself", "Omit --renew")
        if certificates:
            issuer = private_ca.read_ca(aws.acm_pca, anchor.private_ca)
            _check_issued(issuer, certificates, "Name the trust anchor of its CA")
        return _in_private_ca(aws.acm_pca, anchor, named, arguments.reason)
    ca = _read_ca(arguments)
    _check_issued(ca, certificates, "Give the CA that issued it with --ca")
    wanted = Revocation(list(named), arguments.reason, arguments.days, getattr(arguments, "renew", False))
    plan = plan_revocation(aws.rolesanywhere, anchor, ca, wanted, datetime.now(UTC))
    return _by_list(arguments, aws.rolesanywhere, plan, named)


def _check_issued(ca: Certificate, certificates: Sequence[Certificate], hint: str) -> None:
    for one in certificates:
        if not ca.issued(one):
            problem = f"certificate {one.source} was issued by {one.x509.issuer.rfc4514_string()}, not by {ca.source}"
            raise CertificateError(problem, hint)


def _named(certificates: Sequence[Certificate], serials: Sequence[int]) -> dict[int, str]:
    """Return words for each certificate by its serial number."""
    named = {serial: f"serial number {described_serial(serial)}" for serial in serials}
    for one in certificates:
        serial = one.x509.serial_number
        named[serial] = f"{one.subject}, serial number {described_serial(serial)}"
    return named


def _read_ca(arguments: Arguments) -> Certificate:
    if not arguments.ca_key or not arguments.ca:
        missing = "--ca" if arguments.ca_key else "--ca-key"
        raise UsageError(f"{missing} is missing", "Give the CA's key with --ca-key and its certificate with --ca")
    found = read_all(arguments.settings, arguments.ca)
    if len(found) > 1:
        shown = ", ".join(one.subject for one in found)
        raise AmbiguousCertificateError(f"{arguments.ca} has {len(found)} certificates: {shown}", "Give one alone")
    return found[0]


def _by_list(arguments: Arguments, client: ServiceClient, plan: Plan, named: Mapping[int, str]) -> Prepared:
    steps = _steps(plan, named)

    def run() -> Outcome:
        signed = None
        if plan.draft:
            uri = options.key_uri(arguments.settings, arguments.ca_key)
            pins = options.pin_source(arguments.settings, uri)
            with open_key(uri, pins, public_key=plan.ca.public_key(), allow_modules=True) as key:
                signed = plan.draft.sign(key)
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
    others = [f"The trust anchor also has {one}" for one in plan.other_lists]
    return Prepared(steps, done, [*others, EXISTING_SESSIONS], run)


def _steps(plan: Plan, named: Mapping[int, str]) -> list[str]:
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


def _in_private_ca(client: ServiceClient, anchor: TrustAnchor, named: Mapping[int, str], reason: str) -> Prepared:
    steps = {serial: f"revoke {words}, issued by {anchor.private_ca}" for serial, words in named.items()}

    def run() -> Outcome:
        new = _revoke_each(client, anchor.private_ca, list(steps), reason)
        lines = [
            f"done: {step}" if serial in new else f"{named[serial]} was revoked already"
            for serial, step in steps.items()
        ]
        return Outcome(lines, {**_values(anchor, new), "certificateAuthorityArn": anchor.private_ca})

    if anchor.reads_distribution_points:
        note = "The service obeys once AWS Private CA has written its next CRL, some 30 minutes later"
    else:
        note = (
            f"Trust anchor {anchor.name!r} does not read the CA's CRLs: enable crlDpRevocationEnabled, or import each"
            " new CRL with aws rolesanywhere import-crl and enable it"
        )
    return Prepared(list(steps.values()), (), (note, EXISTING_SESSIONS), run)


def _revoke_each(client: ServiceClient, authority: str, serials: Sequence[int], reason: str) -> list[int]:
    """Revoke certificates of AWS Private CA, and return those that were not revoked already."""
    new: list[int] = []
    for number, serial in enumerate(serials):
        try:
            new += [serial] if private_ca.revoke(client, authority, serial, reason) else []
        except HwsignerError as error:
            if number:
                before = ", ".join(map(described_serial, serials[:number]))
                error.hint = f"{error.hint}. Revoked before that: {before}"
            raise
    return new


def _values(anchor: TrustAnchor, revoked: Sequence[int]) -> dict[str, Any]:
    return {"trustAnchorArn": anchor.arn, "revoked": [f"{serial:x}" for serial in revoked]}
