"""Questions about what CreateProfile and PutAttributeMapping refuse, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hwsigner.trial.questions import Source, choice
from trial_aws.asking import ACCEPTED, Ask, outcome
from trial_aws.calls import CallAnswer
from trial_aws.making_anchors import (
    BY_ITSELF,
    NAMES,
    NOT_CHECKED,
    PLANE,
    SHAPES,
    UNFIT,
    code_of,
    made,
    words_of,
)
from trial_aws.plan import AWSQuestion, AWSRow, needing
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.sources import MAPPING_API, PROFILE_API, QUOTED, QUOTED_VALUES
from trial_aws.wanted import WantedProfile

_PROFILES = "hwsigner/emulator/control/profiles.py"
_INVALID = "ValidationException"
MAPPED = WantedProfile("mapped")


def _profile_of(name: str, read: Callable[[CallAnswer], str], members: Mapping[str, Any]) -> Ask:
    """Return what makes a profile. In its members, <<role:NAME>> and so on stand for what is in the trial."""

    def ask(scene: AWSScene) -> str:
        filled = {"roleArns": [scene.arn("role", "open")]} | {
            key: _filled(scene, each) for key, each in members.items()
        }
        return read(made(scene, f"profile-{name}", "create_profile", **filled))

    return ask


def _filled(scene: AWSScene, value: Any) -> Any:
    if isinstance(value, list):
        return [_filled(scene, each) for each in value]
    return scene.filled(value) if isinstance(value, str) else value


class _Row(NamedTuple):
    """What CreateProfile is asked."""

    name: str
    words: str

    def expects(self, answer: str, source: Source, *rests_on: str, **members: Any) -> AWSQuestion:
        """Return the question."""
        read = words_of if ": " in answer else code_of
        ask, text = _profile_of(self.name, read, members), f"What does CreateProfile say {self.words}?"
        return AWSQuestion(f"control.profile-{self.name}", text, answer, source, (*rests_on, PLANE), ask)


def _long_session_policy(scene: AWSScene) -> str:
    """Return what becomes of a session policy that is longer than STS takes."""
    statement = f'{{"Sid": "{"x" * 2100}", "Effect": "Allow", "Action": "*", "Resource": "*"}}'
    policy = f'{{"Version": "2012-10-17", "Statement": [{statement}]}}'
    roles = [scene.arn("role", "open")]
    call = {"name": scene.named("profile-long-policy"), "roleArns": roles, "enabled": True, "sessionPolicy": policy}
    answer = scene.calls.call("rolesanywhere", "create_profile", **call)
    if answer.code:
        return f"CreateProfile: {answer.code}"
    arns = answer.response["profile"]["profileArn"], roles[0], scene.arn("anchor", "main")
    return f"CreateProfile: {ACCEPTED}; CreateSession: {outcome(scene.send(scene.leaf(), AskedSession(), arns))}"


def _same_profile(scene: AWSScene) -> str:
    return code_of(made(scene, "main", "create_profile", roleArns=[scene.arn("role", "open")]))


def _default_of_profile(scene: AWSScene) -> str:
    answer = made(scene, "profile-default", "create_profile", roleArns=[scene.arn("role", "open")])
    return answer.code or ("enabled" if answer.response["profile"]["enabled"] else "disabled")


_PROFILE_QUESTIONS = (
    _Row("other-account", "to a role of another account").expects(
        "AccessDeniedException: Cross-account pass role is not allowed",
        QUOTED,
        f"{_PROFILES}: _check",
        roleArns=["arn:<<partition>>:iam::111111111111:role/trial"],
    ),
    _Row("missing-role", "to a role that does not exist").expects(
        ACCEPTED, NOT_CHECKED, f"{_PROFILES}: _check", roleArns=["<<role:missing>>"]
    ),
    _Row("user", "to the ARN of a user in place of a role").expects(
        _INVALID,
        PROFILE_API,
        "hwsigner/emulator/control/operations.py: ROLES",
        roleArns=["arn:<<partition>>:iam::<<account>>:user/trial"],
    ),
    _Row("no-roles", "to an empty list of roles").expects(ACCEPTED, PROFILE_API, f"{_PROFILES}: create", roleArns=[]),
    _Row("43201", "to a durationSeconds of 43201").expects(
        f"{UNFIT} '43201' at 'durationSeconds' failed to satisfy constraint: "
        "Member must have value less than or equal to 43200",
        QUOTED_VALUES,
        SHAPES,
        durationSeconds=43201,
    ),
    _Row("43200", "to a durationSeconds of 43200").expects(
        ACCEPTED, PROFILE_API, "hwsigner/emulator/control/operations.py: DURATION", durationSeconds=43200
    ),
    _Row("900", "to a durationSeconds of 900").expects(
        ACCEPTED, PROFILE_API, "hwsigner/emulator/control/operations.py: DURATION", durationSeconds=900
    ),
    _Row("no-policy", "to a session policy that is not JSON").expects(
        _INVALID, choice("a session policy is a policy document"), f"{_PROFILES}: _check", sessionPolicy="trial"
    ),
    _Row("missing-policy", "to a managed policy that does not exist").expects(
        ACCEPTED,
        NOT_CHECKED,
        f"{_PROFILES}: create",
        managedPolicyArns=["arn:<<partition>>:iam::aws:policy/NoSuchPolicyOfATrial"],
    ),
    _Row("51-policies", "to 51 managed policies").expects(
        _INVALID,
        PROFILE_API,
        "hwsigner/emulator/control/operations.py: MANAGED_POLICIES",
        managedPolicyArns=["arn:<<partition>>:iam::aws:policy/ReadOnlyAccess"] * 51,
    ),
    AWSRow("control.profile-long-policy", "What becomes of a session policy of more than 2,048 characters?").expects(
        f"CreateProfile: {ACCEPTED}; CreateSession: session",
        choice("the API reference has no limit, though STS has one; the emulator stores the policy, and nothing more"),
        _long_session_policy,
        f"{_PROFILES}: create",
        "docs/how-to/emulator.md#what-it-does-not-check",
    ),
    AWSRow("control.profile-same-name", "Are two profiles of one name accepted?").expects(
        ACCEPTED, NAMES, _same_profile, f"{_PROFILES}: create", PLANE
    ),
    AWSRow("control.profile-default", "Is a profile enabled if the request does not say so?").expects(
        "disabled", BY_ITSELF, _default_of_profile, f"{_PROFILES}: create", PLANE
    ),
)


def _mapping(name: str, words: str, expected: str, source: Source, field: str, *rules: Sequence[str]) -> AWSQuestion:
    """Return a question about PutAttributeMapping, which is called once for each list of specifiers."""

    def ask(scene: AWSScene) -> str:
        identifier = {"profileId": scene.arn("profile", MAPPED.name).rpartition("/")[2]}
        for specifiers in rules:
            mapping = [{"specifier": each} for each in specifiers]
            call = {**identifier, "certificateField": field, "mappingRules": mapping}
            answer = scene.calls.call("rolesanywhere", "put_attribute_mapping", **call)
            if answer.code:
                return code_of(answer)
        found = answer.response["profile"]["attributeMappings"]
        return ", ".join(
            rule["specifier"] for each in found if each["certificateField"] == field for rule in each["mappingRules"]
        )

    text = f"Which rules has a field after PutAttributeMapping {words}?"
    rests_on = (f"{_PROFILES}: put_mapping", "hwsigner/emulator/tags.py: parse_mappings", PLANE)
    return AWSQuestion(f"control.mapping-{name}", text, expected, source, rests_on, needing(ask, MAPPED))


_UNDOCUMENTED = choice("AWS does not say whether the rules of a field are replaced")
_SPECIFIERS = choice("only what AWS's pages list is a specifier")
_MAPPINGS = (
    _mapping("replaced", "of CN, and then of OU", "OU", _UNDOCUMENTED, "x509Subject", ["CN"], ["OU"]),
    _mapping("several", "of CN and OU", "CN, OU", MAPPING_API, "x509Subject", ["CN", "OU"]),
    _mapping("names", "of Name/CN for the SANs", "Name/CN", MAPPING_API, "x509SAN", ["Name/CN"]),
    _mapping("unknown", "of a specifier that there is not", _INVALID, _SPECIFIERS, "x509Subject", ["Trial"]),
    _mapping("oid", "of an OID", _INVALID, _SPECIFIERS, "x509Subject", ["2.5.4.9"]),
    _mapping("dns", "of DNS for the subject", _INVALID, _SPECIFIERS, "x509Subject", ["DNS"]),
    _mapping("none", "of no rules", _INVALID, choice("DeleteAttributeMapping removes rules"), "x509Issuer", []),
)

QUESTIONS = (*_PROFILE_QUESTIONS, *_MAPPINGS)
