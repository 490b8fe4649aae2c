"""Make what the questions need, and delete it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hwsigner._aws.apis import ServiceClients
from hwsigner.errors import HwsignerError, ServiceError, ServiceUnreachableError
from hwsigner.trial.questions import NotAskedError
from trial_aws.calls import CREATED, PATH, PREFIX, TAG, CallAnswer
from trial_aws.plan import TrialPlan
from trial_aws.scene import AWSScene, RefusedInAdvanceError
from trial_aws.wanted import FollowUps, WantedAnchor, WantedCrl, WantedProfile, WantedRole

_OF_TRIALS = re.compile(rf"{PREFIX}[0-9a-f]{{6}}")
_TRIES = 8
_DELETIONS = 3
_FULL = ("LimitExceeded", "LimitExceededException", "ServiceQuotaExceededException")
Say = Callable[[str], None]


class TrialFile:
    """The file that says what a trial makes. It is written first, so that `--clean` finds it after a kill."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.path = folder / f"{prefix}.made.json"
        self.prefix = prefix

    def write(self, account: str, region: str, roles: Sequence[str]) -> None:
        """Write the region, the names of the roles to be, and a mark of the account that does not tell its number.

        Raises:
            HwsignerError: it can't be written.
        """
        made = {"region": region, "mark": self._mark(account), "roles": list(roles)}
        try:
            self.path.write_text(json.dumps(made) + "\n", encoding="utf-8")
        except OSError as error:
            problem = f"{self.path.parent} can't be written to: {error.strerror}"
            raise HwsignerError(problem, "Give --output FOLDER") from error

    def roles(self, account: str, region: str) -> list[str]:
        """Return the names of the roles, if the trial was in this account and region.

        Raises:
            NotAskedError: it was in another one, which the error names.
        """
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            place, roles = (found["mark"], found["region"]), [str(each) for each in found["roles"]]
        except (OSError, ValueError, LookupError, TypeError):
            return []  # A kill has cut it off, so nothing was made.
        if place[0] != self._mark(account):
            raise NotAskedError(f"{self.prefix} was a trial in another account", "Run --clean with its credentials")
        if place[1] != region:
            raise NotAskedError(f"{self.prefix} was a trial in {place[1]}", f"Run --clean --region {place[1]} too")
        return [each for each in roles if each.startswith(self.prefix)]

    def _mark(self, account: str) -> str:
        return sha256(f"{self.prefix} {account}".encode()).hexdigest()[:4]

    @classmethod
    def all_in(cls, folder: Path) -> list[TrialFile]:
        """Return the files that are left of earlier trials."""
        stems = (path.name.removesuffix(".made.json") for path in sorted(folder.glob(f"{PREFIX}*.made.json")))
        return [cls(folder, stem) for stem in stems if _OF_TRIALS.fullmatch(stem)]


def make_all(scene: AWSScene, plan: TrialPlan) -> str:
    """Make what a plan has, and wait until sessions succeed. What the service refuses is noted in the scene.

    Returns:
        An empty string, or why no session of the simplest kind succeeds.

    Raises:
        NotAskedError: the caller may not make it, the service does not answer, or it refuses what every session needs.
    """
    for anchor in plan.anchors:
        _make(scene, "anchor", anchor, _anchor_members(scene, anchor))
        _require(scene, "anchor", "main")
    for role in plan.roles:
        scene.profile_of[role.name] = role.profile
        _noted(scene, "role", role.name, partial(_make_role, scene, role))
    _require(scene, "role", "open")
    if plan.roles:
        scene.settle()
    for profile in plan.profiles:
        _make(scene, "profile", profile, _profile_members(scene, plan, profile))
        _require(scene, "profile", "main")
    for crl in plan.crls:
        _noted(scene, "crl", crl.name, partial(_make_crl, scene, crl))
    return _wait_for_session(scene) if plan.count else ""


class _NoRoomError(NotAskedError):
    """A quota of the account that leaves no room for something."""


class Leftover(NamedTuple):
    """Something of a trial that is in the account."""

    kind: str  # "crl", "profile", "trustAnchor" or "role".
    name: str
    id: str  # Of a role, its name.
    arn: str = ""


def leftovers(clients: ServiceClients) -> list[Leftover]:
    """Return what is in the account of all trials: what has the name of one, and also its tag."""
    found = [(each, match[0]) for each in _listed(clients) if (match := _OF_TRIALS.match(each.name))]
    return [each for each, prefix in found if _tag_of(clients, each) == prefix]


def left_anchors(clients: ServiceClients) -> list[str]:
    """Return the names of the trust anchors that trials have left. They count towards the account's quota."""
    names = (str(each["name"]) for each in clients.rolesanywhere.items("list_trust_anchors", "trustAnchors"))
    return sorted(name for name in names if _OF_TRIALS.match(name))


def left_of(clients: ServiceClients, prefix: str) -> list[Leftover]:
    """Return what is in the account of one trial."""
    return [each for each in _listed(clients) if each.name.startswith(f"{prefix}-")]


def delete_all(clients: ServiceClients, resources: Sequence[Leftover], say: Say) -> HwsignerError | None:
    """Delete resources, CRLs first and roles last, and say which can't be deleted.

    Returns:
        Why one is not deleted; None if all are gone.
    """
    order = ("crl", "profile", "trustAnchor", "role")
    by_id = {(each.kind, each.id): each for each in resources}
    left = sorted(by_id.values(), key=lambda each: order.index(each.kind))
    failure: HwsignerError | None = None
    for number, each in enumerate(left):
        try:
            _delete(clients, each)
        except ServiceUnreachableError as error:
            say(f"not deleted: {', '.join(one.name for one in left[number:])}: {error.message}")
            return error
        except HwsignerError as error:
            failure = error
            say(f"{each.name} was not deleted: {error.message}")
    return failure


def _delete(clients: ServiceClients, resource: Leftover) -> None:
    if resource.kind == "role":
        clients.iam.find("delete_role", RoleName=resource.id)
    else:
        kind = "trust_anchor" if resource.kind == "trustAnchor" else resource.kind
        clients.rolesanywhere.find(f"delete_{kind}", **{f"{resource.kind}Id": resource.id})


def delete_trial(scene: AWSScene, say: Say) -> HwsignerError | None:
    """Delete what a trial made. An interrupted request may have made something too, so look for more.

    Returns:
        Why something is left; None if all is gone.
    """
    left = made_by(scene)
    for _ in range(_DELETIONS):
        if failure := delete_all(scene.clients, left, say):
            return failure
        left = left_of(scene.clients, scene.prefix)
        if not left:
            return None
        scene.settle()
    say(problem := f"AWS still lists {', '.join(each.name for each in left)}")
    return ServiceError(problem)


def made_by(scene: AWSScene) -> list[Leftover]:
    """Return what a trial made, or was about to make."""
    return [Leftover(kind, name, identifier) for (kind, identifier), name in scene.calls.made.items()]


def _listed(clients: ServiceClients) -> Iterator[Leftover]:
    for kind, operation in (("crl", "list_crls"), ("profile", "list_profiles"), ("trustAnchor", "list_trust_anchors")):
        for each in clients.rolesanywhere.items(operation, f"{kind}s"):
            yield Leftover(kind, each["name"], each[f"{kind}Id"], each[f"{kind}Arn"])
    for each in clients.iam.items("list_roles", "Roles", PathPrefix=PATH):
        yield Leftover("role", each["RoleName"], each["RoleName"], each["Arn"])


def _tag_of(clients: ServiceClients, resource: Leftover) -> str:
    if resource.kind == "role":
        tags = (clients.iam.find("list_role_tags", RoleName=resource.id) or {}).get("Tags", [])
        return next((str(tag["Value"]) for tag in tags if tag["Key"] == TAG), "")
    tags = (clients.rolesanywhere.find("list_tags_for_resource", resourceArn=resource.arn) or {}).get("tags", [])
    return next((str(tag["value"]) for tag in tags if tag["key"] == TAG), "")


def source_of(bundle: Sequence[x509.Certificate] | str) -> dict[str, Any]:
    """Return the source of a trust anchor with some certificates, or with what is to be in their place."""
    parts = [bundle] if isinstance(bundle, str) else [each.public_bytes(Encoding.PEM).decode() for each in bundle]
    return {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": "".join(parts)}}


def _anchor_members(scene: AWSScene, anchor: WantedAnchor) -> Mapping[str, Any]:
    return {"source": source_of(anchor.certificates(scene.ca)), "enabled": True}


def _profile_members(scene: AWSScene, plan: TrialPlan, profile: WantedProfile) -> Mapping[str, Any]:
    roles = [scene.arns["role", name] for name in plan.roles_of(profile) if ("role", name) in scene.arns]
    return {"roleArns": roles, "enabled": True, **json.loads(scene.filled(profile.members))}


def _make(scene: AWSScene, kind: str, wanted: WantedAnchor | WantedProfile, members: Mapping[str, Any]) -> None:
    operation = {"anchor": "create_trust_anchor", "profile": "create_profile"}[kind]
    _noted(scene, kind, wanted.name, lambda: _make_one(scene, operation, wanted.name, members, wanted.then))


def _make_one(scene: AWSScene, operation: str, name: str, members: Mapping[str, Any], then: FollowUps = ()) -> str:
    for _ in range(_TRIES):
        answer = scene.calls.call("rolesanywhere", operation, name=scene.named(name), **members)
        if answer.code != "ResourceNotFoundException":
            break
        scene.settle()  # A profile's role may not be visible yet.
    _check(operation, answer)
    member = CREATED[operation]
    detail = answer.response[member]
    for follow_up, more in then:
        identifier = {f"{member}Id": detail[f"{member}Id"]}
        _check(follow_up, scene.calls.call("rolesanywhere", follow_up, **identifier, **more))
    return str(detail[f"{member}Arn"])


def _make_role(scene: AWSScene, role: WantedRole) -> str:
    for _ in range(_TRIES):
        answer = scene.new_role(role.name, role.policy, MaxSessionDuration=role.duration)
        if "Invalid principal" not in answer.message or "<<role:" not in str(role.policy):
            break
        scene.settle()  # IAM may not know the role yet that this one trusts.
    if answer.code != "EntityAlreadyExists":  # It was made, but the response got lost.
        _check("create_role", answer)
    return scene.filled(f"<<role:{role.name}>>")


def _make_crl(scene: AWSScene, crl: WantedCrl) -> str:
    anchor = scene.arn("anchor", crl.anchor)
    members = {"crlData": crl.data(scene.ca), "trustAnchorArn": anchor, "enabled": True}
    return _make_one(scene, "import_crl", crl.name, members)


def _check(operation: str, answer: CallAnswer) -> None:
    if answer.code in _FULL or "quota" in answer.message:  # The control plane has no code of its own for it.
        raise _NoRoomError(f"{operation} was refused: {answer}", "Make room in the account, or ask for a higher quota")
    if answer.code:
        raise RefusedInAdvanceError(f"{operation} was refused: {answer}")


def _noted(scene: AWSScene, kind: str, name: str, make: Callable[[], str]) -> None:
    """Make something, and note its ARN or why there is none. Missing permissions end the trial."""
    try:
        scene.arns[kind, name] = make()
    except (RefusedInAdvanceError, _NoRoomError) as error:
        scene.refused[kind, name] = error


def _require(scene: AWSScene, kind: str, name: str) -> None:
    """End the trial if the service has refused something, instead of asking hundreds of questions without it."""
    if error := scene.refused.get((kind, name)):
        hint = error.hint or "Without it no session can be asked for"
        raise NotAskedError(f"the {kind} of the simplest session can't be made: {error.message}", hint) from error


def _wait_for_session(scene: AWSScene) -> str:
    """Wait until IAM has spread the roles. The role "open" is the last one that was made."""
    leaf = scene.leaf()
    for _ in range(_TRIES):
        try:
            answer = scene.session(leaf)
        except RefusedInAdvanceError as error:
            return error.message
        scene.settle()  # The other roles may take a little longer.
        if answer.ok:
            return ""
    return str(answer)
