"""Subjects, as the control plane shows them. CreateSession records them."""

from __future__ import annotations

from typing import Any

from hwsigner.emulator.control.calls import Call, timestamp
from hwsigner.emulator.resources import Subject

KIND = "subject"


def get(call: Call) -> dict[str, Any]:
    """GetSubject."""
    subject = call.find(call.world.subjects, KIND, call.members["subjectId"])
    details = {"credentials": list(subject.credentials.values()), "instanceProperties": subject.instance_properties}
    return {"subject": {**_summary(subject), **details}}


def list_all(call: Call) -> dict[str, Any]:
    """ListSubjects."""
    subjects, more = call.page(call.world.subjects, KIND)
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
