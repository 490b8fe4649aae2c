"""Pages, tags and malformed requests of the control plane."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.client import send
from emulator.planes import ACCOUNT, REGION, client, refused
from emulator.signing import USER, Plan, add_credentials, ask, error_code
from hwsigner.emulator import Emulator, Profile, World
from hwsigner.emulator.control.operations import OPERATIONS, Operation

PLAN = Plan("rolesanywhere", "POST", "/profiles", (("Content-Type", "application/json"),), credentials=USER)
BODY = {"name": "p", "roleArns": []}
ROOT = f"arn:aws:rolesanywhere:{REGION}:{ACCOUNT}"
NUMBERS = st.sets(st.integers(0, 15))
NAMES = st.sampled_from(["key", "value", "event", "enabled", "sourceType", "sourceData", "acmPcaArn", "specifier"])
KNOWN = st.sampled_from(["x509Subject", "CN", "aws/a", "CERTIFICATE_BUNDLE", "LS0tLS0=", f"{ROOT}:profile/x", "a" * 36])


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner) | st.dictionaries(NAMES, inner)


def profile_arn(number: int) -> str:
    return f"{ROOT}:profile/00000000-0000-4000-8000-{number:012x}"


@pytest.fixture(scope="module")
def crowded() -> Any:
    """An emulator without resources, whose profiles the tests replace."""
    with Emulator(World()) as emulator:
        yield emulator


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(numbers=NUMBERS, leaving=NUMBERS, size=st.integers(1, 5))
def test_pages_have_every_resource_that_stays_once(
    crowded: Emulator, numbers: set[int], leaving: set[int], size: int
) -> None:
    profiles = crowded.world.profiles
    profiles.clear()
    profiles.update({profile_arn(number): Profile(profile_arn(number), []) for number in numbers})
    plane = client(crowded)
    seen: list[str] = []
    more: dict[str, str] = {}
    while True:
        page = plane.list_profiles(pageSize=size, **more)
        seen += [each["profileArn"] for each in page["profiles"]]
        assert len(page["profiles"]) <= size
        if "nextToken" not in page:
            break
        more = {"nextToken": page["nextToken"]}
        for number in leaving:
            profiles.pop(profile_arn(number), None)
    assert len(seen) == len(set(seen))
    assert {profile_arn(number) for number in numbers - leaving} <= set(seen)


def test_paginator_of_botocore_reads_all_pages(emulator: Emulator) -> None:
    emulator.world.profiles.update({profile_arn(number): Profile(profile_arn(number), []) for number in range(120)})
    plane = client(emulator)
    assert len(plane.list_profiles()["profiles"]) == 50
    pages = plane.get_paginator("list_profiles").paginate().build_full_result()
    assert len(pages["profiles"]) == 121


@pytest.mark.parametrize("page", [{"pageSize": 0}, {"pageSize": -1}, {"nextToken": "x"}, {"nextToken": "Y3JsIHg="}])
def test_page_is_refused_when_token_or_size_is_invalid(emulator: Emulator, page: dict[str, Any]) -> None:
    assert refused(client(emulator).list_profiles, **page)[0] == "ValidationException"


def test_every_kind_of_resource_has_tags(emulator: Emulator) -> None:
    plane = client(emulator)
    for arn in (emulator.trust_anchor_arn, emulator.profile_arn):
        tags = [{"key": "a", "value": "1"}, {"key": "b c", "value": ""}]
        plane.tag_resource(resourceArn=arn, tags=tags)
        assert plane.list_tags_for_resource(resourceArn=arn)["tags"] == tags
        plane.tag_resource(resourceArn=arn, tags=[{"key": "a", "value": "2"}])
        plane.untag_resource(resourceArn=arn, tagKeys=["b c", "unknown"])
        assert plane.list_tags_for_resource(resourceArn=arn)["tags"] == [{"key": "a", "value": "2"}]


def test_resource_has_at_most_50_tags(emulator: Emulator) -> None:
    plane, arn = client(emulator), emulator.profile_arn
    tags = [{"key": f"k{number}", "value": ""} for number in range(51)]
    plane.tag_resource(resourceArn=arn, tags=tags[:50])
    assert refused(plane.tag_resource, resourceArn=arn, tags=tags[50:])[0] == "TooManyTagsException"
    assert len(plane.list_tags_for_resource(resourceArn=arn)["tags"]) == 50
    assert refused(plane.create_profile, name="p", roleArns=[], tags=tags)[0] == "TooManyTagsException"
    assert len(plane.list_profiles()["profiles"]) == 1


@pytest.mark.parametrize(
    "tags",
    [
        [{"key": "aws:a", "value": ""}],
        [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}],
        [{"key": "ä", "value": ""}],
    ],
)
def test_tag_is_refused_when_it_is_reserved_repeated_or_malformed(emulator: Emulator, tags: Any) -> None:
    plane = client(emulator, check=False)
    assert refused(plane.tag_resource, resourceArn=emulator.profile_arn, tags=tags)[0] == "ValidationException"
    assert refused(plane.create_profile, name="p", roleArns=[], tags=tags)[0] == "ValidationException"


def test_tags_are_of_no_alias_and_of_no_other_account(emulator: Emulator) -> None:
    emulator.world.profiles[emulator.profile_arn].alias = "a"
    plane = client(emulator)
    alias_arn = plane.get_profile(profileId=emulator.profile_arn)["profile"]["aliasArn"]
    for arn in (alias_arn, emulator.profile_arn.replace(REGION, "eu-central-1"), f"{ROOT}:profile/x"):
        assert refused(plane.list_tags_for_resource, resourceArn=arn)[0] == "ResourceNotFoundException"
    elsewhere = client(emulator, "eu-central-1")
    assert refused(elsewhere.list_tags_for_resource, resourceArn=emulator.profile_arn)[0] == "ResourceNotFoundException"


REFUSED = [
    ({"method": "GET", "target": "/unknown"}, (404, "UnknownOperationException")),
    ({"method": "PUT"}, (404, "UnknownOperationException")),
    ({"target": "/profile/"}, (404, "UnknownOperationException")),
    ({"body": b"{"}, (400, "SerializationException")),
    ({"body": b"[]"}, (400, "SerializationException")),
    ({"body": b"\xff"}, (400, "SerializationException")),
    ({"body": b"[" * 100_000}, (400, "SerializationException")),
    ({"body": json.dumps({**BODY, "durationSeconds": True}).encode()}, (400, "SerializationException")),
    ({"body": json.dumps({**BODY, "roleArns": {}}).encode()}, (400, "SerializationException")),
    ({"body": json.dumps({**BODY, "name": None}).encode()}, (400, "ValidationException")),
    ({"body": b""}, (400, "ValidationException")),
    ({"target": "/profiles?pageSize=1", "body": json.dumps(BODY).encode()}, (400, "ValidationException")),
    ({"headers": (("Content-Type", "text/plain"),), "body": b"{}"}, (415, "UnsupportedMediaTypeException")),
    ({"method": "GET", "target": "/profiles?pageSize=x"}, (400, "SerializationException")),
    ({"method": "GET", "target": "/profiles?pageSize=1&pageSize=2"}, (400, "ValidationException")),
    ({"method": "GET", "target": "/profiles?other=1"}, (400, "ValidationException")),
]


@pytest.mark.parametrize(("changes", "error"), REFUSED)
def test_malformed_request_is_refused(emulator: Emulator, changes: dict[str, Any], error: tuple[int, str]) -> None:
    reply = ask(add_credentials(emulator), replace(PLAN, **changes))
    assert error_code(reply) == error
    assert list(emulator.world.profiles) == [emulator.profile_arn]


def test_member_that_the_emulator_does_not_know_is_named(emulator: Emulator) -> None:
    body = json.dumps({**BODY, "tipConfiguration": {"status": "ENABLED", "new": 1}}).encode()
    reply = ask(add_credentials(emulator), replace(PLAN, body=body))
    assert reply.json["message"] == "The emulator does not know the member tipConfiguration.new"


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(operation=st.sampled_from(list(OPERATIONS.values())), data=st.data())
def test_any_request_gets_a_response_of_the_api(crowded: Emulator, operation: Operation, data: st.DataObject) -> None:
    values = st.recursive(st.none() | st.booleans() | st.integers() | st.text() | KNOWN, containers, max_leaves=8)
    body = data.draw(values | st.dictionaries(st.sampled_from(sorted(operation.input.members)), values))
    texts = {name: quote(data.draw(KNOWN | st.text(min_size=1)), safe="") for name in operation.input.members}
    query = "&".join(f"{name}={texts[name]}" for name in operation.query if data.draw(st.booleans()))
    target = "?".join(filter(None, (operation.path.format(**texts), query)))
    sent = replace(PLAN, method=operation.method, target=target, body=json.dumps(body).encode())
    reply = ask(add_credentials(crowded), sent)
    assert reply.status in (200, 201, 400, 403, 404), reply.body
    assert reply.status < 300 or set(reply.json) == {"message"}


def test_presigned_url_is_accepted(emulator: Emulator) -> None:
    reply = ask(add_credentials(emulator), replace(PLAN, method="GET", headers=(), presigned=True, region=REGION))
    assert [each["profileArn"] for each in reply.json["profiles"]] == [emulator.profile_arn]


def test_unsigned_request_is_refused(emulator: Emulator) -> None:
    plan = replace(PLAN, method="GET", target="/profiles", headers=())
    assert ask(add_credentials(emulator), plan).status == 200
    assert send(emulator, plan.signed(emulator).without("Authorization")).status == 404
