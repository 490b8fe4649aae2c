"""Findings of `hwsigner doctor`, `aws check` and the review of a trust policy: why each matters, and how to fix it.

The tables are `local`, `account` and `policies`. Rules name a mistake by its constant, so mypy knows each. The ids are
stable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hwsigner.errors import HwsignerError, HwsignerWarning

# What a mistake does: lets in more than it names, keeps out what it should let in, or can't be judged.
LEVELS = OPEN, WRONG, UNCLEAR = "open", "wrong", "unclear"


@dataclass(frozen=True)
class Mistake:
    """What can be found.

    Attributes:
        id: its name, such as `certificate-expired`. It is stable.
        why: why it matters, one or two sentences.
        fix: what to do, with the command if there is one.
        level: "open" if it lets in more than it should, "unclear" if hwsigner can't tell. Otherwise "wrong": it keeps a
            session from being created, or a service refuses it.
    """

    id: str
    why: str
    fix: str
    level: str = WRONG

    def found(self, what: str, fix: str = "") -> Finding:
        """Return a finding.

        Args:
            what: what was found.
            fix: what to do, if that of the table can be made more exact.
        """
        return Finding(self, what, fix or self.fix)

    def found_by(self, error: HwsignerError | HwsignerWarning) -> Finding:
        """Return a finding with the message and the hint of an error."""
        return self.found(error.message, error.hint)


@dataclass(frozen=True)
class Finding:
    """One mistake that was found.

    Attributes:
        mistake: which one.
        found: what was found. In a trust policy, it begins with the statement: "statement 2 (OnlyDevops) has …".
        fix: what to do.
        profile: the profile of config.toml that it is about; empty if it is about no single one.
    """

    mistake: Mistake
    found: str
    fix: str
    profile: str = ""

    @property
    def id(self) -> str:
        """The mistake's id."""
        return self.mistake.id

    @property
    def level(self) -> str:
        """The mistake's level."""
        return self.mistake.level

    @property
    def why(self) -> str:
        """Why it matters."""
        return self.mistake.why

    def about(self, profile: str) -> Finding:
        """Return the finding for a profile, whose name replaces NAME in the commands."""
        return replace(self, profile=profile, fix=self.fix.replace(" NAME", f" {profile}"))
