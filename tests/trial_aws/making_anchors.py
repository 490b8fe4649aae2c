"""What asks the control plane and IAM what they refuse, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography import x509

from hwsigner.trial.questions import NotAskedError
from hwsigner.trust_policy.writing import SIZE_LIMIT
from trial_aws.asking import ACCEPTED, Ask
from trial_aws.authority import TrialCA
from trial_aws.calls import CREATED, CallAnswer
from trial_aws.making import source_of
from trial_aws.plan import needing
from trial_aws.scene import AWSScene
from trial_aws.wanted import WantedProfile, statement, trusting

_BEYOND_THE_MODEL = "The emulator "
_MAPPED = WantedProfile("mapped")

Bundle = Callable[[TrialCA], Sequence[x509.Certificate]]


def code_of(answer: CallAnswer) -> str:
    """Return "accepted" or the code of a refusal.

    Raises:
        NotAskedError: the emulator says that it can't do it.
    """
    if answer.message.startswith(_BEYOND_THE_MODEL):
        raise NotAskedError("the emulator can't do this, and says so")
    return answer.code or ACCEPTED


def _words_of(answer: CallAnswer) -> str:
    """Return "accepted", or the refusal with its words. A full stop at the end does not count."""
    return str(answer).rstrip(".")


def made(scene: AWSScene, name: str, operation: str, **members: Any) -> CallAnswer:
    """Create a trust anchor or a profile, and delete it at once."""
    answer = scene.calls.call("rolesanywhere", operation, name=scene.named(name), **members)
    if not answer.code:
        member = f"{CREATED[operation]}Id"
        identifier = {member: answer.response[CREATED[operation]][member]}
        scene.calls.call("rolesanywhere", operation.replace("create", "delete"), **identifier)
    return answer


def _anchor(bundle: Bundle | str, read: Callable[[CallAnswer], str] = code_of) -> Ask:
    """Return what makes a trust anchor."""

    def ask(scene: AWSScene) -> str:
        source = source_of(bundle if isinstance(bundle, str) else bundle(scene.ca))
        return read(made(scene, "anchor-of-a-moment", "create_trust_anchor", source=source))

    return ask


def _cross_account(scene: AWSScene) -> str:
    """Make a profile with a role of another account."""
    role = scene.filled("arn:<<partition>>:iam::111111111111:role/trial")
    return _words_of(made(scene, "profile-of-a-moment", "create_profile", roleArns=[role]))


def _three(ca: TrialCA) -> Sequence[x509.Certificate]:
    return [ca.issuer(f"of three {number}").certificate for number in range(3)]


def _put_twice(scene: AWSScene) -> str:
    """Return the rules of a field that was given CN, and then OU."""
    profile = {"profileId": scene.arn("profile", _MAPPED.name).rpartition("/")[2]}
    for specifier in ("CN", "OU"):
        call = {**profile, "certificateField": "x509Subject", "mappingRules": [{"specifier": specifier}]}
        answer = scene.calls.call("rolesanywhere", "put_attribute_mapping", **call)
        if answer.code:
            return code_of(answer)
    found = answer.response["profile"]["attributeMappings"]
    rules = (each["mappingRules"] for each in found if each["certificateField"] == "x509Subject")
    return ", ".join(rule["specifier"] for each in rules for rule in each)


def _role(name: str, policy: Mapping[str, Any] | str) -> Ask:
    """Return what makes a role. A full stop at the end of its refusal does not count."""
    return needing(lambda scene: str(scene.new_role(f"iam-{name}", policy)).rstrip("."))


def _of_length(length: int, spaces: int = 0) -> Ask:
    """Return what makes a role with a trust policy of so many characters, and spaces that should not count."""

    def ask(scene: AWSScene) -> str:
        policy = scene.filled(trusting(statement({"StringEquals": {"aws:PrincipalTag/x509Subject/CN": "x"}})))
        missing = length - len("".join(policy.split()))
        longer = policy.replace('"x"', f'"{"x" * (missing + 1)}"') + " " * spaces
        return str(scene.new_role(f"iam-{length}-{spaces}", longer)).rstrip(".")

    return needing(ask)


ASKS: dict[str, Ask] = {
    "control.anchor-leaf": _anchor(lambda ca: [ca.leaf().certificate], _words_of),
    "control.anchor-no-pem": _anchor("trial", _words_of),
    "control.anchor-intermediate": _anchor(lambda ca: [ca.intermediate.certificate]),
    "control.anchor-three": _anchor(_three),
    "control.profile-other-account": _cross_account,
    "control.mapping-replaced": needing(_put_twice, _MAPPED),
    "roles.principal-star": _role("principal-star", trusting(statement(Principal="*"))),
    "roles.lower-case-operator": _role(
        "lower-case-operator", trusting(statement({"stringequals": {"aws:PrincipalTag/x509Subject/CN": "leaf"}}))
    ),
    "roles.2048-and-spaces": _of_length(SIZE_LIMIT, 500),
    "roles.2049": _of_length(SIZE_LIMIT + 1),
}
