"""The operations of the control plane: how each is sent, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hwsigner.emulator.control.shapes import Binary, Choice, Items, Shape, Structure, Text, Truth, Whole

_ID = "[a-f0-9]{8}-([a-z0-9]{4}-){3}[a-z0-9]{12}"
_SERVICE = r"arn:aws(-[^:]+)?:rolesanywhere(:.*){2}"
UUID = Text(36, 36, f".*{_ID}.*")
NAME = Text(1, 255, "[ a-zA-Z0-9-_]*")
ALIAS = Text(0, 256, "(?!.*//)([A-Za-z]([A-Za-z0-9_/-]*[A-Za-z0-9_-])?)?")
ARN = Text(1, 1011)
TAG_KEY = Text(1, 128, "[ a-zA-Z0-9_.:/=+@-]*")
TAG = Structure({"key": TAG_KEY, "value": Text(0, 256, "[ a-zA-Z0-9_.:/=+@-]*")}, ("key", "value"))
TAGS = Items(TAG, 0, 200)
SOURCE = Structure(
    {
        "sourceType": Choice(("AWS_ACM_PCA", "CERTIFICATE_BUNDLE", "SELF_SIGNED_REPOSITORY")),
        "sourceData": Structure({"x509CertificateData": Text(1, 204800), "acmPcaArn": Text()}, is_union=True),
    }
)
EVENT = Choice(("CA_CERTIFICATE_EXPIRY", "END_ENTITY_CERTIFICATE_EXPIRY"))
CHANNEL = Choice(("ALL",))
NOTIFICATIONS = Items(
    Structure(
        {"enabled": Truth(), "event": EVENT, "threshold": Whole(1, 360), "channel": CHANNEL}, ("enabled", "event")
    ),
    0,
    50,
)
NOTIFICATION_KEYS = Items(Structure({"event": EVENT, "channel": CHANNEL}, ("event",)), 0, 50)
ROLES = Items(Text(1, 1011, "arn:aws(-[^:]+)?:iam(:.*){2}(:role.*)"), 0, 250)
MANAGED_POLICIES = Items(Text(1, 200), 0, 50)
DURATION = Whole(900, 43200)
TIP = Structure(
    {
        "status": Choice(("ENABLED", "DISABLED")),
        "subjectType": Choice(("user", "workload")),
        "subjectSource": Choice(("x509SAN/URI", "x509Subject/CN")),
    },
    ("status",),
)
FIELD = Choice(("x509Subject", "x509Issuer", "x509SAN"))
RULES = Items(Structure({"specifier": Text(0, 60)}, ("specifier",)))
CRL_DATA = Binary(1, 300000)
PAGE = Structure({"nextToken": Text(1, 10000), "pageSize": Whole()})


class Operation(NamedTuple):
    """An operation, with the members of its request. Members named in the path's braces are in the path.

    Attributes:
        status: the HTTP status of its response.
        query: the members that are in the query.
    """

    name: str
    method: str
    path: str
    input: Structure
    status: int = 200
    query: tuple[str, ...] = ()


def _identifier(kind: str) -> Text:
    """Return the shape of a resource's ID, ARN or alias ARN."""
    return Text(1, 1011, f"({_ID}|{_SERVICE}:({kind}|alias/{kind})/.*)")


def _only(name: str, shape: Shape) -> Structure:
    return Structure({name: shape}, (name,))


_ANCHOR_ID, _PROFILE_ID, _CRL_ID = map(_identifier, ("trust-anchor", "profile", "crl"))
_ANCHOR = _only("trustAnchorId", _ANCHOR_ID)
_PROFILE = _only("profileId", _PROFILE_ID)
_CRL = _only("crlId", _CRL_ID)
_PAGES = ("nextToken", "pageSize")

_ANCHORS = (
    Operation(
        "CreateTrustAnchor",
        "POST",
        "/trustanchors",
        Structure(
            {
                "name": NAME,
                "source": SOURCE,
                "enabled": Truth(),
                "crlDpRevocationEnabled": Truth(),
                "tags": TAGS,
                "notificationSettings": NOTIFICATIONS,
                "aliasName": ALIAS,
            },
            ("name", "source"),
        ),
        201,
    ),
    Operation(
        "UpdateTrustAnchor",
        "PATCH",
        "/trustanchor/{trustAnchorId}",
        Structure(
            {
                "trustAnchorId": _ANCHOR_ID,
                "name": NAME,
                "source": SOURCE,
                "crlDpRevocationEnabled": Truth(),
                "aliasName": ALIAS,
            },
            ("trustAnchorId",),
        ),
    ),
    Operation("ListTrustAnchors", "GET", "/trustanchors", PAGE, query=_PAGES),
    Operation("GetTrustAnchor", "GET", "/trustanchor/{trustAnchorId}", _ANCHOR),
    Operation("DeleteTrustAnchor", "DELETE", "/trustanchor/{trustAnchorId}", _ANCHOR),
    Operation("EnableTrustAnchor", "POST", "/trustanchor/{trustAnchorId}/enable", _ANCHOR),
    Operation("DisableTrustAnchor", "POST", "/trustanchor/{trustAnchorId}/disable", _ANCHOR),
    Operation(
        "PutNotificationSettings",
        "PATCH",
        "/put-notifications-settings",
        Structure(
            {"trustAnchorId": UUID, "notificationSettings": NOTIFICATIONS}, ("trustAnchorId", "notificationSettings")
        ),
    ),
    Operation(
        "ResetNotificationSettings",
        "PATCH",
        "/reset-notifications-settings",
        Structure(
            {"trustAnchorId": UUID, "notificationSettingKeys": NOTIFICATION_KEYS},
            ("trustAnchorId", "notificationSettingKeys"),
        ),
    ),
)
_PROFILES = (
    Operation(
        "CreateProfile",
        "POST",
        "/profiles",
        Structure(
            {
                "name": NAME,
                "requireInstanceProperties": Truth(),
                "sessionPolicy": Text(),
                "roleArns": ROLES,
                "managedPolicyArns": MANAGED_POLICIES,
                "durationSeconds": DURATION,
                "enabled": Truth(),
                "tags": TAGS,
                "acceptRoleSessionName": Truth(),
                "aliasName": ALIAS,
                "tipConfiguration": TIP,
            },
            ("name", "roleArns"),
        ),
        201,
    ),
    Operation(
        "UpdateProfile",
        "PATCH",
        "/profile/{profileId}",
        Structure(
            {
                "profileId": _PROFILE_ID,
                "name": NAME,
                "sessionPolicy": Text(1, 100000),
                "roleArns": ROLES,
                "managedPolicyArns": MANAGED_POLICIES,
                "durationSeconds": DURATION,
                "acceptRoleSessionName": Truth(),
                "aliasName": ALIAS,
                "tipConfiguration": TIP,
            },
            ("profileId",),
        ),
    ),
    Operation("ListProfiles", "GET", "/profiles", PAGE, query=_PAGES),
    Operation("GetProfile", "GET", "/profile/{profileId}", _PROFILE),
    Operation("DeleteProfile", "DELETE", "/profile/{profileId}", _PROFILE),
    Operation("EnableProfile", "POST", "/profile/{profileId}/enable", _PROFILE),
    Operation("DisableProfile", "POST", "/profile/{profileId}/disable", _PROFILE),
    Operation(
        "PutAttributeMapping",
        "PUT",
        "/profiles/{profileId}/mappings",
        Structure(
            {"profileId": _PROFILE_ID, "certificateField": FIELD, "mappingRules": RULES},
            ("profileId", "certificateField", "mappingRules"),
        ),
    ),
    Operation(
        "DeleteAttributeMapping",
        "DELETE",
        "/profiles/{profileId}/mappings",
        Structure(
            {"profileId": _PROFILE_ID, "certificateField": FIELD, "specifiers": Items(Text())},
            ("profileId", "certificateField"),
        ),
        query=("certificateField", "specifiers"),
    ),
)
_CRLS = (
    Operation(
        "ImportCrl",
        "POST",
        "/crls",
        Structure(
            {
                "name": NAME,
                "crlData": CRL_DATA,
                "enabled": Truth(),
                "tags": TAGS,
                "trustAnchorArn": Text(1, 1011, f"{_SERVICE}(:trust-anchor.*|:alias/trust-anchor/.*)"),
                "aliasName": ALIAS,
            },
            ("name", "crlData", "trustAnchorArn"),
        ),
        201,
    ),
    Operation(
        "UpdateCrl",
        "PATCH",
        "/crl/{crlId}",
        Structure({"crlId": _CRL_ID, "name": NAME, "crlData": CRL_DATA, "aliasName": ALIAS}, ("crlId",)),
    ),
    Operation("ListCrls", "GET", "/crls", PAGE, query=_PAGES),
    Operation("GetCrl", "GET", "/crl/{crlId}", _CRL),
    Operation("DeleteCrl", "DELETE", "/crl/{crlId}", _CRL),
    Operation("EnableCrl", "POST", "/crl/{crlId}/enable", _CRL),
    Operation("DisableCrl", "POST", "/crl/{crlId}/disable", _CRL),
)
_OTHERS = (
    Operation("ListSubjects", "GET", "/subjects", PAGE, query=_PAGES),
    Operation("GetSubject", "GET", "/subject/{subjectId}", _only("subjectId", UUID)),
    Operation("ListTagsForResource", "GET", "/ListTagsForResource", _only("resourceArn", ARN), query=("resourceArn",)),
    Operation(
        "TagResource",
        "POST",
        "/TagResource",
        Structure({"resourceArn": ARN, "tags": TAGS}, ("resourceArn", "tags")),
        201,
    ),
    Operation(
        "UntagResource",
        "POST",
        "/UntagResource",
        Structure({"resourceArn": ARN, "tagKeys": Items(TAG_KEY, 0, 200)}, ("resourceArn", "tagKeys")),
    ),
)
OPERATIONS: Mapping[str, Operation] = {each.name: each for each in (*_ANCHORS, *_PROFILES, *_CRLS, *_OTHERS)}
