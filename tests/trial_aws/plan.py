"""Questions to AWS, and what they need in the account."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hwsigner.trial.questions import Question, Source
from trial_aws.scene import AWSScene
from trial_aws.wanted import (
    MAIN_ANCHOR,
    MAIN_PROFILE,
    OPEN,
    Wanted,
    WantedAnchor,
    WantedCrl,
    WantedProfile,
    WantedRole,
)


@dataclass(frozen=True)
class AWSQuestion(Question[AWSScene]):
    """A question to AWS.

    Attributes:
        needs: what must be in the account. The role "open", the profile "main" and the trust anchor "main" come with
            whatever is needed.
        is_of_private_ca: whether it needs an AWS Private CA, which the user gives.
    """

    needs: tuple[Wanted, ...] = (OPEN,)
    is_of_private_ca: bool = False


class AWSRow(NamedTuple):
    """A question to AWS without its answer.

    Attributes:
        id: its name.
        text: the question.
        rests_on: what rests on each answer of the table, beside what rests on this one.
        needs: what must be in the account.
    """

    id: str
    text: str
    rests_on: tuple[str, ...] = ()
    needs: tuple[Wanted, ...] = (OPEN,)

    def expects(self, answer: str, source: Source, ask: Callable[[AWSScene], str], *rests_on: str) -> AWSQuestion:
        """Return the question."""
        return AWSQuestion(self.id, self.text, answer, source, (*rests_on, *self.rests_on), ask, self.needs)


@dataclass(frozen=True)
class TrialPlan:
    """What is to be made, in this order."""

    anchors: Sequence[WantedAnchor]
    roles: Sequence[WantedRole]
    profiles: Sequence[WantedProfile]
    crls: Sequence[WantedCrl]

    @property
    def count(self) -> int:
        """How many resources there will be."""
        return sum(map(len, (self.anchors, self.roles, self.profiles, self.crls)))

    def roles_of(self, profile: WantedProfile) -> list[str]:
        """Return the names of the roles that a profile lists."""
        return list(
            dict.fromkeys((*(each.name for each in self.roles if each.profile == profile.name), *profile.roles))
        )


def plan_of(questions: Iterable[AWSQuestion], *, private_ca: bool = False) -> TrialPlan:
    """Return what the questions need. Of two with the same kind and name, the first one counts.

    Args:
        questions: the questions.
        private_ca: whether there is a private CA.
    """
    found: dict[tuple[type, str], Any] = {}
    asked = [each for each in questions if private_ca or not each.is_of_private_ca]
    needs = [need for question in asked for need in question.needs]
    # The role "open" is the last one: if it can be used, the others can.
    last = (MAIN_ANCHOR, MAIN_PROFILE, OPEN) if needs else ()
    for each in (*(need for need in needs if need != OPEN), *last):
        found.setdefault((type(each), each.name), each)
    kinds = (WantedAnchor, WantedRole, WantedProfile, WantedCrl)
    return TrialPlan(*([each for (of, _), each in found.items() if of is kind] for kind in kinds))
