"""Trust anchors: their certificates, their notification settings, and what is done with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hwsigner.emulator.certificates import anchor_problem
from hwsigner.emulator.control.calls import Call, ResourceKind, base_detail
from hwsigner.emulator.differences import Difference
from hwsigner.emulator.permissions import require
from hwsigner.emulator.refusals import invalid
from hwsigner.emulator.resources import TrustAnchor

# AWS's quotas of a region.
MAX_ANCHORS = 50
MAX_CERTIFICATES = 2
# The setting that AWS gives to every trust anchor, for each of its events.
_DEFAULT = {"enabled": True, "threshold": 45, "channel": "ALL", "configuredBy": "rolesanywhere.amazonaws.com"}
_EVENTS = ("CA_CERTIFICATE_EXPIRY", "END_ENTITY_CERTIFICATE_EXPIRY")
Settings = dict[str, Mapping[str, object]]


def _detail(anchor: TrustAnchor) -> dict[str, Any]:
    if anchor.acm_pca_arn:
        source = {"sourceType": "AWS_ACM_PCA", "sourceData": {"acmPcaArn": anchor.acm_pca_arn}}
    else:
        bundle = b"".join(each.public_bytes(Encoding.PEM) for each in anchor.certificates).decode()
        source = {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": bundle}}
    return {
        "trustAnchorId": anchor.id,
        "trustAnchorArn": anchor.arn,
        "enabled": anchor.enabled,
        "source": source,
        "crlDpRevocationEnabled": False,
        "notificationSettings": setting_details(anchor.notifications),
        **base_detail(anchor),
    }


KIND = ResourceKind("trust-anchor", "trustAnchor", lambda world: world.trust_anchors, _detail)


def create(call: Call) -> dict[str, Any]:
    """CreateTrustAnchor."""
    anchors = call.world.trust_anchors
    _check_service_linked_role(call)
    certificates, acm_pca_arn = _read_source(call)
    _refuse_distribution_points(call)
    call.check_alias(anchors)
    if len(call.own(anchors)) >= MAX_ANCHORS:
        raise invalid(f"The account has {MAX_ANCHORS} trust anchors in this region, which is its quota")
    anchor = TrustAnchor(
        call.new_arn(KIND.name),
        certificates,
        call.members.get("enabled", False),
        **call.base_fields(),
        acm_pca_arn=acm_pca_arn,
        notifications=merged_settings({}, call.members.get("notificationSettings", [])),
    )
    return KIND.add(call, anchor)


def update(call: Call) -> dict[str, Any]:
    """UpdateTrustAnchor."""
    anchor = KIND.find(call)
    source = _read_source(call) if "source" in call.members else (anchor.certificates, anchor.acm_pca_arn)
    _refuse_distribution_points(call)
    call.check_alias(call.world.trust_anchors, anchor)
    previous = call.rename(anchor)
    anchor.certificates, anchor.acm_pca_arn = source
    return KIND.document(anchor, previous)


def put_notifications(call: Call) -> dict[str, Any]:
    """PutNotificationSettings."""
    anchor = KIND.find(call)
    anchor.notifications = merged_settings(anchor.notifications, call.members["notificationSettings"])
    anchor.updated_at = call.now
    return KIND.document(anchor)


def reset_notifications(call: Call) -> dict[str, Any]:
    """ResetNotificationSettings."""
    anchor = KIND.find(call)
    events = {key["event"] for key in call.members["notificationSettingKeys"]}
    anchor.notifications = {event: each for event, each in anchor.notifications.items() if event not in events}
    anchor.updated_at = call.now
    return KIND.document(anchor)


def _check_service_linked_role(call: Call) -> None:
    """Check that the caller may make the service-linked role, which an account gets with its first trust anchor."""
    prefix, account = call.prefix, f":{call.caller.account}:trust-anchor/"
    if not any(account in arn for arn in call.world.trust_anchors):
        name = "aws-service-role/rolesanywhere.amazonaws.com/AWSServiceRoleForRolesAnywhere"
        role = f"arn:{prefix.split(':')[1]}:iam::{call.caller.account}:role/{name}"
        require(call.world, call.caller, "iam:CreateServiceLinkedRole", role)


def _refuse_distribution_points(call: Call) -> None:
    if call.members.get("crlDpRevocationEnabled"):
        raise invalid("The emulator does not fetch lists from CRL distribution points: crlDpRevocationEnabled is true")


def _read_source(call: Call) -> tuple[list[x509.Certificate], str]:
    """Return the certificates of a source, and the ARN of the private CA that they are from."""
    source = call.members["source"]
    kind, data = source.get("sourceType"), source.get("sourceData", {})
    if kind == "AWS_ACM_PCA" and "acmPcaArn" in data:
        arn = data["acmPcaArn"]
        if arn not in call.world.private_cas:
            raise invalid(f"The emulator does not know the private CA {arn}: add it to World.private_cas")
        return [call.world.private_cas[arn]], arn
    if kind == "CERTIFICATE_BUNDLE" and "x509CertificateData" in data:
        most = 3 if Difference.THREE_CAS in call.world.differing else MAX_CERTIFICATES
        return _read_bundle(data["x509CertificateData"], most), ""
    if kind == "SELF_SIGNED_REPOSITORY":
        raise invalid("The emulator does not know what a SELF_SIGNED_REPOSITORY is: AWS does not document it")
    raise invalid("source needs a sourceType, and sourceData of that type")


def _read_bundle(text: str, most: int) -> list[x509.Certificate]:
    try:
        certificates = x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise invalid("Error creating TrustAnchor. Bad certificate data") from error
    if len(certificates) > most:
        raise invalid(f"A trust anchor may have at most {most} certificates, not {len(certificates)}")
    for certificate in certificates:
        problem = anchor_problem(certificate)
        if problem:
            message = "Incorrect basic constraints for CA certificate" if "CA:TRUE" in problem else problem
            raise invalid(message, problem)
    return certificates


def merged_settings(settings: Settings, more: list[dict[str, Any]]) -> Settings:
    """Return settings, by event, with those of a request. ALL is the only channel."""
    added = {each["event"]: {"channel": "ALL", "threshold": _DEFAULT["threshold"], **each} for each in more}
    if len(added) < len(more):
        raise invalid("notificationSettings has an event twice")
    return {**settings, **added}


def setting_details(settings: Settings) -> list[dict[str, object]]:
    """Return the settings of all events, with AWS's defaults for those that are not set."""
    return [{"event": event, **settings.get(event, _DEFAULT)} for event in _EVENTS]
