"""The review of policies whose answer is known, because of how they are made: open, closed or shut.

The evaluator is the witness: a stranger gets into an open policy, only the named machine into a closed one, and nobody
into a shut one.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from hwsigner.trust_policy import ACTIONS, Context, TrustPolicy, request_context
from hwsigner.trust_policy.review import review

NOW = datetime(2026, 1, 31, tzinfo=UTC)
SERVICE = {"Service": "rolesanywhere.amazonaws.com"}
ANCHOR, OTHER_ANCHOR = (
    f"arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9{end}"
    for end in ("aa", "bb")
)
NAMES = ("x509Subject/CN", "x509Subject/OU", "x509Subject/O", "x509Subject/L", "x509SAN/DNS", "x509SAN/URI")
ISSUER = {"x509Issuer/CN": "Example CA", "x509Issuer/O": "Example"}
STRANGE = {name: f"other-{number}" for number, name in enumerate(NAMES)}
Condition = dict[str, dict[str, Any]]


def tag(name: str) -> str:
    return f"aws:PrincipalTag/{name}"


def request(tags: dict[str, str], anchor: str = ANCHOR, session_name: str = "1f") -> Context:
    cn = tags.get("x509Subject/CN")
    return request_context(
        trust_anchor=anchor,
        tags=tags,
        session_name=session_name,
        source_identity=f"CN={cn}" if cn else "ID=1f",
        now=NOW,
    )


class Maker:
    """Makes policies that let in the machine with these tags, by any of many ways to write them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine = {**ISSUER, **{name: f"web-{self.random.randrange(10, 99)}" for name in NAMES}}
        self.machine["x509SAN/DNS"] += ".example.com"
        self.machine["x509SAN/URI"] = f"spiffe://example.com/{self.machine['x509SAN/URI']}"

    def statement(self, *conditions: Condition, effect: str = "Allow", actions: Any = None) -> dict[str, Any]:
        made: Condition = {}
        for operator, keys in (item for each in conditions for item in each.items()):
            for key, value in keys.items():
                spelt = self.random.choice([key, key, key.lower()])
                if spelt.lower() in {each.lower() for each in made.get(operator, ())}:
                    continue
                made.setdefault(operator, {})[spelt] = value
        action = actions or self.random.choice([list(ACTIONS), "sts:*", [*reversed(ACTIONS)]])
        return {"Effect": effect, "Principal": SERVICE, "Action": action, **({"Condition": made} if made else {})}

    def pinned(self) -> Condition:
        operator = self.random.choice(["ArnEquals", "ArnLike", "StringEquals", "StringLike"])
        value = self.random.choice([ANCHOR, [ANCHOR], [OTHER_ANCHOR, ANCHOR]])
        return {operator: {"aws:SourceArn": value}}

    def named(self, *names: str) -> Condition:
        """Return a condition that the machine meets by its value of one name, and no stranger does."""
        name = self.random.choice(names or NAMES)
        value = self.machine[name]
        operator, wanted = self.random.choice(
            [
                ("StringEquals", value),
                ("StringEquals", [value, "web-1"]),
                ("StringLike", re.sub(r"\d+", "*", value)),
                ("StringLike", [re.sub(r"\d(?!\d)", "?", value), re.sub(r"web-\d+", "db-*", value)]),
                ("StringEqualsIgnoreCase", value.upper()),
                ("ForAnyValue:StringEquals", value),
            ]
        )
        return {operator: {tag(name): wanted}}

    def harmless(self) -> list[Condition]:
        """Return conditions that the machine meets, beside one that names it."""
        name = self.random.choice(NAMES)
        return self.random.sample(
            [
                {"Null": {tag(name): "false"}},
                {"StringNotEquals": {tag(name): "evil"}},
                {"StringNotLike": {tag(name): ["evil-*", "*-test"]}},
                {"StringLike": {tag("x509Issuer/O"): "*"}},
                {"StringEquals": {tag("x509Issuer/CN"): "Example CA"}},
                {"StringEquals": {"aws:SourceAccount": "123456789012"}},
                {"DateLessThan": {"aws:CurrentTime": "2030-01-01"}},
                {"Bool": {"aws:PrincipalIsAWSService": "true"}},
                {"StringEquals": {"aws:PrincipalServiceName": SERVICE["Service"]}},
            ],
            self.random.randrange(3),
        )

    def denies(self) -> list[dict[str, Any]]:
        """Return Deny statements that the machine escapes."""
        conditions: list[Condition] = [
            {"StringEquals": {tag(self.random.choice(NAMES)): "evil"}},
            {"ArnNotEquals": {"aws:SourceArn": [ANCHOR, OTHER_ANCHOR]}},
            {"StringNotEquals": {"aws:SourceAccount": "123456789012"}},
            {"StringLike": {tag("x509Subject/CN"): "evil*", tag("x509Subject/OU"): "evil*"}},
        ]
        chosen = self.random.sample(conditions, self.random.randrange(3))
        return [self.statement(each, effect="Deny") for each in chosen]

    def closed(self) -> list[dict[str, Any]]:
        """Return the statements of a policy that names its trust anchor and its machines."""
        full = [self.pinned(), self.named(), *self.harmless()]
        first, *others = ACTIONS
        ways: list[Callable[[], list[dict[str, Any]]]] = [
            lambda: [self.statement(*full)],
            lambda: [self.statement(*full, actions=first), self.statement(self.pinned(), actions=others)],
            lambda: [self.statement(*full, actions=others), self.statement(self.pinned(), actions=first)],
            lambda: [self.statement(*full), self.statement(self.pinned(), self.named(), *self.harmless())],
            lambda: [
                self.statement(self.pinned()),
                *(
                    self.statement({"StringNotEquals": {tag(name): self.machine[name]}}, effect="Deny")
                    for name in self.random.sample(NAMES, self.random.randrange(1, 4))
                ),
            ],
            lambda: [
                self.statement(
                    self.pinned(),
                    {"StringEquals": {"sts:SourceIdentity": f"CN={self.machine['x509Subject/CN']}"}},
                    actions=[first, others[1]],
                ),
                self.statement(self.pinned(), actions=others[0]),
            ],
        ]
        return [*self.random.choice(ways)(), *self.denies()]

    def opening(self) -> list[dict[str, Any]]:
        """Return statements that let strangers in."""
        one, other = self.random.sample(NAMES, 2)
        variable = f"${{{tag(other)}}}"
        loose: list[Condition] = [
            {},
            {"StringLike": {tag(one): self.random.choice(["*", "?*", "??????*", "*-*", ["db-*", "*"]])}},
            {"StringNotEquals": {tag(one): self.random.choice(["evil", ["evil", "bad"]])}},
            {"StringNotLike": {tag(one): "q*"}},
            {"StringEqualsIfExists": {tag(one): self.machine[one]}},
            {"ForAllValues:StringEquals": {tag(one): self.machine[one]}},
            {"Null": {tag(one): "false"}},
            {"StringEquals": {tag("x509Issuer/CN"): "Example CA"}},
            {"StringEquals": dict(zip(map(tag, ISSUER), ISSUER.values(), strict=True))},
            {"StringEquals": {tag(one): variable}},
            {"StringLike": {tag(one): self.random.choice([f"{variable}*", f"*{variable}"])}},
            {
                "StringNotEquals": {tag(name): "evil" for name in NAMES},
                "Null": {tag(one): "false", tag(other): "false"},
            },
            {"StringLike": {tag(one): ["*", "$(aws:x}"]}},
        ]
        anchors: list[Condition] = [
            {},
            {"StringEquals": {"aws:SourceAccount": "123456789012"}},
            {"ArnLike": {"aws:SourceArn": "arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/*"}},
            {"ArnLike": {"aws:SourceArn": self.random.choice(["*", ["arn:aws:rolesanywhere:*:*:*", "*"]])}},
            {"ArnNotEquals": {"aws:SourceArn": "arn:aws:rolesanywhere:eu-west-1:1:trust-anchor/x"}},
            {"StringEquals": {"aws:SourceArn": variable}},
            {"ArnLike": {"aws:SourceArn": f"arn:aws:rolesanywhere:*:*:trust-anchor/{variable}"}},
        ]
        both = {"StringNotEquals": {tag(one): self.machine[one], tag(other): self.machine[other]}}
        first, *others = ACTIONS
        brings = [{"Null": {"aws:TagKeys": "false"}}, {"ForAnyValue:StringNotEquals": {"aws:TagKeys": tag(one)[17:]}}]
        return self.random.choice(
            [
                [self.statement(self.pinned(), self.random.choice(loose))],
                [self.statement(self.pinned(), self.random.choice(loose), *self.harmless())],
                # With the name that a variable takes, nobody could get in: it is not a part of a trust anchor's ARN.
                [self.statement(self.named(*(each for each in NAMES if each != other)), self.random.choice(anchors))],
                [self.statement(self.pinned()), self.statement(both, effect="Deny")],
                [
                    self.statement(self.pinned(), self.random.choice(brings), actions=first),
                    self.statement(self.pinned(), actions=others),
                ],
            ]
        )

    def open(self) -> list[dict[str, Any]]:
        opening = self.opening()
        if all(each["Effect"] == "Allow" for each in opening) and self.random.random() < 0.5:
            opening = [*opening, *self.closed_allows()]
        self.random.shuffle(opening)
        return opening

    def closed_allows(self) -> list[dict[str, Any]]:
        return [self.statement(self.pinned(), self.named(), *self.harmless())]

    def shut(self) -> list[dict[str, Any]]:
        """Return the statements of a policy that lets nobody in."""
        one = self.random.choice(NAMES)
        wanted: Condition = {"StringEquals": {tag(one): self.machine[one]}}
        first, *others = ACTIONS
        chosen = self.random.sample(ACTIONS, self.random.randrange(1, 3))
        rest = [each for each in ACTIONS if each not in chosen]
        harmless = [each for each in self.harmless() if "Null" not in each]
        full = [{"ArnEquals": {"aws:SourceArn": ANCHOR}}, wanted, *harmless]
        return self.random.choice(
            [
                [self.statement(*full, actions=chosen)],
                [
                    self.statement(*full, actions=chosen),
                    self.statement(full[0], {"StringEquals": {tag(one): "another"}}, actions=rest),
                ],
                [
                    self.statement(*full, actions=chosen),
                    self.statement({"ArnEquals": {"aws:SourceArn": OTHER_ANCHOR}}, wanted, actions=rest),
                ],
                [self.statement(*full), self.statement(wanted, effect="Deny", actions=chosen)],
                [self.statement(*full), self.statement(effect="Deny", actions=chosen)],
                [self.statement(*full), self.statement({"Null": {tag(one): "false"}}, effect="Deny")],
                [self.statement(*full), self.statement({"StringNotEquals": {tag(one): "another"}}, effect="Deny")],
                [self.statement(*full, {"Null": {tag(one): "true"}})],
                [
                    self.statement(full[0], {"StringEquals": {"sts:SourceIdentity": "web-1"}}, actions=first),
                    self.statement(full[0], actions=others),
                ],
            ]
        )


def strangers(maker: Maker) -> list[Context]:
    """Return requests by certificates that differ from the machine in every name, or in one."""
    bare = [{}, ISSUER, {**ISSUER, **STRANGE}, *({**ISSUER, name: "other"} for name in NAMES)]
    return [request(tags, anchor) for tags in bare for anchor in (ANCHOR, OTHER_ANCHOR)]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_answer_of_some_policies_is_as_known(number: int) -> None:
    check_answers(range(number * 45, number * 45 + 45))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_answer_of_many_policies_is_as_known(number: int) -> None:
    check_answers(range(1_000 + number * 500, 1_500 + number * 500))


def check_answers(seeds: range) -> None:
    wrong = [problem for seed in seeds if (problem := check_answer(seed))]
    assert not wrong, "\n".join(wrong[:5])


def check_answer(seed: int) -> str:
    """Return what is wrong with the review of one policy, or an empty string."""
    maker = Maker(seed)
    answer = ("open", "closed", "shut")[seed % 3]
    statements = {"open": maker.open, "closed": maker.closed, "shut": maker.shut}[answer]()
    document = {"Version": "2012-10-17", "Statement": statements}
    found = review(document, trust_anchor=ANCHOR, now=NOW)
    levels = {each.level for each in found}
    is_right = {
        "open": "open" in levels,
        "closed": {each.id for each in found} <= {"group-only"},  # If O or L is the only name.
        "shut": bool(found) and "open" not in levels,
    }[answer]
    machine = request(maker.machine)
    if answer == "closed":
        judge = TrustPolicy(document)
        assert not judge.refusal(machine) or not judge.refusal(machine, every_key=True)
        assert all(judge.refusal(each) for each in strangers(maker))
    if answer == "shut" and "${" not in json.dumps(document):
        judge = TrustPolicy(document)
        assert all(judge.refusal(each) for each in (machine, *strangers(maker)))
    return "" if is_right else f"{seed} {answer} {sorted(each.id for each in found)} {json.dumps(document)}"


_KEYS = [tag(name) for name in ("x509Subject/CN", "x509Subject/OU", "x509SAN/DNS")]
_OPERATORS = ["StringEquals", "StringEquals", "StringLike", "StringNotEquals", "StringEqualsIfExists", "Null"]
_VALUES = ["web-1", "web-2"]


def random_statement(chance: random.Random, pinned: Condition) -> dict[str, Any]:
    condition: Condition = {operator: dict(keys) for operator, keys in pinned.items()}
    for _ in range(chance.randrange(1, 3)):
        operator = chance.choice(_OPERATORS)
        value = chance.choice(["true", "false"]) if operator == "Null" else chance.choice([*_VALUES, _VALUES])
        condition.setdefault(operator, {})[chance.choice(_KEYS)] = value
    effect = "Allow" if pinned else "Deny"
    actions = chance.choice([list(ACTIONS), list(ACTIONS), [ACTIONS[0]], list(ACTIONS[1:])])
    return {"Effect": effect, "Principal": SERVICE, "Action": actions, "Condition": condition}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
def test_review_agrees_with_a_trial_of_every_certificate(number: int) -> None:
    compare_with_trials(range(number * 40, number * 40 + 40))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_review_agrees_with_many_trials_of_every_certificate(number: int) -> None:
    compare_with_trials(range(1_000 + number * 60, 1_060 + number * 60))


def compare_with_trials(seeds: range) -> None:
    values = (None, *_VALUES, "other")
    names = [key.partition("/")[2] for key in _KEYS]
    for seed in seeds:
        chance = random.Random(seed)
        pinned: Condition = {"ArnEquals": {"aws:SourceArn": ANCHOR}}
        statements = [random_statement(chance, pinned) for _ in range(chance.randrange(1, 4))]
        statements += [random_statement(chance, {}) for _ in range(chance.randrange(3))]
        document = {"Version": "2012-10-17", "Statement": statements}
        judge = TrustPolicy(document)
        admitted = []
        for chosen in itertools.product(values, repeat=len(names)):
            tags = {name: value for name, value in zip(names, chosen, strict=True) if value}
            if not judge.refusal(request({**ISSUER, **tags})):
                admitted.append(chosen)
        found = review(document, trust_anchor=ANCHOR, now=NOW)
        levels = {each.level for each in found}
        words = f"{seed} {sorted(each.id for each in found)} {json.dumps(document)}"
        if not admitted:
            assert found, words
        if any(set(each) <= {None, "other"} for each in admitted):
            assert "open" in levels, words
        by_one_name = admitted and any(all(each[place] in _VALUES for each in admitted) for place in range(len(names)))
        if by_one_name:
            assert "open" not in levels, words
