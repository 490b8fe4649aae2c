"""Certificate revocation lists (CRLs), each for one trust anchor."""

from __future__ import annotations

import base64
from typing import Any

from cryptography import x509

from hwsigner.emulator.control.calls import Call, common, not_found, tags_of
from hwsigner.emulator.refusals import invalid
from hwsigner.emulator.resources import Crl, TrustAnchor
from hwsigner.emulator.revocation import is_signed_by

KIND = "crl"
# AWS's quota, which can't be raised.
MAX_CRLS = 2


def import_crl(call: Call) -> dict[str, Any]:
    """ImportCrl. Unless the request says otherwise, the list is not enabled."""
    crls, members = call.world.crls, call.members
    anchor = _anchor(call, members["trustAnchorArn"])
    _check_list(members["crlData"], anchor)
    call.check_alias(crls)
    if sum(each.trust_anchor == anchor.arn for each in crls.values()) >= MAX_CRLS:
        raise invalid(f"The trust anchor has {MAX_CRLS} CRLs, which is its quota")
    crl = Crl(
        call.new_arn(KIND),
        members["crlData"],
        anchor.arn,
        members.get("enabled", False),
        name=members["name"],
        alias=members.get("aliasName", ""),
        tags=tags_of(call),
        created_at=call.now,
        updated_at=call.now,
    )
    crls[crl.arn] = crl
    return document(crl)


def update(call: Call) -> dict[str, Any]:
    """UpdateCrl."""
    crl = find(call)
    data = call.members.get("crlData", crl.data)
    if "crlData" in call.members:
        _check_list(data, _anchor(call, crl.trust_anchor))
    call.check_alias(call.world.crls, crl)
    previous = call.rename(crl)
    crl.data = data
    return document(crl, previous)


def get(call: Call) -> dict[str, Any]:
    """GetCrl."""
    return document(find(call))


def list_all(call: Call) -> dict[str, Any]:
    """ListCrls."""
    crls, more = call.page(call.world.crls, KIND)
    return {"crls": [_detail(each) for each in crls], **more}


def delete(call: Call) -> dict[str, Any]:
    """DeleteCrl."""
    crl = find(call)
    del call.world.crls[crl.arn]
    return document(crl)


def enable(call: Call) -> dict[str, Any]:
    """EnableCrl."""
    return _switch(call, enabled=True)


def disable(call: Call) -> dict[str, Any]:
    """DisableCrl."""
    return _switch(call, enabled=False)


def find(call: Call) -> Crl:
    """Return the CRL that a request names."""
    return call.find(call.world.crls, KIND, call.members["crlId"])


def document(crl: Crl, more: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the response about one CRL."""
    return {"crl": {**_detail(crl), **(more or {})}}


def _detail(crl: Crl) -> dict[str, Any]:
    return {
        "crlId": crl.id,
        "crlArn": crl.arn,
        "enabled": crl.enabled,
        "crlData": base64.b64encode(crl.data).decode(),
        "trustAnchorArn": crl.trust_anchor,
        **common(crl),
    }


def _switch(call: Call, *, enabled: bool) -> dict[str, Any]:
    crl = find(call)
    crl.enabled, crl.updated_at = enabled, call.now
    return document(crl)


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
