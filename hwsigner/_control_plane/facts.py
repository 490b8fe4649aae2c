"""Reading what AWS has about a session: trust anchors, profiles, the role, revocation lists and the subject.

A call that is refused is kept as an error, and the others are still made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hwsigner._aws.apis import ServiceClient, ServiceClients
from hwsigner._aws.create_session import SessionRequest
from hwsigner.errors import HwsignerError, ServiceError

Detail = Mapping[str, Any]  # A resource, as the API describes it.
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Facts:
    """What AWS has. Each resource is described as by the API. None: it could not be read.

    The role is empty if there is none; so is `subject`, what the service has seen of the certificate's subject.
    `private_ca` has the certificates of the trust anchor's private CA in PEM.
    """

    account: str | None
    anchors: Sequence[Detail] | None
    profiles: Sequence[Detail] | None
    crls: Sequence[Detail] | None
    role: Detail | None
    subject: Detail | None
    private_ca: str | None
    failures: Sequence[HwsignerError] = ()

    def anchor(self, arn: str) -> Detail | None:
        """Return the trust anchor with an ARN or alias ARN; empty if there is none."""
        return _of_arn(self.anchors, "trustAnchorArn", arn)

    def profile(self, arn: str) -> Detail | None:
        """Return the profile with an ARN or alias ARN; empty if there is none."""
        return _of_arn(self.profiles, "profileArn", arn)


def read_facts(clients: ServiceClients, request: SessionRequest, subjects: Sequence[str]) -> Facts:
    """Read what AWS has about a session.

    `subjects` are the ways in which the service may write the certificate's subject. Calls that fail are among the
    facts; this is an error only if all failed, no answer came or there are no credentials.
    """
    calls = _Calls()
    region = clients.rolesanywhere
    account = calls.attempt(lambda: clients.account)
    anchors = _resources(calls, region, ("trust_anchor", "trustAnchor"), request.trust_anchor_arn)
    profiles = _resources(calls, region, ("profile", "profile"), request.profile_arn)
    crls = calls.attempt(lambda: [_complete(clients, each) for each in region.items("list_crls", "crls")])
    name = _id(request.role_arn)
    role = calls.attempt(lambda: (clients.iam.find("get_role", RoleName=name) or {}).get("Role", {}))
    subject = calls.attempt(lambda: _subject(clients, subjects)) if subjects else {}
    anchor = _of_arn(anchors, "trustAnchorArn", request.trust_anchor_arn)
    private_ca = calls.attempt(lambda: _private_ca(clients, anchor or {}))
    if calls.failures and anchors is profiles is crls is role is None:
        raise calls.failures[0]
    return Facts(account, anchors, profiles, crls, role, subject, private_ca, tuple(calls.failures))


class _Calls:
    """Makes calls, and keeps the refusals."""

    def __init__(self) -> None:
        self.failures: list[HwsignerError] = []

    def attempt(self, call: Callable[[], _Result]) -> _Result | None:
        try:
            return call()
        except ServiceError as error:
            self.failures.append(error)
            return None


def _resources(calls: _Calls, region: ServiceClient, names: tuple[str, str], arn: str) -> list[Detail] | None:
    """Return the resources of a kind; if the credentials may not list them, only the one with an ARN."""
    kind, member = names
    found = calls.attempt(lambda: region.items(f"list_{kind}s", f"{member}s"))
    if found is not None:
        return found
    one = calls.attempt(lambda: region.find(f"get_{kind}", **{f"{member}Id": _id(arn)}) or {})
    return None if one is None else [each for each in [one.get(member)] if each]


def _id(arn: str) -> str:
    return arn.rpartition("/")[2]


def _of_arn(found: Sequence[Detail] | None, member: str, arn: str) -> Detail | None:
    if found is None:
        return None
    return next((each for each in found if arn in (each.get(member), each.get("aliasArn"))), {})


def _complete(clients: ServiceClients, crl: Detail) -> Detail:
    """Return a revocation list with its data."""
    if crl.get("crlData"):
        return crl
    detail: Detail = clients.rolesanywhere.call("get_crl", crlId=crl["crlId"])["crl"]
    return detail


def _subject(clients: ServiceClients, subjects: Sequence[str]) -> Detail:
    wanted = {_names(each) for each in subjects}
    for each in clients.rolesanywhere.items("list_subjects", "subjects"):
        if _names(each.get("x509Subject", "")) in wanted:
            found = clients.rolesanywhere.find("get_subject", subjectId=each["subjectId"]) or {}
            return {**each, **found.get("subject", {})}
    return {}


def _names(subject: str) -> frozenset[str]:
    """Return the names of a subject without their order, which differs between libraries."""
    return frozenset(each.strip() for each in subject.split(","))


def _private_ca(clients: ServiceClients, anchor: Detail) -> str:
    arn = anchor.get("source", {}).get("sourceData", {}).get("acmPcaArn", "")
    if not arn:
        return ""
    found = clients.acm_pca.call("get_certificate_authority_certificate", CertificateAuthorityArn=arn)
    return f"{found.get('Certificate', '')}\n{found.get('CertificateChain', '')}"
