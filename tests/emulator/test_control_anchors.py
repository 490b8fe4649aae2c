"""Trust anchors, made and changed by boto3, and what all resources have in common."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from certs import Authority, make_ca, pem
from emulator.client import Caller, create_session
from emulator.material import DAY, Form, authority
from emulator.planes import ACCOUNT, REGION, anchor_of, bundle, client, profile_of, refused
from hwsigner.emulator import Emulator, World
from hwsigner.emulator.control.anchors import MAX_ANCHORS
from hwsigner.emulator.control.profiles import MAX_PROFILES

PCA = f"arn:aws:acm-pca:{REGION}:{ACCOUNT}:certificate-authority/3f6a2f7e-4c55-4cbf-9d2c-5a1c2f9c0b11"
ENABLED_FOR = {"CA_CERTIFICATE_EXPIRY": 45, "END_ENTITY_CERTIFICATE_EXPIRY": 45}


def test_trust_anchor_is_the_same_by_id_arn_and_alias(plane: Any, ca: Authority) -> None:
    made = anchor_of(plane, ca, aliasName="web/one")
    assert made["enabled"] is False
    assert made["aliasArn"] == f"arn:aws:rolesanywhere:{REGION}:{ACCOUNT}:alias/trust-anchor/web/one"
    for identifier in (made["trustAnchorId"], made["trustAnchorArn"], made["aliasArn"]):
        assert plane.get_trust_anchor(trustAnchorId=identifier)["trustAnchor"] == made


def test_trust_anchor_returns_the_certificates_that_it_got(plane: Any, ca: Authority) -> None:
    second = make_ca("Second CA")
    data = anchor_of(plane, ca, source=bundle(ca.pem, second.pem))["source"]["sourceData"]["x509CertificateData"]
    assert x509.load_pem_x509_certificates(data.encode()) == [ca.certificate, second.certificate]


def test_update_changes_only_what_it_names(plane: Any, ca: Authority, emulator: Emulator) -> None:
    made = anchor_of(plane, ca, aliasName="first", enabled=True)
    renamed = plane.update_trust_anchor(trustAnchorId=made["trustAnchorId"], name="b")["trustAnchor"]
    assert renamed["updatedAt"] > made["updatedAt"]
    assert renamed == {**made, "name": "b", "updatedAt": renamed["updatedAt"]}
    second = make_ca("Second CA")
    plane.update_trust_anchor(trustAnchorId=made["trustAnchorId"], source=bundle(ca.pem, second.pem))
    known = emulator.world.trust_anchors[made["trustAnchorArn"]].certificates
    assert known == [ca.certificate, second.certificate]


def test_enable_disable_and_delete_return_the_new_state(plane: Any, ca: Authority) -> None:
    identifier = {"trustAnchorId": anchor_of(plane, ca)["trustAnchorId"]}
    assert plane.enable_trust_anchor(**identifier)["trustAnchor"]["enabled"] is True
    assert plane.disable_trust_anchor(**identifier)["trustAnchor"]["enabled"] is False
    assert plane.delete_trust_anchor(**identifier)["trustAnchor"]["enabled"] is False
    assert refused(plane.get_trust_anchor, **identifier)[0] == "ResourceNotFoundException"


def test_alias_is_unique_among_resources_of_a_type(plane: Any, ca: Authority) -> None:
    first, second = anchor_of(plane, ca, aliasName="web"), anchor_of(plane, ca)
    assert profile_of(plane, aliasName="web")["aliasArn"].endswith(":alias/profile/web")
    call = {"name": "c", "source": bundle(ca.pem), "aliasName": "web"}
    assert refused(plane.create_trust_anchor, **call) == ("ValidationException", "The alias web is already in use")
    update = {"trustAnchorId": second["trustAnchorId"], "aliasName": "web", "name": "taken"}
    assert refused(plane.update_trust_anchor, **update)[0] == "ValidationException"
    assert plane.get_trust_anchor(trustAnchorId=second["trustAnchorId"])["trustAnchor"] == second  # Nothing is changed.
    assert "previousAliasName" not in plane.update_trust_anchor(trustAnchorId=first["aliasArn"], aliasName="web")
    anchor_of(plane, ca, aliasName="WEB")  # Aliases are case-sensitive.


def test_previous_alias_is_free_and_named_only_when_an_update_changed_it(plane: Any, ca: Authority) -> None:
    made = anchor_of(plane, ca, aliasName="old")
    identifier = {"trustAnchorId": made["trustAnchorId"]}
    changed = plane.update_trust_anchor(**identifier, aliasName="new")["trustAnchor"]
    assert (changed["aliasName"], changed["previousAliasName"]) == ("new", "old")
    assert refused(plane.get_trust_anchor, trustAnchorId=made["aliasArn"])[0] == "ResourceNotFoundException"
    removed = plane.update_trust_anchor(**identifier, aliasName="")["trustAnchor"]
    assert removed["previousAliasName"] == "new"
    assert not {"aliasName", "aliasArn"} & set(removed)
    assert "previousAliasName" not in plane.get_trust_anchor(**identifier)["trustAnchor"]
    assert anchor_of(plane, ca, aliasName="old")["aliasName"] == "old"


@pytest.mark.parametrize("alias", ["1a", "a/", "a//b", "a b", "aws/a", "AWS/a", "a" * 257, "-a"])
def test_alias_is_refused_when_it_is_malformed_or_reserved(plane: Any, ca: Authority, alias: str) -> None:
    call = {"name": "a", "source": bundle(ca.pem), "aliasName": alias}
    assert refused(plane.create_trust_anchor, **call)[0] == "ValidationException"


@pytest.mark.parametrize("identifier", ["0" * 36, "11111111-1111-4111-8111-11111111111G"])
def test_malformed_identifier_is_refused(plane: Any, identifier: str) -> None:
    assert refused(plane.get_trust_anchor, trustAnchorId=identifier)[0] == "ValidationException"


def test_identifier_of_another_account_region_or_type_is_not_found(plane: Any, emulator: Emulator) -> None:
    arn = emulator.trust_anchor_arn
    others = (arn.replace(ACCOUNT, "210987654321"), arn.replace(REGION, "eu-central-1"))
    for other in others:
        assert refused(plane.get_trust_anchor, trustAnchorId=other)[0] == "ResourceNotFoundException"
    assert refused(plane.get_profile, profileId=arn)[0] == "ValidationException"
    elsewhere = client(emulator, "eu-central-1")
    assert elsewhere.list_trust_anchors()["trustAnchors"] == []
    assert refused(elsewhere.get_trust_anchor, trustAnchorId=arn)[0] == "ResourceNotFoundException"


def test_resources_are_made_in_the_region_and_account_of_the_request(emulator: Emulator, ca: Authority) -> None:
    made = anchor_of(client(emulator, "eu-central-1"), ca)
    assert made["trustAnchorArn"].startswith(f"arn:aws:rolesanywhere:eu-central-1:{ACCOUNT}:trust-anchor/")
    chinese = anchor_of(client(emulator, "cn-north-1"), ca)
    assert chinese["trustAnchorArn"].startswith(f"arn:aws-cn:rolesanywhere:cn-north-1:{ACCOUNT}:trust-anchor/")


def test_bundle_is_refused_when_a_certificate_is_not_of_a_ca(plane: Any, ca: Authority, caller: Caller) -> None:
    source = bundle(ca.pem, pem(caller.certificate))
    error = ("ValidationException", "Incorrect basic constraints for CA certificate")
    assert refused(plane.create_trust_anchor, name="a", source=source) == error


def test_bundle_is_refused_when_it_is_not_pem(plane: Any) -> None:
    source = bundle(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    error = ("ValidationException", "Error creating TrustAnchor. Bad certificate data")
    assert refused(plane.create_trust_anchor, name="a", source=source) == error


def test_bundle_may_have_an_expired_certificate(plane: Any) -> None:
    expired = authority(Form("Old CA", ca=True, usages=("key_cert_sign",), begin=-3 * DAY, end=-2 * DAY))
    assert anchor_of(plane, expired)["source"]["sourceType"] == "CERTIFICATE_BUNDLE"


def test_private_ca_is_looked_up_in_the_world(plane: Any, emulator: Emulator, ca: Authority, caller: Caller) -> None:
    source = {"sourceType": "AWS_ACM_PCA", "sourceData": {"acmPcaArn": PCA}}
    assert "World.private_cas" in refused(plane.create_trust_anchor, name="a", source=source)[1]
    emulator.world.private_cas[PCA] = ca.certificate
    made = anchor_of(plane, ca, source=source, enabled=True)
    assert made["source"] == source
    emulator.world.trust_anchors.pop(emulator.trust_anchor_arn)
    assert create_session(emulator, caller).status == 201


SOURCES: list[dict[str, Any]] = [
    {},
    {"sourceType": "CERTIFICATE_BUNDLE"},
    {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"acmPcaArn": PCA}},
    {"sourceType": "AWS_ACM_PCA", "sourceData": {"x509CertificateData": "x"}},
    {"sourceType": "SELF_SIGNED_REPOSITORY", "sourceData": {"x509CertificateData": "x"}},
    {"sourceType": "OTHER", "sourceData": {"x509CertificateData": "x"}},
    {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": "x", "acmPcaArn": PCA}},
    {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {}},
    {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": ""}},
    {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": "x" * 204801}},
]


@pytest.mark.parametrize("source", SOURCES)
def test_source_is_refused_when_type_and_data_do_not_fit(emulator: Emulator, source: dict[str, Any]) -> None:
    plane = client(emulator, check=False)
    assert refused(plane.create_trust_anchor, name="a", source=source)[0] == "ValidationException"


def test_distribution_points_are_refused_aloud(plane: Any, ca: Authority) -> None:
    assert anchor_of(plane, ca, crlDpRevocationEnabled=False)["crlDpRevocationEnabled"] is False
    call = {"name": "a", "source": bundle(ca.pem), "crlDpRevocationEnabled": True}
    code, message = refused(plane.create_trust_anchor, **call)
    assert (code, "CRL distribution points" in message) == ("ValidationException", True)


def test_notifications_are_on_with_a_threshold_of_45_days_until_they_are_set(plane: Any, ca: Authority) -> None:
    made = anchor_of(plane, ca)
    assert {each["event"]: each["threshold"] for each in made["notificationSettings"]} == ENABLED_FOR
    setting = {"enabled": False, "event": "CA_CERTIFICATE_EXPIRY", "threshold": 90}
    changed = plane.put_notification_settings(trustAnchorId=made["trustAnchorId"], notificationSettings=[setting])
    assert changed["trustAnchor"]["notificationSettings"][0] == {**setting, "channel": "ALL"}
    assert changed["trustAnchor"]["notificationSettings"][1] == made["notificationSettings"][1]
    keys = [{"event": "CA_CERTIFICATE_EXPIRY"}]
    reset = plane.reset_notification_settings(trustAnchorId=made["trustAnchorId"], notificationSettingKeys=keys)
    assert reset["trustAnchor"]["notificationSettings"] == made["notificationSettings"]


@pytest.mark.parametrize("settings", [[{"event": "CA_CERTIFICATE_EXPIRY", "enabled": True}] * 2, [{"enabled": True}]])
def test_notification_settings_are_refused_when_unclear(emulator: Emulator, ca: Authority, settings: Any) -> None:
    call = {"name": "a", "source": bundle(ca.pem), "notificationSettings": settings}
    assert refused(client(emulator, check=False).create_trust_anchor, **call)[0] == "ValidationException"


@pytest.mark.slow
def test_region_has_as_many_resources_as_the_quotas_allow(emulator: Emulator, ca: Authority) -> None:
    plane = client(emulator)
    for _ in range(MAX_ANCHORS - 1):
        anchor_of(plane, ca)
    message = refused(plane.create_trust_anchor, name="a", source=bundle(ca.pem))[1]
    assert message == "The account has 50 trust anchors in this region, which is its quota"
    anchor_of(client(emulator, "eu-central-1"), ca)
    for _ in range(MAX_PROFILES - 1):
        profile_of(plane)
    assert "250 profiles" in refused(plane.create_profile, name="p", roleArns=[])[1]


def test_control_plane_uses_the_emulators_clock(ca: Authority) -> None:
    now = datetime.now(UTC) - timedelta(minutes=3)
    with Emulator(World.simple(ca.pem), clock=lambda: now) as emulator:
        made = anchor_of(client(emulator), ca)
    assert made["createdAt"] == made["updatedAt"] == now
