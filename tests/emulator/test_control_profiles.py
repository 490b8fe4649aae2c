"""Profiles and their attribute mappings, made and changed by boto3."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest

from emulator.planes import ACCOUNT, ROLE, client, profile_of, refused
from hwsigner.emulator import Emulator


def test_profile_keeps_everything_that_it_is_given(plane: Any) -> None:
    given = {
        "name": "p q-r_S",
        "requireInstanceProperties": True,
        "sessionPolicy": '{"Version": "2012-10-17", "Statement": []}',
        "roleArns": [ROLE, f"arn:aws:iam::{ACCOUNT}:role/path/other"],
        "managedPolicyArns": ["arn:aws:iam::aws:policy/ReadOnlyAccess"],
        "durationSeconds": 43200,
        "enabled": True,
        "acceptRoleSessionName": True,
        "aliasName": "p",
        "tipConfiguration": {"status": "ENABLED", "subjectType": "workload", "subjectSource": "x509SAN/URI"},
    }
    made = profile_of(plane, **given)
    assert {name: made[name] for name in given} == given
    assert made["createdBy"] == ACCOUNT
    assert plane.get_profile(profileId=made["aliasArn"])["profile"] == made


def test_profile_has_the_documented_defaults(plane: Any) -> None:
    made = profile_of(plane)
    assert (made["durationSeconds"], made["enabled"], made["acceptRoleSessionName"]) == (3600, False, False)
    assert (made["requireInstanceProperties"], made["managedPolicyArns"]) == (False, [])
    assert not {"sessionPolicy", "tipConfiguration", "aliasName", "aliasArn"} & set(made)
    assert {each["certificateField"]: each["mappingRules"] for each in made["attributeMappings"]} == {
        "x509Subject": [{"specifier": "*"}],
        "x509Issuer": [{"specifier": "*"}],
        "x509SAN": [{"specifier": "DNS"}, {"specifier": "URI"}, {"specifier": "Name/*"}],
    }


def test_profile_update_changes_only_what_it_names(plane: Any) -> None:
    made = profile_of(plane, aliasName="p", acceptRoleSessionName=True, durationSeconds=900)
    changes: dict[str, Any] = {"roleArns": [], "sessionPolicy": "{}", "tipConfiguration": {"status": "DISABLED"}}
    changes |= {"name": "q", "acceptRoleSessionName": False}
    updated = plane.update_profile(profileId=made["profileId"], **changes)["profile"]
    assert updated == {**made, **changes, "updatedAt": updated["updatedAt"]}


@pytest.mark.parametrize(
    "change",
    [
        {"durationSeconds": 899},
        {"name": ""},
        {"sessionPolicy": "not JSON"},
        {"sessionPolicy": "[]"},
        {"sessionPolicy": "[" * 20000},
        {"roleArns": ["arn:aws:iam::123456789012:user/a"]},
        {"tipConfiguration": {"status": "ON"}},
    ],
)
def test_profile_is_refused_when_a_member_breaks_its_constraint(emulator: Emulator, change: dict[str, Any]) -> None:
    plane = client(emulator, check=False)
    made = profile_of(plane)
    assert refused(plane.create_profile, **{"name": "p", "roleArns": [ROLE], **change})[0] == "ValidationException"
    assert refused(plane.update_profile, profileId=made["profileId"], **change)[0] == "ValidationException"
    assert plane.get_profile(profileId=made["profileId"])["profile"] == made


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"durationSeconds": 43201}, "'43201' at 'durationSeconds'*Member must have value less than or equal to 43200"),
        ({"name": "a.b"}, "'a.b' at 'name'*Member must satisfy regular expression pattern: ^[[] a-zA-Z0-9-_]*$"),
        ({"name": None}, "null at 'name'*Member must not be null"),
        ({"managedPolicyArns": ["a", "b"] * 26}, "'[[]a, b, *' at 'managedPolicyArns'*less than or equal to 50"),
    ],
)
def test_refused_value_is_quoted_as_aws_was_seen_to(emulator: Emulator, change: dict[str, Any], words: str) -> None:
    plane = client(emulator, check=False)
    message = refused(plane.create_profile, **{"name": "p", "roleArns": [ROLE], **change})[1]
    assert fnmatchcase(message, f"1 validation error detected: Value {words}")


def mappings(response: dict[str, Any]) -> dict[str, list[str]]:
    return {
        each["certificateField"]: [rule["specifier"] for rule in each["mappingRules"]]
        for each in response["profile"]["attributeMappings"]
    }


def test_mappings_are_put_and_deleted_field_by_field(plane: Any) -> None:
    identifier = {"profileId": profile_of(plane)["profileId"]}
    rules = [{"specifier": "CN"}, {"specifier": "OU"}]
    put = plane.put_attribute_mapping(**identifier, certificateField="x509Subject", mappingRules=rules)
    assert mappings(put)["x509Subject"] == ["CN", "OU"]
    one = plane.delete_attribute_mapping(**identifier, certificateField="x509Subject", specifiers=["OU"])
    assert mappings(one)["x509Subject"] == ["CN"]
    two = plane.delete_attribute_mapping(**identifier, certificateField="x509SAN", specifiers=["DNS", "Name/*"])
    assert mappings(two)["x509SAN"] == ["URI"]
    field = plane.delete_attribute_mapping(**identifier, certificateField="x509Issuer")
    assert mappings(field) == {"x509Subject": ["CN"], "x509SAN": ["URI"]}


@pytest.mark.parametrize("rules", [[], [{"specifier": "cn"}], [{"specifier": "x" * 61}], [{}]])
def test_mapping_is_refused_when_a_specifier_is_unknown(emulator: Emulator, rules: list[dict[str, str]]) -> None:
    plane = client(emulator, check=False)
    made = profile_of(plane)
    call = {"profileId": made["profileId"], "certificateField": "x509Subject", "mappingRules": rules}
    assert refused(plane.put_attribute_mapping, **call)[0] == "ValidationException"
    assert plane.get_profile(profileId=made["profileId"])["profile"] == made
