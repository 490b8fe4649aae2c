"""Questions that trust policies answer: a role's statement lets a certificate in only if something is so.

Several questions share a role. Each has a certificate of its own, and each statement requires the tag of one of these
certificates, so that no question is answered by the statement of another one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography import x509

from hwsigner.trust_policy.writing import SIZE_LIMIT
from trial_aws.authority import CertificateShape, Names, name_of
from trial_aws.plan import Ask, needing
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession, SessionAnswer
from trial_aws.wanted import ACTIONS, Wanted, WantedProfile, WantedRole, statement, trusting

TAG_KEY = "aws:PrincipalTag/"
REFUSED = "refused"
LET_IN = "let in"
_UNABLE = "Unable to assume role for (arn)"
# What stands for a place in a policy is no longer than an ARN of a trust anchor.
_LONGEST_PLACE = "a" * 110
_SPARE = WantedRole("spare")

Condition = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Reading:
    """What may be so.

    Attributes:
        answer: it, in words.
        condition: the condition of sts:AssumeRole that is met only then. The two other actions have none.
        statements: instead, the statements of a policy that lets the certificate in only then.
    """

    answer: str
    condition: Condition = field(default_factory=dict)
    statements: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Probe:
    """What tells the readings of a question apart.

    Attributes:
        readings: asked in order. The first that lets the certificate in is the answer.
        names: the names of the certificate's subject, apart from the one that the statements know it by.
        san: the certificate's subject alternative names.
        known_by: the name that the statements know the certificate by: "CN", or "O" if the question is about the CN.
        otherwise: the answer if no reading lets the certificate in.
        profile: the Roles Anywhere profile; empty for one with the default mappings.
        session_name: the session name to ask for; None for none.
        label: the value by which the statements know the certificate. A table sets it.
    """

    readings: tuple[Reading, ...]
    names: Names | x509.Name = ()
    san: Sequence[x509.GeneralName] = ()
    known_by: str = "CN"
    otherwise: str = REFUSED
    profile: str = ""
    session_name: str | None = None
    label: str = ""

    @property
    def subject(self) -> x509.Name:
        """The subject of the certificate."""
        rest = name_of(self.names)
        return x509.Name([*name_of([(self.known_by, self.label)]).rdns, *rest.rdns])

    def statements(self, reading: Reading) -> list[Mapping[str, Any]]:
        """Return the statements of a reading, for this probe's certificate only."""
        found = reading.statements or (statement(reading.condition, ACTIONS[:1]),)
        return [{**each, "Condition": self._of_this(each.get("Condition", {}))} for each in found]

    def _of_this(self, condition: Condition) -> Condition:
        own = {f"{TAG_KEY}x509Subject/{self.known_by}": self.label}
        return {**condition, "StringEquals": {**own, **condition.get("StringEquals", {})}}


def equals(tag: str, value: str) -> Condition:
    """Return the condition that a session tag has a value."""
    return {"StringEquals": {TAG_KEY + tag: value}}


def lacks(tag: str) -> Condition:
    """Return the condition that there is no session tag of this name."""
    return {"Null": {TAG_KEY + tag: "true"}}


def put_mapping(field: str, *specifiers: str) -> tuple[str, Mapping[str, Any]]:
    """Return the operation on a profile that replaces the attribute mappings of a field."""
    rules = [{"specifier": each} for each in specifiers]
    return "put_attribute_mapping", {"certificateField": field, "mappingRules": rules}


class ProbeTable:
    """Probes and the roles that they share.

    One more role serves for the readings that are not expected, and for the probes of a role that IAM refuses: one of
    its statements may be the reason.

    Args:
        area: what the IDs of the questions and the names of the roles begin with.
        probes: the probes, by the rest of the questions' IDs.
        profiles: the profiles that they name. They will list the roles.

    Attributes:
        asks: what asks the questions, by ID.
    """

    def __init__(self, area: str, probes: Mapping[str, Probe], profiles: Sequence[WantedProfile] = ()) -> None:
        labelled = {name: replace(probe, label=f"{area}-{name}") for name, probe in probes.items()}
        self._roles: dict[str, WantedRole] = {}
        for is_whole in (False, True):
            self._add_roles(area, [each for each in labelled.values() if bool(each.readings[0].statements) == is_whole])
        names = dict.fromkeys(each.name for each in (*self._roles.values(), _SPARE))
        self._profiles = {each.name: replace(each, roles=(*each.roles, *names)) for each in profiles}
        self.asks: dict[str, Ask] = {f"{area}.{name}": self._ask(probe) for name, probe in labelled.items()}

    def _add_roles(self, area: str, probes: Sequence[Probe]) -> None:
        """Add roles with the statements of the first readings, as many to a role as fit."""
        groups: list[list[Probe]] = []
        for probe in probes:
            if not groups or _length(_policy(*groups[-1], probe)) > SIZE_LIMIT:
                groups.append([])
            groups[-1].append(probe)
        for group in groups:
            numbered = f"{area}-{len({each.name for each in self._roles.values()}) + 1}"
            self._roles |= {each.label: WantedRole(numbered, _policy(*group)) for each in group}

    def _ask(self, probe: Probe) -> Ask:
        role = self._roles[probe.label]

        def ask(scene: AWSScene) -> str:
            leaf = scene.leaf(CertificateShape(probe.subject, probe.san))
            for number, reading in enumerate(probe.readings):
                used = _SPARE if number or ("role", role.name) in scene.refused else role
                scene.arn("role", used.name)
                if used is _SPARE and (code := scene.change_policy(used.name, _policy(probe, rank=number)).code):
                    return f"IAM refuses the policy: {code}"
                asked = AskedSession(used.name, probe.profile, session_name=probe.session_name)
                answer = in_words(scene.session(leaf, asked))
                if answer == LET_IN:
                    return reading.answer
                if answer != REFUSED:
                    return answer
            return probe.otherwise

        needs: tuple[Wanted, ...] = (role, _SPARE, *([self._profiles[probe.profile]] if probe.profile else []))
        return needing(ask, *needs)


def _policy(*probes: Probe, rank: int = 0) -> Mapping[str, Any]:
    """Return the policy with a reading of each probe: all have statements, or all have conditions."""
    by_anchor = statement({"ArnEquals": {"aws:SourceArn": "<<anchor:main>>"}}, ACTIONS[1:])
    base = [] if probes[0].readings[rank].statements else [by_anchor]
    return trusting(*base, *(found for each in probes for found in each.statements(each.readings[rank])))


def _length(policy: Mapping[str, Any]) -> int:
    text = json.dumps(policy, separators=(",", ":"))
    return len(re.sub("<<.*?>>", _LONGEST_PLACE, text))


def in_words(answer: SessionAnswer) -> str:
    """Return LET_IN, REFUSED if the trust policy does not let the session in, or the refusal in the service's words."""
    if answer.ok:
        return LET_IN
    more = answer.message.removeprefix(_UNABLE)
    if answer.kind != "AccessDeniedException" or more == answer.message:
        return str(answer)
    return f"{REFUSED}: {more.lstrip('. ')}".rstrip(": .")
