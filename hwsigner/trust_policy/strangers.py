"""Requests that a policy lets in: found by trying certificates, with the values that the policy names and with others.

Allow statements, one for each action, name certificates by a tag if every request that they let in has a value of this
tag that the policy names. A policy is open if some of them do so by no tag: then, for each tag, a certificate with a
strange value gets in.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from hwsigner.trust_policy import naming, request_context
from hwsigner.trust_policy.conditions import ACTIONS, OPERATORS, Condition, Context, of_action, unlisted
from hwsigner.trust_policy.reading import Statement

STRANGER = "qzxjv"  # A value that no condition names.
_STRANGERS = (STRANGER, "7wkfb", "Mu-9", "Hd_4.eu", "6")  # Should a pattern fit some of them.
ANCHOR_KEYS = ("aws:sourcearn", "aws:sourceaccount")
TAG_KEYS = ("aws:principaltag/", "aws:requesttag/")
_TIMES = ("aws:currenttime", "aws:epochtime")
_CN, _IDENTITY, _SESSION = "x509subject/cn", "sts:sourceidentity", "sts:rolesessionname"
_SUBJECT, _TAG_KEYS, _ANCHOR = "aws:originidentity/subject", "aws:tagkeys", "aws:sourcearn"
_OWN_TAGS = ("x509Subject/CN", "x509Subject/O", "x509Issuer/CN", "x509SAN/DNS")
# The same in every request, or missing in each.
_CONSTANT = {"aws:principalisawsservice", "aws:principalservicename"}
_CONSTANT |= {"aws:originidentity/issuer", "aws:originidentity/federatedproviderarn"}
# Names that a CA often gives to all its certificates.
GROUPS = frozenset(
    f"{field}/{name}" for field in ("x509subject", "x509san/name") for name in ("o", "c", "st", "l", "dc")
)
ANYONE, ONE_NAME, GROUP, NO_ONE = "anyone", "one name", "group", "no one"
_MANY_STEPS, _LONG_PATTERN = 10_000, 500
_DEFAULT = re.compile(r"^\$\{[^{}]+, '([^'*?]+)'\}$")  # A variable alone, so that its default is a name.
_FILLERS = (("", "0"), ("qz", "z"), ("7wkfb", "7"))  # For * and ?.

Part = tuple[Statement, str]  # A statement that allows or denies an action.


class TooManyError(Exception):
    """There are too many requests to try."""


class _Constraint(NamedTuple):
    """What a request must do: meet a condition, or, if it is a Deny statement's, not meet all of them."""

    conditions: tuple[Condition, ...]
    action: str  # For keys that AWS does not list for it; an empty string if there are none.
    denies: bool
    unknowns: frozenset[str]

    def holds(self, context: Context) -> bool:
        seen = of_action(context, self.action) if self.action else context
        return all(each.judge(seen).met for each in self.conditions) != self.denies


class _Place(NamedTuple):
    """An unknown, its values if they depend on no other, and the constraints that can be judged once it has one."""

    unknown: str
    values: list[Context] | None
    due: list[_Constraint]


def request_by(
    trust_anchor: str, tags: dict[str, str] | None = None, source_identity: str = f"CN={STRANGER}"
) -> Context:
    """Return a stranger's request by a trust anchor."""
    return request_context(
        trust_anchor=trust_anchor,
        tags=tags or {},
        session_name=STRANGER,
        source_identity=source_identity,
        now=datetime(2026, 1, 1, tzinfo=UTC),
    )


_ANY_REQUEST = request_by("arn:::::")  # Until values are tried.


@dataclass
class Trials:
    """Trials of requests that a policy may let in."""

    statements: Sequence[Statement]
    anchors: Sequence[str]  # The ARNs of trust anchors to try.
    every_key: bool = False  # Whether each action has every key, as in `TrustPolicy.decide`.
    _steps: int = field(default=0, init=False)

    def ways(self) -> Iterator[list[Part]]:
        """Yield the choices of an Allow statement for each action, but only those that no other choice contains."""
        allowing = [
            each
            for each in self.statements
            if each.allows and each.concerns_service and not any(map(_is_compared, each.unread))
        ]
        present = [each for each in ACTIONS if any(each in one.actions for one in allowing)]

        def choose(chosen: list[Part], rest: Sequence[str]) -> Iterator[list[Part]]:
            if not rest:
                yield chosen
                return
            action = rest[0]
            having = [each for each in allowing if action in each.actions]
            # A statement that is met for one action is met for the others.
            same = [each for each, _ in chosen if each in having and not self._differs(each, action)]
            for each in same[:1] or having:
                self.step()
                yield from choose([*chosen, (each, action)], rest[1:])

        return choose([], present)

    def who(self, way: Sequence[Part]) -> str:
        """Return which strangers get in by some statements: ANYONE, those that fit ONE_NAME or a GROUP, or NO_ONE."""
        denying = [each for each in self.statements if not each.allows and each.concerns_service]
        keys = {_unknown(one.key) for each in [*(part[0] for part in way), *denying] for one in each.conditions}
        names = {_CN if each == _IDENTITY else each for each in keys if _is_name(each)}
        if self.lets_in(way, names):
            return ANYONE
        if names and all(self.lets_in(way, {each}) for each in names):
            return ONE_NAME
        return GROUP if names & GROUPS and self.lets_in(way, names - GROUPS) else NO_ONE

    def lets_in(self, way: Sequence[Part], strange: Iterable[str] = ()) -> bool:
        """Return whether some statements let in a request that has strange values for some tags.

        If that would take too long, it is a TooManyError.
        """
        constraints = list(self._constraints(way))
        patterns: dict[str, list[str]] = {}
        for each in (one for constraint in constraints for one in constraint.conditions):
            if OPERATORS[each.parts.base].kind in ("text", "arn"):
                patterns.setdefault(_unknown(each.key), []).extend(each.values)
        for value in patterns.get(_IDENTITY, ()):
            patterns.setdefault(_CN, []).append(value.removeprefix("CN="))
        return _Attempt(self, constraints, patterns, set(strange)).succeeds()

    def step(self) -> None:
        """Count a try. Too many are a TooManyError."""
        self._steps += 1
        if self._steps > _MANY_STEPS:
            raise TooManyError

    def _differs(self, statement: Statement, action: str) -> bool:
        return not self.every_key and any(unlisted(statement.conditions, [action]))

    def _constraints(self, way: Sequence[Part]) -> Iterator[_Constraint]:
        for statement, action in way:
            for each in statement.conditions:
                if not _counts_as_met(each):
                    yield self._constraint((each,), action, denies=False)
        for statement in self.statements:
            if statement.allows or not statement.concerns_service or statement.unread:
                continue
            if not any(map(_may_not_apply, statement.conditions)):
                for action in sorted(statement.actions):
                    yield self._constraint(tuple(statement.conditions), action, denies=True)

    def _constraint(self, conditions: tuple[Condition, ...], action: str, *, denies: bool) -> _Constraint:
        differs = not self.every_key and any(unlisted(conditions, [action]))
        unknowns = {_unknown(key) for each in conditions for key in (each.key, *each.variables)} - _CONSTANT
        return _Constraint(conditions, action if differs else "", denies, frozenset(unknowns))


class _Attempt:
    """Values are given to one unknown after the other: trust anchor, tags, and what the requester chooses."""

    def __init__(
        self, trials: Trials, constraints: Sequence[_Constraint], patterns: dict[str, list[str]], strange: set[str]
    ) -> None:
        self._trials, self._patterns, self._strange = trials, patterns, strange
        self._constraints = list(dict.fromkeys(constraints))
        involved = {unknown for each in self._constraints for unknown in each.unknowns}
        texts = [value for values in patterns.values() for value in values]
        named = [value for value in patterns.get(_TAG_KEYS, ()) if not re.search(r"[*?$]", value)]
        own = (*_OWN_TAGS, *named) if _TAG_KEYS in involved else ()
        self._names = {each.lower(): each for each in own}
        self._names |= {each: each for each in involved if ":" not in each and each not in self._names}
        if _IDENTITY in involved:
            self._names.setdefault(_CN, _CN)
        # Values may contain variables, which must be known before.
        tags = sorted(self._names, key=lambda tag: (not any(f"/{tag}" in text.lower() for text in texts), tag))
        last = [each for each in (_TAG_KEYS, _IDENTITY, *sorted(involved), _SESSION) if ":" in each]
        self._order = list(dict.fromkeys([_ANCHOR, *tags, *(each for each in last if each in involved)]))
        self._solving: dict[str, list[Condition]] = {}  # By the unknowns in their variables.
        for each in (one for constraint in self._constraints for one in constraint.conditions if one.variables):
            for unknown in {_unknown(variable) for variable in each.variables} - {_unknown(each.key)}:
                self._solving.setdefault(unknown, []).append(each)

    def _due(self) -> list[list[_Constraint]]:
        """Return, for each unknown, the constraints that can be judged once it has a value."""
        due: list[list[_Constraint]] = [[] for _ in self._order]
        for each in self._constraints:
            due[max(map(self._order.index, each.unknowns), default=0)].append(each)
        return due

    def succeeds(self) -> bool:
        if self._domain(_ANCHOR) == []:  # No example fits the patterns, so nothing is said of them.
            about = [each for each in self._constraints if each.unknowns == {_ANCHOR}]
            if not any(re.search(r"[*?]", value) for one in about for each in one.conditions for value in each.values):
                return False
            self._constraints = [each for each in self._constraints if each not in about]
        domains = [self._domain(unknown) for unknown in self._order]
        if not all(domain is None or domain for domain in domains):
            return False
        by_unknown = dict(zip(self._order, domains, strict=True))
        if any(each.denies and not self._can_escape(each, by_unknown) for each in self._constraints):
            return False
        return self._place(_ANY_REQUEST, [*map(_Place, self._order, domains, self._due())])

    def _can_escape(self, deny: _Constraint, domains: dict[str, list[Context] | None]) -> bool:
        """Return whether a value may fail a condition of a Deny statement."""
        for condition in deny.conditions:
            alone = deny._replace(conditions=(condition,))
            unknowns = {_unknown(key) for key in (condition.key, *condition.variables)}
            values = domains.get(_unknown(condition.key)) if len(unknowns) == 1 else None
            if values is None or any(alone.holds({**_ANY_REQUEST, **each}) for each in values):
                return True
        return False

    def _domain(self, unknown: str) -> list[Context] | None:
        """Return the values of an unknown that alone contradict nothing, or None if they depend on others."""
        if unknown in (_TAG_KEYS, _IDENTITY) or unknown in self._solving:
            return None
        if any("${" in each for each in self._patterns.get(unknown, ())):
            return None
        alone = [each for each in self._constraints if each.unknowns == {unknown}]
        is_shared = any(unknown in each.unknowns and len(each.unknowns) > 1 for each in self._constraints)
        fitting = (
            each
            for each in self._values(unknown, _ANY_REQUEST)
            if all(one.holds({**_ANY_REQUEST, **each}) for one in alone)
        )
        derived = unknown in (_CN, *self._names) and {_IDENTITY, _TAG_KEYS} & set(self._order)
        return list(fitting if is_shared or derived else itertools.islice(fitting, 1))

    def _place(self, context: Context, places: Sequence[_Place]) -> bool:
        if not places:
            return True
        unknown, domain, due = places[0]
        for values in self._values(unknown, context) if domain is None else domain:
            self._trials.step()
            longer = {**context, **values}
            if all(each.holds(longer) for each in due) and self._place(longer, places[1:]):
                return True
        return False

    def _values(self, unknown: str, context: Context) -> Iterator[Context]:
        if unknown == _ANCHOR:
            for each in self._trials.anchors:
                yield {_ANCHOR: (each,), "aws:sourceaccount": (each.split(":")[4],)}
        elif unknown == _TAG_KEYS:
            yield {_TAG_KEYS: tuple(self._names[tag] for tag in self._names if context.get(f"{TAG_KEYS[0]}{tag}"))}
        elif unknown == _IDENTITY and (name := context.get(f"{TAG_KEYS[0]}{_CN}")):
            yield {_IDENTITY: (f"CN={name[0]}"[:64],)}
        elif unknown == _IDENTITY:
            for text in ("ID=0a1b", *(f"CN={each}" for each in self._strangers(_CN)), *self._texts(unknown, context)):
                yield {_IDENTITY: (text,)}
        else:
            keys = [f"{each}{unknown}" for each in TAG_KEYS] if ":" not in unknown else [unknown]
            if unknown != _SESSION:  # A request always has a session name.
                yield dict.fromkeys(keys, ())
            found = (*self._texts(unknown, context), *self._solutions(unknown, context))
            if found and unknown in self._strange:
                # Nor is the name of a CA that the policy names a strange one.
                sources = [unknown, *(each for each in self._patterns if each.startswith("x509issuer/"))]
                named = [one for each in sources for one in self._patterns.get(each, ()) if not _is_loose(each, one)]
                named += [text for one in self._patterns.get(unknown, ()) for text in _DEFAULT.findall(one)]
                found = tuple(each for each in found if not any(_fits(each, one) for one in named))
            for text in (*self._strangers(unknown), *found):
                yield dict.fromkeys(keys, (text,))

    def _strangers(self, unknown: str) -> list[str]:
        """Return two values of strangers: those that the fewest patterns for an unknown fit."""
        patterns = [each.lower().replace("[", "[[]") for each in self._patterns.get(unknown, ()) if "$" not in each]
        fitting = {text: [each for each in patterns if fnmatch.fnmatchcase(text.lower(), each)] for text in _STRANGERS}
        return sorted(_STRANGERS, key=lambda text: len(fitting[text]))[:2]

    def _used(self, unknown: str) -> list[str]:
        """Return the patterns for an unknown; for a strange one, only those that name no one."""
        is_strange = unknown in self._strange or (unknown == _IDENTITY and _CN in self._strange)
        return [
            each
            for each in dict.fromkeys(self._patterns.get(unknown, ()))
            if not is_strange or _is_loose(unknown, each)
        ]

    def _texts(self, unknown: str, context: Context) -> Iterator[str]:
        """Yield values that the policy has for an unknown."""
        used = self._used(unknown)
        for pattern in used:
            yield from dict.fromkeys(_filled(_expanded(pattern, context), *each) for each in _FILLERS)
        wild = [_filled(_expanded(each, context), *_FILLERS[1]) for each in used if re.search(r"[*?]", each)]
        for one, other in itertools.permutations(wild[:6], 2):  # For patterns that must fit at once.
            yield one + other

    def _solutions(self, unknown: str, context: Context) -> Iterator[str]:
        """Yield values with which a variable fits what it is compared with, such as a trust anchor's UUID."""
        later = self._order[self._order.index(unknown) + 1 :]
        for each in self._solving.get(unknown, ()):
            texts = context.get(each.key.lower(), ())
            if (key := _unknown(each.key)) in later:
                texts = tuple(_filled(one, *_FILLERS[1]) for one in self._used(key) if "$" not in one)
            for text, value in itertools.product(texts, (one for one in each.values if len(one) < _LONG_PATTERN)):
                if found := re.fullmatch(_solving(value, unknown, later, context), text, re.IGNORECASE | re.DOTALL):
                    yield from found.groups()


def is_about(condition_key: str, keys: Sequence[str]) -> bool:
    """Return whether a condition's key is one of some keys. One that ends with a slash stands for all its tags."""
    key = condition_key.lower()
    return key in keys or key[: key.find("/") + 1] in keys


def _counts_as_met(condition: Condition) -> bool:
    """Return whether a requester can wait for it, or it is unknown and not about certificates."""
    key = condition.key.lower()
    return key in _TIMES or (condition.judge({}).met is None and not _is_compared(key))


def _is_compared(key: str) -> bool:
    """Return whether a key is about trust anchors or certificates."""
    return is_about(key, (*ANCHOR_KEYS, *TAG_KEYS, _IDENTITY, _TAG_KEYS, _SUBJECT))


def _may_not_apply(condition: Condition) -> bool:
    return _counts_as_met(condition) or condition.judge({}).met is None


def _unknown(key: str) -> str:
    """Return what a key's value comes from: a tag, such as x509subject/cn, the trust anchor, or the key itself."""
    key = key.lower()
    if is_about(key, TAG_KEYS):
        return key.partition("/")[2]
    return _ANCHOR if key in ANCHOR_KEYS else key


def _is_name(unknown: str) -> bool:
    """Return whether a value tells one certificate of a CA from others."""
    is_tag = ":" not in unknown and not unknown.startswith("x509issuer/")
    return is_tag or unknown in (_IDENTITY, _SUBJECT)


def _is_loose(unknown: str, pattern: str) -> bool:
    """Return whether a value for an unknown names no one."""
    return naming.named_by(unknown, pattern) in (naming.ANYONE, naming.SUFFIX)


def _fits(text: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(text.lower(), naming.without_variables(pattern).lower().replace("[", "[[]"))


def _expanded(pattern: str, context: Context) -> str:
    """Return a pattern with its variables replaced. One that is not known yet becomes a stranger's value."""

    def value(found: re.Match[str]) -> str:
        key, _, default = found[1].partition(", ")
        return next(iter(context.get(key.lower(), ())), default.strip("'") or STRANGER)

    return re.sub(r"\$\{([^{}]{2,})\}", value, pattern)


def _filled(pattern: str, many: str, one: str) -> str:
    return pattern.replace("*", many).replace("?", one)


def _solving(pattern: str, unknown: str, later: Collection[str], context: Context) -> str:
    """Return a regular expression whose groups are the values of an unknown in a pattern's variables.

    The later unknowns have no value yet, so they fit anything. Atomic groups keep its time linear, as in conditions.
    """
    parts, between = [""], []
    for each in re.findall(r"\$\{[^{}]{2,}\}|.", pattern, re.DOTALL):
        variable = _unknown(each[2:-1].partition(", ")[0])
        if each == "*" or variable == unknown or variable in later:
            between.append("(.+" if variable == unknown else "(?:.*")
            parts.append("")
        else:
            parts[-1] += "." if each == "?" else re.escape(_expanded(each, context))
    if not between:
        return parts[0]
    atomic = (f"(?>{one}?){part})" for one, part in zip(between[:-1], parts[1:-1], strict=True))
    return f"{parts[0]}{''.join(atomic)}{between[-1]}){parts[-1]}"
