"""Trust policies whose right answer is known by how they are made: open, shut to strangers, or shut to all.

A policy has a part for the trust anchor and a part for the certificate, in one statement or several, and Deny
statements that change nothing or that close what an Allow leaves open. For an open one there is a stranger's request
that gets in; for the others, whom the policy means.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from trust_policy import iam

NOW = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
OPEN, SHUT, NO_ONE = "open", "shut", "no one"
UUID, OTHER_UUID = "0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9aa", "7d11a3b2-90cc-4f0e-b1a2-6f5e4d3c2b1a"
ACCOUNT, OTHER_ACCOUNT = "123456789012", "210987654321"
ANCHOR = f"arn:aws:rolesanywhere:eu-central-1:{ACCOUNT}:trust-anchor/{UUID}"
STRANGE_ANCHORS = (
    f"arn:aws:rolesanywhere:eu-central-1:{ACCOUNT}:trust-anchor/{OTHER_UUID}",
    f"arn:aws:rolesanywhere:eu-central-1:{OTHER_ACCOUNT}:trust-anchor/{OTHER_UUID}",
    f"arn:aws:rolesanywhere:us-east-1:{OTHER_ACCOUNT}:trust-anchor/{OTHER_UUID}",
)
ACTIONS = ASSUME, TAG, SET = "sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"
CN, OU, DNS = (f"aws:PrincipalTag/{tag}" for tag in ("x509Subject/CN", "x509Subject/OU", "x509SAN/DNS"))
SOURCE = "aws:SourceArn"
Triples = list[tuple[str, str, Any]]  # Operator, key, values.


@dataclass(frozen=True)
class Part:
    """Conditions, who gets in by them, and a stranger who does if they are open."""

    name: str
    conditions: Triples
    answer: str = SHUT
    anchors: tuple[str, ...] = (ANCHOR,)  # Those that it means.
    good: dict[str, str] = field(default_factory=dict)  # Tags that get in and are meant.
    strange: dict[str, str] = field(default_factory=dict)  # Tags of a stranger who gets in.
    names: Callable[[dict[str, str]], bool] = lambda tags: False  # Whether tags are meant.
    has_all_actions: bool = True  # Whether its keys are those of all three actions.
    version: str = "2012-10-17"
    session: str = ""  # The session name that a requester chooses to get in.


@dataclass(frozen=True)
class Case:
    """A policy with its answer."""

    name: str
    policy: dict[str, Any]
    answer: str
    request: iam.Request | None  # One that gets in: a stranger's if it is open.
    is_meant: Callable[[iam.Request], bool]


def _anchor_parts() -> Iterator[Part]:
    for operator in ("ArnEquals", "ArnLike", "StringEquals", "StringLike", "ForAnyValue:ArnEquals"):
        yield Part(f"{operator} anchor", [(operator, SOURCE, ANCHOR)])
    for operator in ("ArnEqualsIfExists", "StringEqualsIfExists", "ForAllValues:ArnEquals", "ForAllValues:StringLike"):
        yield Part(f"{operator} anchor", [(operator, SOURCE, ANCHOR)])
    yield Part("anchor and account", [("ArnEquals", SOURCE, ANCHOR), ("StringEquals", "aws:SourceAccount", ACCOUNT)])
    yield Part("anchor, not null", [("ArnLike", SOURCE, ANCHOR), ("Null", SOURCE, "false")])
    yield Part("account by a variable", [("ArnLike", SOURCE, ANCHOR.replace(ACCOUNT, "${aws:SourceAccount}"))])
    yield Part(
        "two anchors", [("ArnEquals", SOURCE, [ANCHOR, STRANGE_ANCHORS[1]])], anchors=(ANCHOR, STRANGE_ANCHORS[1])
    )
    linked = ANCHOR.replace(UUID, f"${{{OU}}}")
    yield Part(
        "anchor by a pinned OU",
        [("ArnLike", SOURCE, linked), ("StringEquals", OU, UUID)],
        good={"x509Subject/OU": UUID},
    )
    for name, conditions in (
        ("no anchor", []),
        ("account only", [("StringEquals", "aws:SourceAccount", ACCOUNT)]),
        ("account like", [("StringLike", "aws:SourceAccount", "1*")]),
        ("any UUID", [("ArnLike", SOURCE, ANCHOR.replace(UUID, "*"))]),
        ("anchor not null", [("Null", SOURCE, "false")]),
        ("account if exists", [("StringEqualsIfExists", "aws:SourceAccount", ACCOUNT)]),
        ("account in the ARN", [("StringLike", SOURCE, f"*:{ACCOUNT}:*")]),
        ("not another anchor", [("ArnNotEquals", SOURCE, ANCHOR.replace("eu-", "ap-"))]),
    ):
        yield Part(name, conditions, OPEN, anchors=STRANGE_ANCHORS[:1])
    yield Part(
        "anchor by any OU",
        [("ArnLike", SOURCE, linked)],
        OPEN,
        STRANGE_ANCHORS[:1],
        strange={"x509Subject/OU": OTHER_UUID},
    )


def _named(**wanted: tuple[str, ...]) -> Callable[[dict[str, str]], bool]:
    """Return whether each tag has one of some values, which may begin with a caret for the start of a text."""

    def fits(text: str, value: str) -> bool:
        return text.startswith(value[1:]) if value.startswith("^") else text == value

    keys = {"CN": "x509Subject/CN", "OU": "x509Subject/OU", "DNS": "x509SAN/DNS"}
    return lambda tags: all(any(fits(tags.get(keys[k], ""), v) for v in values) for k, values in wanted.items())


def _shut_certificates() -> Iterator[Part]:
    one, cn = _named(CN=("bamboo-01",)), {"x509Subject/CN": "bamboo-01"}
    for operator in ("StringEquals", "StringLike", "ForAnyValue:StringEquals"):
        yield Part(f"{operator} CN", [(operator, CN, "bamboo-01")], good=cn, names=one)
    yield Part("ignoring case", [("StringEqualsIgnoreCase", CN, "Bamboo-01")], good=cn, names=one)
    yield Part("two CNs", [("StringEquals", CN, ["bamboo-01", "bamboo-02"])], good=cn, names=_named(CN=("^bamboo-0",)))
    yield Part("pattern", [("StringLike", CN, "bamboo-*")], good=cn, names=_named(CN=("^bamboo-",)))
    yield Part(
        "pattern and OU",
        [("StringLike", CN, "bamboo-*"), ("StringEquals", OU, "devops")],
        good={**cn, "x509Subject/OU": "devops"},
        names=_named(CN=("^bamboo-",), OU=("devops",)),
    )
    yield Part(
        "pattern but one",
        [("StringLike", CN, "bamboo-*"), ("StringNotEquals", CN, "bamboo-13")],
        good=cn,
        names=_named(CN=("^bamboo-",)),
    )
    yield Part(
        "CN and not OU", [("StringEquals", CN, "bamboo-01"), ("StringNotEquals", OU, "test")], good=cn, names=one
    )
    yield Part(
        "CN and OU if exists",
        [("StringEquals", CN, "bamboo-01"), ("StringEqualsIfExists", OU, "devops")],
        good=cn,
        names=one,
    )
    yield Part(
        "for all, not null", [("ForAllValues:StringEquals", CN, "bamboo-01"), ("Null", CN, "false")], good=cn, names=one
    )
    yield Part(
        "if exists, not null", [("StringEqualsIfExists", CN, "bamboo-01"), ("Null", CN, "false")], good=cn, names=one
    )
    yield Part(
        "two operators",
        [("StringLike", CN, "*-01"), ("StringLikeIfExists", CN, "bamboo*"), ("Null", CN, "false")],
        good=cn,
        names=one,
    )
    linked = {"x509Subject/CN": "devops-01", "x509Subject/OU": "devops"}
    yield Part(
        "CN by a pinned OU",
        [("StringEquals", CN, f"${{{OU}}}-01"), ("StringEquals", OU, "devops")],
        good=linked,
        names=_named(CN=("devops-01",), OU=("devops",)),
    )
    yield Part(
        "CN like a pinned OU",
        [("StringLike", CN, f"${{{OU}}}-*"), ("StringEquals", OU, "devops")],
        good=linked,
        names=_named(CN=("^devops-",), OU=("devops",)),
    )
    yield Part(
        "OU by a pinned CN",
        [("StringEquals", OU, f"${{{CN}}}"), ("StringEquals", CN, "bamboo-01")],
        good={**cn, "x509Subject/OU": "bamboo-01"},
        names=one,
    )
    yield Part(
        "CN by a default", [("StringEquals", CN, f"${{{DNS}, 'bamboo-01'}}"), ("Null", DNS, "true")], good=cn, names=one
    )
    yield Part(
        "session name is CN",
        [("StringEquals", "sts:RoleSessionName", f"${{{CN}}}"), ("StringEquals", CN, "bamboo-01")],
        good=cn,
        names=one,
        has_all_actions=False,
        session="bamboo-01",
    )
    yield Part(
        "source identity",
        [("StringEquals", "sts:SourceIdentity", "CN=bamboo-01")],
        good=cn,
        names=one,
        has_all_actions=False,
    )
    yield Part(
        "DNS",
        [("StringLike", DNS, "*.example.com")],
        good={"x509SAN/DNS": "a.example.com"},
        names=lambda tags: tags.get("x509SAN/DNS", "").endswith(".example.com"),
    )


def _open_certificates() -> Iterator[Part]:
    evil = {"x509Subject/CN": "qzxjv", "x509Subject/OU": "qzxjv"}
    for name, conditions in (
        ("nothing", []),
        ("not a CN", [("StringNotEquals", CN, "bamboo-13")]),
        ("not like a CN", [("StringNotLike", CN, "test-*")]),
        ("if exists", [("StringEqualsIfExists", DNS, "web.example.com")]),
        ("for all values", [("ForAllValues:StringEquals", DNS, "web.example.com")]),
        ("any value", [("StringLike", CN, "*")]),
        ("any character", [("StringLike", CN, "?*")]),
        ("any or one", [("StringLike", CN, ["bamboo-01", "*"])]),
        ("not null", [("Null", CN, "false")]),
        ("CN is OU", [("StringEquals", CN, f"${{{OU}}}")]),
        ("CN like OU", [("StringLike", CN, f"*${{{OU}}}*")]),
        ("OU not CN's", [("StringNotEquals", OU, f"${{{CN}}}-2")]),
        ("not DNS, no OU", [("StringNotEquals", DNS, "web.example.com"), ("StringNotEqualsIfExists", OU, "test")]),
        ("letters", [("StringLike", CN, ["q*", "b*"])]),
    ):
        yield Part(name, conditions, OPEN, strange=evil)
    yield Part(
        "issuer",
        [("StringEquals", "aws:PrincipalTag/x509Issuer/CN", "Example CA")],
        OPEN,
        strange={**evil, "x509Issuer/CN": "Example CA"},
    )
    yield Part(
        "session name",
        [("StringEquals", "sts:RoleSessionName", "web")],
        OPEN,
        strange=evil,
        has_all_actions=False,
        session="web",
    )
    yield Part(
        "session name is any CN",
        [("StringEquals", "sts:RoleSessionName", f"${{{CN}}}")],
        OPEN,
        strange=evil,
        has_all_actions=False,
        session="qzxjv",
    )
    yield Part(
        "any source identity", [("StringLike", "sts:SourceIdentity", "CN=*")], OPEN, strange=evil, has_all_actions=False
    )
    for pattern, text in (
        ("*.com", "evil.com"),
        ("*.co.uk", "evil.co.uk"),
        ("*example.com", "evilexample.com"),
        ("*.internal", "evil.internal"),
    ):
        yield Part(f"DNS {pattern}", [("StringLike", DNS, pattern)], OPEN, strange={"x509SAN/DNS": text})
    yield Part(
        "URI",
        [("StringLike", "aws:PrincipalTag/x509SAN/URI", "spiffe://*")],
        OPEN,
        strange={"x509SAN/URI": "spiffe://evil/x"},
    )
    yield Part(
        "mail",
        [("StringLike", "aws:PrincipalTag/x509Subject/E", "*@*.com")],
        OPEN,
        strange={"x509Subject/E": "a@evil.com"},
    )
    yield Part("CN *com", [("StringLike", CN, "*com")], OPEN, strange={"x509Subject/CN": "evilcom"})


def _closed_certificates() -> Iterator[Part]:
    """Yield conditions that no certificate meets."""
    for name, conditions in (
        ("two CNs at once", [("StringEquals", CN, "bamboo-01"), ("StringLike", CN, "web-*")]),
        ("a CN that is missing", [("StringEquals", CN, "bamboo-01"), ("Null", CN, "true")]),
        ("a CN and not that", [("StringEquals", CN, "bamboo-01"), ("StringNotEquals", CN, "bamboo-01")]),
        ("an empty CN", [("StringEquals", CN, "")]),
        (
            "OU by a CN that is another",
            [("StringEquals", OU, f"${{{CN}}}"), ("StringEquals", CN, "a1b2"), ("StringLike", OU, "zz*")],
        ),
        (
            "a date that has passed",
            [("StringEquals", CN, "bamboo-01"), ("DateLessThan", "aws:CurrentTime", "2020-01-01T00:00:00Z")],
        ),
        ("an empty OU", [("StringEquals", CN, "bamboo-01"), ("StringEquals", OU, "")]),
    ):
        yield Part(name, conditions, NO_ONE)
    for name, conditions in (
        ("old, CN is OU", [("StringEquals", CN, f"${{{OU}}}")]),
        ("old, CN like OU", [("StringLike", CN, f"*${{{OU}}}*")]),
        ("old, CN like OU and pinned", [("StringLike", CN, f"${{{OU}}}-*"), ("StringEquals", OU, "devops")]),
        ("old, session name", [("StringEquals", "sts:RoleSessionName", f"${{{CN}}}")]),
    ):
        yield Part(name, conditions, NO_ONE, version="2008-10-17", has_all_actions="session" not in name)


ANCHORS = list(_anchor_parts())
CERTIFICATES = [*_shut_certificates(), *_open_certificates(), *_closed_certificates()]


def _statement(triples: Triples, actions: Any, **more: Any) -> dict[str, Any]:
    block: dict[str, dict[str, Any]] = {}
    for operator, key, values in triples:
        block.setdefault(operator, {})[key] = values
    made = {"Effect": "Allow", "Principal": {"Service": iam.SERVICE}, "Action": actions, **more}
    return {**made, "Condition": block} if block else made


def _is_repeated(triples: Triples) -> bool:
    pairs = [(operator, key.lower()) for operator, key, _ in triples]
    return len(set(pairs)) < len(pairs)


def _allows(chance: random.Random, anchor: Part, certificate: Part) -> list[dict[str, Any]]:
    """Return the Allow statements: one, or one for each action, of which at least AssumeRole's has all conditions."""
    whole = [*anchor.conditions, *certificate.conditions]
    how = chance.choice(["one", "one", "wildcard", "split", "split open"])
    if not certificate.has_all_actions:
        return [_statement(whole, ASSUME), _statement(anchor.conditions, [TAG, SET])]
    if how == "split":
        return [_statement(whole, each) for each in chance.sample(ACTIONS, 3)]
    if how == "split open":  # All three are needed, so one that names is enough.
        named = chance.choice(ACTIONS)
        others = [each for each in ACTIONS if each != named]
        return [_statement(whole, named), _statement(chance.choice([[], anchor.conditions]), others)]
    return [
        _statement(
            whole,
            chance.choice(["sts:*", "STS:*", ["sts:A*Role", "sts:TagSession", "sts:Set*"]])
            if how == "wildcard"
            else list(ACTIONS),
        )
    ]


def _idle_denies() -> Iterator[dict[str, Any]]:
    """Yield Deny statements that deny nothing that matters."""
    yield _statement([], "sts:*", Effect="Deny", Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:root"})
    yield _statement([], "sts:*", Effect="Deny", Principal={"Service": "ec2.amazonaws.com"})
    yield _statement([], "sts:AssumeRoleWithSAML", Effect="Deny")
    yield _statement([("DateLessThan", "aws:CurrentTime", "2020-01-01T00:00:00Z")], "sts:*", Effect="Deny")
    yield _statement([("StringEquals", CN, "lost-01")], "sts:*", Effect="Deny")
    yield _statement([("StringLike", OU, "test*")], TAG, Effect="Deny", Principal="*")
    without = _statement([], "", Effect="Deny")
    del without["Action"]
    yield {**without, "NotAction": "sts:*"}
    yield {**without, "NotAction": list(ACTIONS)}


def _closing_denies() -> Iterator[tuple[str, Triples]]:
    """Yield conditions of a Deny that let in one name only, whatever the Allow statements let in."""
    yield "not a CN", [("StringNotEquals", CN, "bamboo-01")]
    yield "not like a CN", [("StringNotLike", CN, "bamboo-01")]
    yield "not a CN if it exists", [("StringNotEqualsIfExists", CN, "bamboo-01")]


def _requests() -> Iterator[iam.Request]:
    """Yield requests with all combinations of values that the parts name, and of others."""
    cns = (None, "bamboo-01", "bamboo-02", "bamboo-13", "devops-01", "qzxjv", "evilcom", "web-7", "a1b2")
    for anchor, cn, ou, dns in itertools.product(
        (ANCHOR, *STRANGE_ANCHORS),
        cns,
        (None, "devops", "qzxjv", "bamboo-01", UUID, OTHER_UUID),
        (None, "evil.com", "a.example.com"),
    ):
        found = {"x509Subject/CN": cn, "x509Subject/OU": ou, "x509SAN/DNS": dns, "x509Issuer/CN": "Example CA"}
        yield request(anchor, {tag: value for tag, value in found.items() if value})


def request(anchor: str, tags: dict[str, str], session: str = "") -> iam.Request:
    name = tags.get("x509Subject/CN")
    return iam.Request(anchor, tags, session or name or "1f", f"CN={name}" if name else "ID=1f", NOW)


REQUESTS = list(_requests())


def cases(number: int, seed: int) -> Iterator[Case]:
    """Yield policies, the same ones for a seed."""
    chance = random.Random(seed)
    while number:
        anchor, certificate = chance.choice(ANCHORS), chance.choice(CERTIFICATES)
        conditions = [*anchor.conditions, *certificate.conditions]
        if _is_repeated(conditions):
            continue
        if any("${" in str(values) for _, _, values in anchor.conditions) and certificate.version != "2012-10-17":
            continue
        if any(key == OU for _, key, _ in anchor.conditions) and any(
            OU in str(each) for each in certificate.conditions
        ):
            continue
        if anchor.good and certificate.answer == OPEN:
            continue  # The OU of the trust anchor's condition names a certificate.
        if anchor.strange and any(OU in str(each) for each in certificate.conditions):
            continue
        number -= 1
        yield _case(chance, anchor, certificate)


def _case(chance: random.Random, anchor: Part, certificate: Part) -> Case:
    statements = _allows(chance, anchor, certificate)
    name = f"{anchor.name}; {certificate.name}"
    answer = NO_ONE if certificate.answer == NO_ONE else OPEN if OPEN in (anchor.answer, certificate.answer) else SHUT
    names = certificate.names
    closing = chance.choice([None, None, *_closing_denies()])
    if (
        closing
        and answer != NO_ONE
        and certificate.answer == OPEN
        and certificate.name
        in ("nothing", "not a CN", "any value", "if exists", "not null", "any character", "for all values")
    ):
        statements.append(_statement(closing[1], chance.choice(["sts:*", *ACTIONS]), Effect="Deny"))
        cn = {"x509Subject/CN": "bamboo-01"}
        certificate = replace(certificate, answer=SHUT, good=cn, names=_named(CN=("bamboo-01",)))
        answer, names, name = anchor.answer, certificate.names, f"{name}; denied if {closing[0]}"
    is_closable = not anchor.strange and anchor.name != "not another anchor"
    if anchor.answer == OPEN and answer == OPEN and is_closable and chance.random() < 0.2:
        statements.append(_statement([("ArnNotEquals", SOURCE, ANCHOR)], "sts:*", Effect="Deny"))
        anchor = replace(anchor, answer=SHUT, anchors=(ANCHOR,))
        answer, name = certificate.answer, f"{name}; denied if not the anchor"
    if chance.random() < 0.5:
        statements += chance.sample(list(_idle_denies()), chance.choice([1, 1, 2]))
    chance.shuffle(statements)
    policy = {"Version": certificate.version, "Statement": statements}
    is_strange = certificate.answer == OPEN
    tags = {**(certificate.strange if is_strange else certificate.good), **anchor.good, **anchor.strange}
    one = None if answer == NO_ONE else request(anchor.anchors[0], tags, certificate.session)
    meant = ANCHOR, *(anchor.anchors if anchor.answer == SHUT else ())

    def is_meant(request: iam.Request) -> bool:
        return answer != NO_ONE and request.anchor in meant and names(dict(request.tags))

    return Case(name, policy, answer, one, is_meant)
