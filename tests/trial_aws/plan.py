"""Questions to AWS, and what they need in the account."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hwsigner.trial.questions import Question
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

AWSQuestion = Question[AWSScene]
Ask = Callable[[AWSScene], str]


@dataclass(frozen=True)
class Needing:
    """An ask, and what must be in the account for it.

    Attributes:
        ask: asks the question.
        needs: what must be there. The role "open", the profile "main" and the trust anchor "main" come with whatever is
            needed.
    """

    ask: Ask
    needs: tuple[Wanted, ...]

    def __call__(self, scene: AWSScene) -> str:
        """Ask the question."""
        return self.ask(scene)


def needing(ask: Ask, *needs: Wanted) -> Needing:
    """Return an ask with what must be in the account for it. Other asks need what the simplest session does."""
    return Needing(ask, needs)


def needs_of(question: AWSQuestion) -> tuple[Wanted, ...]:
    """Return what must be in the account for a question."""
    return question.ask.needs if isinstance(question.ask, Needing) else (OPEN,)


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


def plan_of(questions: Iterable[AWSQuestion]) -> TrialPlan:
    """Return what the questions need. Of two with the same kind and name, the first one counts."""
    found: dict[tuple[type, str], Any] = {}
    needs = [need for question in questions for need in needs_of(question)]
    # The simplest session needs these. The role "open" is the last one: if it can be used, the others can.
    first, last = ((MAIN_ANCHOR, MAIN_PROFILE), (OPEN,)) if needs else ((), ())
    for each in (*first, *(need for need in needs if need != OPEN), *last):
        found.setdefault((type(each), each.name), each)
    kinds = (WantedAnchor, WantedRole, WantedProfile, WantedCrl)
    return TrialPlan(*([each for (of, _), each in found.items() if of is kind] for kind in kinds))
