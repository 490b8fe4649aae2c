"""Profiles and their attribute mappings."""

from __future__ import annotations

import json
from typing import Any

from hwsigner.emulator.control.calls import Call, ResourceKind, base_detail, not_found
from hwsigner.emulator.differences import Difference
from hwsigner.emulator.permissions import require
from hwsigner.emulator.refusals import denied, invalid
from hwsigner.emulator.resources import Profile
from hwsigner.emulator.tags import Mappings, parse_mappings
from hwsigner.errors import ConfigError

MAX_PROFILES = 250


def _detail(profile: Profile) -> dict[str, Any]:
    optional = {
        "sessionPolicy": profile.session_policy,
        "tipConfiguration": profile.tip,
        "createdBy": profile.created_by,
    }
    return {
        "profileId": profile.id,
        "profileArn": profile.arn,
        "enabled": profile.enabled,
        "requireInstanceProperties": profile.require_instance_properties,
        "roleArns": profile.roles,
        "managedPolicyArns": profile.managed_policies,
        "durationSeconds": profile.duration_seconds,
        "acceptRoleSessionName": profile.accept_role_session_name,
        "attributeMappings": [
            {"certificateField": name, "mappingRules": [{"specifier": each} for each in rules]}
            for name, rules in profile.attribute_mappings.items()
        ],
        **{name: value for name, value in optional.items() if value},
        **base_detail(profile),
    }


KIND = ResourceKind("profile", "profile", lambda world: world.profiles, _detail)


def create(call: Call) -> dict[str, Any]:
    """CreateProfile."""
    profiles, members = call.world.profiles, call.members
    _check(call)
    call.check_alias(profiles)
    if len(call.own(profiles)) >= MAX_PROFILES:
        raise invalid(f"The account has {MAX_PROFILES} profiles in this region, which is its quota")
    profile = Profile(
        call.new_arn(KIND.name),
        list(members["roleArns"]),
        members.get("durationSeconds", 3600),
        members.get("acceptRoleSessionName", False),
        members.get("enabled", False),
        **call.base_fields(),
        session_policy=members.get("sessionPolicy", ""),
        managed_policies=members.get("managedPolicyArns", []),
        require_instance_properties=members.get("requireInstanceProperties", False),
        tip=members.get("tipConfiguration"),
        created_by=call.caller.account,
    )
    return KIND.add(call, profile)


def update(call: Call) -> dict[str, Any]:
    """UpdateProfile."""
    profile, members = KIND.find(call), call.members
    _check(call)
    call.check_alias(call.world.profiles, profile)
    previous = call.rename(profile)
    profile.roles = list(members.get("roleArns", profile.roles))
    profile.duration_seconds = members.get("durationSeconds", profile.duration_seconds)
    profile.accept_role_session_name = members.get("acceptRoleSessionName", profile.accept_role_session_name)
    profile.session_policy = members.get("sessionPolicy", profile.session_policy)
    profile.managed_policies = members.get("managedPolicyArns", profile.managed_policies)
    profile.tip = members.get("tipConfiguration", profile.tip)
    return KIND.document(profile, previous)


def put_mapping(call: Call) -> dict[str, Any]:
    """PutAttributeMapping: replace the rules of one field."""
    profile, name = KIND.find(call), call.members["certificateField"]
    rules = tuple(rule["specifier"] for rule in call.members["mappingRules"])
    if not rules:
        raise invalid("mappingRules is empty")
    if Difference.MAPPINGS_MERGED in call.world.differing:
        rules = tuple(dict.fromkeys((*profile.attribute_mappings.get(name, ()), *rules)))
    return _set_mappings(call, profile, {**profile.attribute_mappings, name: rules})


def delete_mapping(call: Call) -> dict[str, Any]:
    """DeleteAttributeMapping: delete some rules of a field, or all."""
    profile, name = KIND.find(call), call.members["certificateField"]
    unwanted = call.members.get("specifiers") or profile.attribute_mappings.get(name, ())
    kept = tuple(each for each in profile.attribute_mappings.get(name, ()) if each not in unwanted)
    others = {each: rules for each, rules in profile.attribute_mappings.items() if each != name}
    return _set_mappings(call, profile, {**others, name: kept} if kept else others)


def _set_mappings(call: Call, profile: Profile, mappings: Mappings) -> dict[str, Any]:
    try:
        profile.attribute_mappings = parse_mappings(mappings)
    except ConfigError as error:
        raise invalid(f"{error.message}. {error.hint}") from error
    profile.updated_at = call.now
    return KIND.document(profile)


def _check(call: Call) -> None:
    """Check the roles and policies of a request."""
    for role in call.members.get("roleArns", ()):
        if role.split(":")[4] != call.caller.account:
            raise denied("Cross-account pass role is not allowed.", f"{role} is of another account than the caller")
        require(call.world, call.caller, "iam:PassRole", role)
        known = call.world.roles.get(role)
        if known is not None and not known.is_visible(call.now):
            raise not_found("role", role)
    policy = call.members.get("sessionPolicy")
    if policy is not None and not _is_json_object(policy):
        raise invalid("sessionPolicy is not a JSON object")


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
