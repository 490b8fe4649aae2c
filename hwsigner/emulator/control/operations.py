"""The operations of the control plane: how each is sent, what it takes, and what runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from hwsigner.emulator.control import anchors, crls, profiles, subjects_and_tags
from hwsigner.emulator.control.calls import Call, ResourceKind
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
    """An operation, with the members of its request. Members named in the path's braces are in the path."""

    name: str
    method: str
    path: str
    input: Structure
    run: Callable[[Call], dict[str, Any]]
    status: int = 200  # Of its response.
    query: tuple[str, ...] = ()  # The members that are in the query.


def _identifier(kind: str) -> Text:
    """Return the shape of a resource's ID, ARN or alias ARN."""
    return Text(1, 1011, f"({_ID}|{_SERVICE}:({kind}|alias/{kind})/.*)")


# The shapes of members, by their names. "sessionPolicy" and "trustAnchorId" have another one in some requests.
_SHAPES: Mapping[str, Shape] = {
    "acceptRoleSessionName": Truth(),
    "aliasName": ALIAS,
    "certificateField": FIELD,
    "crlData": CRL_DATA,
    "crlDpRevocationEnabled": Truth(),
    "crlId": _identifier("crl"),
    "durationSeconds": DURATION,
    "enabled": Truth(),
    "managedPolicyArns": MANAGED_POLICIES,
    "mappingRules": RULES,
    "name": NAME,
    "notificationSettingKeys": NOTIFICATION_KEYS,
    "notificationSettings": NOTIFICATIONS,
    "profileId": _identifier("profile"),
    "requireInstanceProperties": Truth(),
    "resourceArn": ARN,
    "roleArns": ROLES,
    "sessionPolicy": Text(),
    "source": SOURCE,
    "specifiers": Items(Text()),
    "subjectId": UUID,
    "tagKeys": Items(TAG_KEY, 0, 200),
    "tags": TAGS,
    "tipConfiguration": TIP,
    "trustAnchorArn": Text(1, 1011, f"{_SERVICE}(:trust-anchor.*|:alias/trust-anchor/.*)"),
    "trustAnchorId": _identifier("trust-anchor"),
}


def _takes(required: str, optional: str = "", **others: Shape) -> Structure:
    """Return the shape of a request by the names of its members. `others` have a shape of their own in it."""
    names, shapes = (*required.split(), *optional.split()), {**_SHAPES, **others}
    return Structure({name: shapes[name] for name in names}, tuple(required.split()))


def _common(kind: str, own: ResourceKind[Any]) -> Iterator[Operation]:
    """Yield the operations that trust anchors, profiles and CRLs have in common."""
    member = f"{own.member}Id"
    path, only = f"/{kind.lower()}/{{{member}}}", _takes(member)
    yield Operation(f"List{kind}s", "GET", f"/{kind.lower()}s", PAGE, own.list_all, query=_OF_PAGE)
    yield Operation(f"Get{kind}", "GET", path, only, own.get)
    yield Operation(f"Delete{kind}", "DELETE", path, only, own.delete)
    yield Operation(f"Enable{kind}", "POST", f"{path}/enable", only, partial(own.switch, enabled=True))
    yield Operation(f"Disable{kind}", "POST", f"{path}/disable", only, partial(own.switch, enabled=False))


_ANCHOR, _PROFILE, _CRL = "/trustanchor/{trustAnchorId}", "/profile/{profileId}", "/crl/{crlId}"
_MAPPINGS = "/profiles/{profileId}/mappings"
_PUT, _RESET = "/put-notifications-settings", "/reset-notifications-settings"
_NEW_ANCHOR = _takes("name source", "enabled crlDpRevocationEnabled tags notificationSettings aliasName")
_CHANGED_ANCHOR = _takes("trustAnchorId", "name source crlDpRevocationEnabled aliasName")
_PROFILE_SETTINGS = "sessionPolicy managedPolicyArns durationSeconds acceptRoleSessionName aliasName tipConfiguration"
_NEW_PROFILE = _takes("name roleArns", f"requireInstanceProperties enabled tags {_PROFILE_SETTINGS}")
_CHANGED_PROFILE = _takes("profileId", f"name roleArns {_PROFILE_SETTINGS}", sessionPolicy=Text(1, 100000))
_SET_NOTIFICATIONS = _takes("trustAnchorId notificationSettings", trustAnchorId=UUID)
_RESET_NOTIFICATIONS = _takes("trustAnchorId notificationSettingKeys", trustAnchorId=UUID)
_UNMAPPED = _takes("profileId certificateField", "specifiers")
_MAPPED = _takes("profileId certificateField mappingRules")
_NEW_CRL = _takes("name crlData trustAnchorArn", "enabled tags aliasName")
_CHANGED_CRL = _takes("crlId", "name crlData aliasName")
_TAGS, _SUBJECT = "/ListTagsForResource", "/subject/{subjectId}"
_ARN, _OF_PAGE, _OF_MAPPING = ("resourceArn",), ("nextToken", "pageSize"), ("certificateField", "specifiers")
_ALL = (
    *_common("TrustAnchor", anchors.KIND),
    *_common("Profile", profiles.KIND),
    *_common("Crl", crls.KIND),
    Operation("CreateTrustAnchor", "POST", "/trustanchors", _NEW_ANCHOR, anchors.create, 201),
    Operation("UpdateTrustAnchor", "PATCH", _ANCHOR, _CHANGED_ANCHOR, anchors.update),
    Operation("PutNotificationSettings", "PATCH", _PUT, _SET_NOTIFICATIONS, anchors.put_notifications),
    Operation("ResetNotificationSettings", "PATCH", _RESET, _RESET_NOTIFICATIONS, anchors.reset_notifications),
    Operation("CreateProfile", "POST", "/profiles", _NEW_PROFILE, profiles.create, 201),
    Operation("UpdateProfile", "PATCH", _PROFILE, _CHANGED_PROFILE, profiles.update),
    Operation("PutAttributeMapping", "PUT", _MAPPINGS, _MAPPED, profiles.put_mapping),
    Operation("DeleteAttributeMapping", "DELETE", _MAPPINGS, _UNMAPPED, profiles.delete_mapping, query=_OF_MAPPING),
    Operation("ImportCrl", "POST", "/crls", _NEW_CRL, crls.import_crl, 201),
    Operation("UpdateCrl", "PATCH", _CRL, _CHANGED_CRL, crls.update),
    Operation("ListSubjects", "GET", "/subjects", PAGE, subjects_and_tags.list_subjects, query=_OF_PAGE),
    Operation("GetSubject", "GET", _SUBJECT, _takes("subjectId"), subjects_and_tags.get_subject),
    Operation("ListTagsForResource", "GET", _TAGS, _takes("resourceArn"), subjects_and_tags.list_tags, query=_ARN),
    Operation("TagResource", "POST", "/TagResource", _takes("resourceArn tags"), subjects_and_tags.tag, 201),
    Operation("UntagResource", "POST", "/UntagResource", _takes("resourceArn tagKeys"), subjects_and_tags.untag),
)
OPERATIONS: Mapping[str, Operation] = {each.name: each for each in _ALL}
