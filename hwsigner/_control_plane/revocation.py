"""Revocation: the CRLs that a trust anchor has, the next one of a CA, and putting it in force."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.x509.oid import NameOID

from hwsigner._aws.apis import ServiceClient
from hwsigner._control_plane.resources import TrustAnchor
from hwsigner._identity.bundle import subjects
from hwsigner._identity.certificate import Certificate
from hwsigner._identity.next_revocation_list import Draft, check_signer, draft_list
from hwsigner._identity.revocation_list import RevocationList
from hwsigner.errors import (
    CertificateError,
    HwsignerError,
    HwsignerWarning,
    Interruption,
    ServiceUnreachableError,
)

MAX_BYTES = 300_000  # Of crlData in ImportCrl and UpdateCrl.
_MANY_BYTES = MAX_BYTES * 8 // 10
_MAX_NAME = 255
_NOT_IN_NAMES = re.compile(r"[^ A-Za-z0-9_-]+")


@dataclass(frozen=True)
class ImportedList:
    """A CRL that the service has."""

    id: str
    name: str
    is_enabled: bool  # Whether the service obeys it.
    contents: RevocationList


@dataclass(frozen=True)
class Revocation:
    """What is to be revoked, and how."""

    certificates: Sequence[Certificate] = ()
    serials: Sequence[int] = ()  # Those of more certificates.
    reason: str = "unspecified"  # One of `hwsigner._identity.next_revocation_list.REASONS`.
    days: int | None = None  # For how long the new list is good; None for the default.
    renews: bool = False  # Whether a new list is made even if the old one has all the serial numbers.

    @property
    def all_serials(self) -> list[int]:
        """All serial numbers, each once."""
        return list(dict.fromkeys([*self.serials, *(one.x509.serial_number for one in self.certificates)]))


@dataclass(frozen=True)
class RevocationPlan:
    """What revoking would do."""

    anchor: TrustAnchor
    ca: Certificate
    current: ImportedList | None  # The CA's list that the service has.
    draft: Draft | None  # The next list; None if the current one need not change.
    new: Sequence[int]  # The serial numbers that it adds.
    already: dict[int, datetime] = field(default_factory=dict)  # When the others were revoked.
    other_lists: Sequence[str] = ()  # What else the trust anchor has, a line each.

    @property
    def enables(self) -> bool:
        """Whether the CRL must be enabled."""
        return self.current is None or not self.current.is_enabled


def plan_revocation(
    client: ServiceClient, anchor: TrustAnchor, ca: Certificate, revocation: Revocation, now: datetime
) -> RevocationPlan:
    """Find out what must change so that the service refuses certificates of a CA. Nothing is changed.

    Warns if the next list has 80 % of the largest size, or another list can't be read.
    """
    check_signer(ca)
    if (ca.x509.subject, ca.public_key()) not in [(one.x509.subject, one.public_key()) for one in anchor.bundle or ()]:
        held = subjects(anchor.bundle or ()) or "no certificates"
        problem = f"the CA {ca.subject} of {ca.source} is not in trust anchor {anchor.name!r}, which has {held}"
        raise CertificateError(problem, "Give the certificate of the CA that the trust anchor has")
    lists = _imported_lists(client, anchor)
    current = _list_of(lists, ca)
    old = current.contents if current else None
    serials = revocation.all_serials
    already = {serial: old.revoked[serial] for serial in serials if serial in old.revoked} if old else {}
    new = [serial for serial in serials if serial not in already]
    draft = None
    if new or revocation.renews:
        draft = draft_list(ca, old, new, now=now, reason=revocation.reason, days=revocation.days)
        _check_size(len(draft.preview.pem))
    return RevocationPlan(
        anchor, ca, current, draft, new, already, [_described(one) for one in lists if one is not current]
    )


def carry_out(client: ServiceClient, plan: RevocationPlan, signed: RevocationList | None) -> ImportedList:
    """Import or update the CA's CRL, enable it, and read it back.

    Returns the list as the service has it. After a failure, the hint says which list is in force; an Interruption with
    that hint takes the place of a KeyboardInterrupt.
    """
    sent = signed or (plan.current.contents if plan.current else None)
    try:
        list_id = _put(client, plan, signed)
        found = _imported(_read(client, list_id))
        if not found.is_enabled:
            client.call("enable_crl", crlId=list_id)
            found = _imported(_read(client, list_id))
        if not _is_in_force(found, sent):
            problem = f"the service does not show CRL {list_id} enabled and as it was sent"
            raise HwsignerError(problem, "Run the command again")
    except HwsignerError as error:
        now = _look_again(client, plan)
        if isinstance(now, ImportedList) and _is_in_force(now, sent):
            return now  # Only the answer was lost.
        may_follow = isinstance(error, ServiceUnreachableError)
        error.hint = f"{error.hint}. {in_force(now, sent, may_follow=may_follow)}"
        raise
    except KeyboardInterrupt:
        raise Interruption("interrupted", in_force(_look_again(client, plan), sent, may_follow=True)) from None
    return found


def _is_in_force(found: ImportedList, sent: RevocationList | None) -> bool:
    return sent is not None and found.contents.x509 == sent.x509 and found.is_enabled


def _look_again(client: ServiceClient, plan: RevocationPlan) -> ImportedList | HwsignerError | None:
    """Return the CA's CRL after a failure; None if there is none, and an error if it can't be read, or Ctrl-C."""
    try:
        if plan.current is not None:
            return _imported(_read(client, plan.current.id))
        return _list_of(_imported_lists(client, plan.anchor), plan.ca)
    except HwsignerError as error:
        return error
    except KeyboardInterrupt:
        return Interruption("interrupted again")


def in_force(now: ImportedList | HwsignerError | None, sent: RevocationList | None, *, may_follow: bool = False) -> str:
    """Say which CRL the service obeys after a failure.

    `now` is the CA's CRL; None if there is none, and an error if it could not be read. `may_follow` says whether the
    service may still be at work on what was sent.
    """
    later = ". AWS may still act on what was sent: run the command again to find out" if may_follow else ""
    if isinstance(now, HwsignerError):
        return f"It is not known whether the new CRL is in force ({now.message}): run the command again to find out"
    if now is None:
        return f"Nothing is revoked: the service has no CRL of this CA{later}"
    is_new = sent is not None and now.contents.x509 == sent.x509
    same = "the new one" if is_new else "not the new one"
    if not now.is_enabled:
        return f"{now.contents.source}, {same}, is there and not enabled: run the command again to enable it"
    return f"In force is {now.contents.source}, number {now.contents.number}, {same}{'' if is_new else later}"


def _put(client: ServiceClient, plan: RevocationPlan, signed: RevocationList | None) -> str:
    """Import or update the CA's CRL, if it changes, and return its ID."""
    if plan.current is None:
        pem = signed.pem if signed else b""
        parameters = {"crlData": pem, "trustAnchorArn": plan.anchor.arn, "enabled": True}
        return str(client.call("import_crl", name=_name(plan.ca), **parameters)["crl"]["crlId"])
    _check_unchanged(_read(client, plan.current.id), plan.current)
    if signed:
        client.call("update_crl", crlId=plan.current.id, crlData=signed.pem)
    return plan.current.id


def _imported_lists(client: ServiceClient, anchor: TrustAnchor) -> list[ImportedList]:
    found = []
    for one in client.items("list_crls", "crls"):
        if one.get("trustAnchorArn") != anchor.arn:
            continue
        try:
            found.append(_imported(one if one.get("crlData") else _read(client, one["crlId"])))
        except CertificateError as error:
            hint = "Delete it with aws rolesanywhere delete-crl if no one needs it"
            warnings.warn(HwsignerWarning(f"{error.message}, so it is left alone", hint), stacklevel=3)
    return found


def _read(client: ServiceClient, list_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.call("get_crl", crlId=list_id)["crl"]
    return found


def _imported(found: dict[str, Any]) -> ImportedList:
    contents = RevocationList.read(bytes(found["crlData"]), f"CRL {found['name']!r} ({found['crlId']})")
    return ImportedList(found["crlId"], found["name"], bool(found["enabled"]), contents)


def _list_of(lists: Iterable[ImportedList], ca: Certificate) -> ImportedList | None:
    """Return a CA's CRL. Of several, it is the one with the highest number."""
    own = []
    for one in lists:
        if not one.contents.names_issuer(ca):
            continue
        if not one.contents.is_signed_by(ca):
            hint = "Find out where it is from. If no one needs it, delete it with aws rolesanywhere delete-crl"
            raise CertificateError(f"{one.contents.source} is of {ca.subject}, but its key did not sign it", hint)
        own.append(one)
    return max(own, key=lambda one: one.contents.number or 0, default=None)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        hint = "Use another CA for new certificates, and add it to the trust anchor"
        raise HwsignerError(f"the new CRL would have {size} bytes, and the service takes {MAX_BYTES}", hint)
    if size >= _MANY_BYTES:
        problem = f"the new CRL has {size} bytes, {size * 100 // MAX_BYTES} % of the {MAX_BYTES} that the service takes"
        hint = "Plan another CA for new certificates"
        warnings.warn(HwsignerWarning(problem, hint), stacklevel=3)


def _check_unchanged(found: dict[str, Any], planned: ImportedList) -> None:
    if _imported(found).contents.x509 != planned.contents.x509:
        raise HwsignerError(f"{planned.contents.source} has changed since it was read", "Run the command again")


def _described(one: ImportedList) -> str:
    issuer, number = one.contents.x509.issuer.rfc4514_string(), one.contents.number
    state = "" if one.is_enabled else ", not enabled"
    return f"{one.contents.source} of {issuer}, number {number}, entries: {len(one.contents.revoked)}{state}"


def _name(ca: Certificate) -> str:
    """Return a name for a CA's CRL, of the characters that the service takes."""
    names = [str(name.value) for name in ca.x509.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return _NOT_IN_NAMES.sub("-", f"CRL of {names[0] if names else ca.subject}")[:_MAX_NAME]
