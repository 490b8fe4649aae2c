"""Reading what AWS has, from answers that the emulator does not give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hwsigner._aws.create_session import SessionRequest
from hwsigner._control_plane.facts import Facts, read_facts
from hwsigner.errors import ServiceError, ServiceUnreachableError

PREFIX = "arn:aws:rolesanywhere:us-east-1:123456789012:"
ANCHOR, PROFILE = f"{PREFIX}trust-anchor/1", f"{PREFIX}profile/2"
ROLE = "arn:aws:iam::123456789012:role/team/web"
PCA = "arn:aws:acm-pca:us-east-1:123456789012:certificate-authority/3"


class Service:
    """Stands for a client. Answers are by operation; those that are errors are raised."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    def call(self, operation: str, **parameters: Any) -> Any:
        answer = self._answers[operation]
        if isinstance(answer, Exception):
            raise answer
        return answer(**parameters) if callable(answer) else answer

    find = call

    def items(self, operation: str, member: str) -> Any:
        return self.call(operation)


def read(subjects: tuple[str, ...] = (), **answers: Any) -> Facts:
    empty: dict[str, Any] = {f"list_{name}": [] for name in ("trust_anchors", "profiles", "crls", "subjects")}
    service = Service({"get_role": {"Role": {"Arn": ROLE}}, **empty, **answers})
    clients: Any = SimpleNamespace(account="123456789012", rolesanywhere=service, iam=service, acm_pca=service)
    return read_facts(clients, SessionRequest(ANCHOR, PROFILE, ROLE), subjects)


def test_list_without_data_is_read_again() -> None:
    facts = read(
        list_crls=[{"crlId": "7"}, {"crlId": "8", "crlData": b"8"}],
        get_crl=lambda crlId: {"crl": {"crlId": crlId, "crlData": b"7"}},  # noqa: N803
    )
    assert [each["crlData"] for each in facts.crls or ()] == [b"7", b"8"]


@pytest.mark.parametrize("written", ["CN=web,OU=devops", "OU=devops, CN=web"])
def test_subject_is_found_in_either_order(written: str) -> None:
    facts = read(
        ("CN=web,OU=devops",),
        list_subjects=[{"subjectId": "1", "x509Subject": "CN=web"}, {"subjectId": "2", "x509Subject": written}],
        get_subject=lambda subjectId: {"subject": {"credentials": [subjectId]}},  # noqa: N803
    )
    assert facts.subject == {"subjectId": "2", "x509Subject": written, "credentials": ["2"]}


def test_anchor_and_profile_are_read_alone_when_lists_are_denied() -> None:
    denied = ServiceError("denied")
    facts = read(
        list_trust_anchors=denied,
        list_profiles=denied,
        get_trust_anchor={"trustAnchor": {"trustAnchorArn": ANCHOR}},
        get_profile=None,
    )
    assert (facts.anchor(ANCHOR), facts.profile(PROFILE)) == ({"trustAnchorArn": ANCHOR}, {})
    assert facts.failures == (denied, denied)


def test_private_ca_of_the_trust_anchor_is_read() -> None:
    source = {"sourceData": {"acmPcaArn": PCA}}
    answer = {"Certificate": "its own", "CertificateChain": "those above"}
    facts = read(
        list_trust_anchors=[{"trustAnchorArn": ANCHOR, "source": source}], get_certificate_authority_certificate=answer
    )
    assert facts.private_ca == "its own\nthose above"


def test_first_error_is_raised_when_no_resource_can_be_read() -> None:
    first = ServiceError("first")
    names = ("list_trust_anchors", "get_trust_anchor", "list_profiles", "get_profile", "list_crls", "get_role")
    with pytest.raises(ServiceError, match="first"):
        read((), **{**dict.fromkeys(names, ServiceError("later")), "list_trust_anchors": first})


def test_no_more_is_asked_when_the_service_does_not_answer() -> None:
    with pytest.raises(ServiceUnreachableError):
        read(list_profiles=ServiceUnreachableError("no answer"))
