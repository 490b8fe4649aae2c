"""Tags of all resources, and subjects, which CreateSession records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwsigner.emulator.control.calls import Call, merged_tags, timestamp
from hwsigner.emulator.refusals import RefusalError
from hwsigner.emulator.resources import Resource, Subject

_SUBJECT = "subject"


def list_tags(call: Call) -> dict[str, Any]:
    """ListTagsForResource."""
    return {"tags": [{"key": key, "value": value} for key, value in _find(call).tags.items()]}


def tag(call: Call) -> dict[str, Any]:
    """TagResource."""
    resource = _find(call)
    resource.tags = merged_tags(resource.tags, call.members["tags"])
    return {}


def untag(call: Call) -> dict[str, Any]:
    """UntagResource. Keys that the resource does not have are ignored."""
    resource = _find(call)
    unwanted = call.members["tagKeys"]
    resource.tags = {key: value for key, value in resource.tags.items() if key not in unwanted}
    return {}


def _find(call: Call) -> Resource:
    """Return the resource with an ARN, which must not be an alias ARN."""
    arn, world = call.members["resourceArn"], call.world
    every: tuple[Mapping[str, Resource], ...] = (world.trust_anchors, world.profiles, world.crls, world.subjects)
    found = next((resources[arn] for resources in every if arn in resources), None)
    if found is None or not arn.startswith(call.prefix):
        raise RefusalError("ResourceNotFoundException", 404, f"Resource {arn} not found")
    return found


def get_subject(call: Call) -> dict[str, Any]:
    """GetSubject."""
    subject = call.find(call.world.subjects, _SUBJECT, call.members["subjectId"])
    details = {"credentials": list(subject.credentials.values()), "instanceProperties": subject.instance_properties}
    return {"subject": {**_summary(subject), **details}}


def list_subjects(call: Call) -> dict[str, Any]:
    """ListSubjects."""
    subjects, more = call.page(call.world.subjects, _SUBJECT)
    return {"subjects": [_summary(each) for each in subjects], **more}


def _summary(subject: Subject) -> dict[str, Any]:
    return {
        "subjectArn": subject.arn,
        "subjectId": subject.id,
        "enabled": subject.enabled,
        "x509Subject": subject.x509_subject,
        "lastSeenAt": timestamp(subject.last_seen_at),
        "createdAt": timestamp(subject.created_at),
        "updatedAt": timestamp(subject.updated_at),
    }
