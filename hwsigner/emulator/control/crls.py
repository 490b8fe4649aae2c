"""Certificate revocation lists (CRLs), each for one trust anchor."""

from __future__ import annotations

import base64
from typing import Any

from cryptography import x509

from hwsigner.emulator.certificates import is_signed_by
from hwsigner.emulator.control.calls import Call, ResourceKind, base_detail, not_found
from hwsigner.emulator.refusals import invalid
from hwsigner.emulator.resources import Crl, TrustAnchor

# AWS's quota, which can't be raised.
MAX_CRLS = 2


def _detail(crl: Crl) -> dict[str, Any]:
    return {
        "crlId": crl.id,
        "crlArn": crl.arn,
        "enabled": crl.enabled,
        "crlData": base64.b64encode(crl.data).decode(),
        "trustAnchorArn": crl.trust_anchor,
        **base_detail(crl),
    }


KIND = ResourceKind("crl", "crl", lambda world: world.crls, _detail)


def import_crl(call: Call) -> dict[str, Any]:
    """ImportCrl. Unless the request says otherwise, the list is not enabled."""
    crls, members = call.world.crls, call.members
    anchor = _anchor(call, members["trustAnchorArn"])
    _check_list(members["crlData"], anchor)
    call.check_alias(crls)
    if sum(each.trust_anchor == anchor.arn for each in crls.values()) >= MAX_CRLS:
        raise invalid(f"The trust anchor has {MAX_CRLS} CRLs, which is its quota")
    crl = Crl(
        call.new_arn(KIND.name), members["crlData"], anchor.arn, members.get("enabled", False), **call.base_fields()
    )
    return KIND.add(call, crl)


def update(call: Call) -> dict[str, Any]:
    """UpdateCrl."""
    crl = KIND.find(call)
    data = call.members.get("crlData", crl.data)
    if "crlData" in call.members:
        _check_list(data, _anchor(call, crl.trust_anchor))
    call.check_alias(call.world.crls, crl)
    previous = call.rename(crl)
    crl.data = data
    return KIND.document(crl, previous)


def _anchor(call: Call, arn: str) -> TrustAnchor:
    """Return a trust anchor by its ARN. Alias ARNs are not found, as AWS documents for ImportCrl."""
    found = call.world.trust_anchors.get(arn) if arn.startswith(call.prefix) else None
    if found is None:
        raise not_found("trust-anchor", arn)
    return found


def _check_list(data: bytes, anchor: TrustAnchor) -> None:
    if data.count(b"-----BEGIN ") != 1:
        raise invalid("crlData is not one CRL in PEM")
    try:
        crl = x509.load_pem_x509_crl(data)
    except ValueError as error:
        raise invalid("crlData is not one CRL in PEM") from error
    if not any(is_signed_by(crl, each) for each in anchor.certificates):
        raise invalid("The CRL is not signed by a certificate of the trust anchor")
