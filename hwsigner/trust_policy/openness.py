"""Whether a trust policy is open: it is shown requests of strangers, and the statements that let them in are found.

Trust anchors and certificates are judged apart: a policy must keep out a stranger's trust anchor whatever the
certificate is, and a stranger's certificate whatever the trust anchor is.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hwsigner.findings import Finding, Mistake, policies
from hwsigner.trust_policy import naming
from hwsigner.trust_policy.conditions import ACTIONS, OPERATORS, Condition, Context, unlisted
from hwsigner.trust_policy.reading import Reader, Statement
from hwsigner.trust_policy.strangers import (
    ANCHOR_KEYS,
    ANYONE,
    GROUP,
    GROUPS,
    ONE_NAME,
    TAG_KEYS,
    TooManyError,
    Trials,
    is_about,
    request_by,
)

CERTIFICATE_KEYS = (*TAG_KEYS, "aws:tagkeys", "sts:sourceidentity", "aws:originidentity/subject")
_STRANGERS_ACCOUNT = "999988887777"
_UUID = "7f3c9d1b-5e2a-4b86-9c0d-e4a1f86b2d57"
_STRANGERS_REGION = "eu-west-1"
ANY_ANCHOR = f"arn:aws:rolesanywhere:{_STRANGERS_REGION}:{_STRANGERS_ACCOUNT}:trust-anchor/{_UUID}"
_MANY_ANCHORS = "there are more combinations of regions and accounts than hwsigner tries"
_TOO_MANY = "there are more ways to combine the conditions than hwsigner tries"
_MANY_PLACES = 400


def open_statements(statements: Sequence[Statement], trust_anchor: str = "") -> Iterator[Finding]:
    """Yield what lets strangers in, other than by the trust anchor that should be let in, if it is known."""
    anchors, are_all = _strange_anchors(statements, trust_anchor)
    anchor_open = _admitting(statements, ANCHOR_KEYS, anchors)
    if not are_all and any(each.allows and each.name not in anchor_open for each in statements):
        yield policies.NOT_DECIDED.found(_MANY_ANCHORS)
    certificates = _Certificates.tried(statements, trust_anchor)
    if not certificates.is_decided:
        yield policies.NOT_DECIDED.found(_TOO_MANY)
    for statement in statements:
        if not statement.allows or not statement.concerns_service:
            continue
        names = [
            each
            for each, admitting in (("anchor", anchor_open), ("tag", certificates.admitting[ANYONE]))
            if statement.name in admitting
        ]
        if len(names) == 2 and not statement.conditions:
            yield policies.CONDITION_NONE.found(f"{statement.name} has no Condition")
            continue
        yield from _about_anchors(statement, is_open="anchor" in names)
        yield from _about_certificates(statement, is_open="tag" in names)
        if statement.name in certificates.admitting[ONE_NAME]:
            yield from _about_denies(statement, statements)
        elif statement.name in certificates.admitting[GROUP] and "tag" not in names:
            yield policies.GROUP_ONLY.found(f"{statement.name} names certificates only by {_groups(statements)}")


def shut(statements: Sequence[Statement], trust_anchor: str = "") -> Iterator[Finding]:
    """Yield that no certificate gets in, or the statements by which none was found that does."""
    denying = [each for each in statements if not each.allows and each.concerns_service]
    try:
        tried, living = _living(statements, trust_anchor)
        shutting = (
            []
            if living
            else [
                each.name
                for each in denying
                if _living([one for one in statements if one is not each], trust_anchor)[1]
            ]
        )
    except TooManyError:
        yield policies.NOT_DECIDED.found(_TOO_MANY)
        return
    doubtful = [each.name for each in tried.values() if each.name not in living and _has_patterns(each)]
    if not living and not any(map(_has_patterns, statements)):
        names = " and ".join(shutting)
        yield policies.SHUT.found(
            f"no certificate may do all three actions{f', because of {names}' if names else ''}",
            f"Remove {names}, or have it deny only what the Allow statements should not let in" if names else "",
        )
    elif not living:
        yield policies.NOT_DECIDED.found("hwsigner found no certificate that the policy lets in")
    for name in doubtful if living else ():
        yield policies.NOT_DECIDED.found(f"hwsigner found no certificate that {name} lets in")


def _living(statements: Sequence[Statement], trust_anchor: str) -> tuple[dict[str, Statement], set[str]]:
    """Return the statements that were tried, and the names of those that let in a certificate."""
    tried: dict[str, Statement] = {}
    living: set[str] = set()
    for trial in _all_trials(statements, _anchors(statements, trust_anchor)):
        for way in trial.ways():
            names = {each.name: each for each, _ in way}
            tried |= names
            if not living.issuperset(names) and trial.lets_in(way):
                living.update(names)
    return tried, living


def _has_patterns(statement: Statement) -> bool:
    """Return whether a statement has patterns for keys of which it does not list the values."""
    lists = [each for each in statement.conditions if each.operator == "StringEquals"]
    listed = {each.key.lower() for each in lists if not each.variables}
    listed |= {each.key.lower() for each in lists if listed.issuperset(map(str.lower, each.variables))}
    values = (value for each in statement.conditions if each.key.lower() not in listed for value in each.values)
    return any(re.search(r"[*?]|\$\{", value) for value in values)


@dataclass
class _Certificates:
    """Which statements let in certificates that the policy does not name, by who gets in: ANYONE, ONE_NAME or GROUP."""

    admitting: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    is_decided: bool = True

    @classmethod
    def tried(cls, statements: Sequence[Statement], trust_anchor: str) -> _Certificates:
        found = cls()
        try:
            for trial in _all_trials(statements, _anchors(statements, trust_anchor)):
                for way in trial.ways():
                    comparing = {each.name for each, _ in way if _conditions(each, CERTIFICATE_KEYS)}
                    names = comparing or {each.name for each, _ in way}
                    if names:
                        found.admitting[trial.who(way)] |= names
        except TooManyError:
            found.is_decided = False
        return found


def _all_trials(statements: Sequence[Statement], anchors: Sequence[str]) -> list[Trials]:
    """Return trials for each reading of the keys: AWS's list by action, and every key for each action."""
    differs = any(any(unlisted(each.conditions, sorted(each.actions))) for each in statements)
    return [Trials(statements, anchors, every_key) for every_key in ((False, True) if differs else (False,))]


def _about_denies(statement: Statement, statements: Sequence[Statement]) -> Iterator[Finding]:
    """Yield the Deny statements that one of several names is enough to escape."""
    denying = [each for each in statements if not each.allows and each.concerns_service]
    several = [each for each in denying if len(_conditions(each, CERTIFICATE_KEYS)) > 1]
    for each in several:
        keys = " and ".join(condition.key for condition in each.conditions)
        yield policies.DENY_NEEDS_ALL.found(f"{each.name} denies only if {keys} are all as it says")
    if not several:
        yield policies.TAG_NONE.found(f"{statement.name} lets in certificates that fit one of several names")


def named_anchors(statements: Sequence[Statement]) -> list[str]:
    """Return the ARNs in conditions on aws:SourceArn, without those that have wildcards or variables."""
    conditions = (each for statement in statements for each in statement.conditions)
    values = (value for each in conditions if each.key.lower() == "aws:sourcearn" for value in each.values)
    return [each for each in values if each.count(":") >= 5 and not re.search(r"[*?$]", each)]


def _groups(statements: Sequence[Statement]) -> str:
    """Return the names that a CA may give to all its certificates, of those that a policy compares."""
    tags = (each.key.partition("/")[2] for one in statements for each in one.conditions if is_about(each.key, TAG_KEYS))
    return " and ".join(dict.fromkeys(each for each in tags if each.lower() in GROUPS))


def named_tags(policy: Mapping[str, Any]) -> list[str]:
    """Return the session tags that a policy compares, in variables too, such as x509Subject/CN, each once."""
    conditions = (each for statement in Reader(policy).statements for each in statement.conditions)
    keys = (key for each in conditions for key in (each.key, *each.variables))
    return list(dict.fromkeys(key.partition("/")[2] for key in keys if is_about(key, TAG_KEYS)))


def named_anchor(statement: Statement, context: Context) -> Iterator[str]:
    """Yield why a statement's conditions for trust anchors are not met, in words."""
    for condition in statement.conditions:
        found = condition.judge(context)
        if is_about(condition.key, ANCHOR_KEYS) and found.met is False:
            yield found.words


def admits(statements: Sequence[Statement], keys: Sequence[str], context: Context) -> set[str]:
    """Return the names of the statements that let a request in, if all actions are allowed.

    Only conditions for some keys are judged; the others count as met.
    """
    meeting = {each.name: _meets(each, keys, context) for each in statements}
    admitting: set[str] = set()
    for action in ACTIONS:
        having = [each for each in statements if each.concerns_service and action in each.actions]
        allowing = {each.name for each in having if each.allows and meeting[each.name]}
        denied = any(not each.allows and meeting[each.name] for each in having)
        is_present = any(each.allows for each in having)
        if is_present and (denied or not allowing):
            return set()
        admitting |= allowing
    return admitting


def _meets(statement: Statement, keys: Sequence[str], context: Context) -> bool:
    """Return whether a request meets a statement's conditions for some keys.

    A Deny with other conditions, or a condition that can't be read, does not count: it may not apply.
    """
    judged = [each for each in statement.conditions if is_about(each.key, keys) and not _is_chosen(each)]
    others = len(judged) < len(statement.conditions)
    unread = [key for key in statement.unread if is_about(key, keys) or not statement.allows]
    if unread or (others and not statement.allows):
        return False
    return all(each.judge(context).met for each in judged)


def _admitting(statements: Sequence[Statement], keys: Sequence[str], strangers: Sequence[Context]) -> set[str]:
    admitting = set().union(*(admits(statements, keys, each) for each in strangers))
    if not any(_is_chosen(each) for one in statements if one.name in admitting for each in _conditions(one, keys)):
        return admitting
    # The requester must be able to have all the names that it chooses.
    anchors = [arn for each in strangers for arn in each.get("aws:sourcearn", ())]
    try:
        return admitting & {
            each.name
            for trial in _all_trials(statements, anchors)
            for way in trial.ways()
            if trial.lets_in(way)
            for each, _ in way
        }
    except TooManyError:
        return admitting


def _strange_anchors(statements: Sequence[Statement], trust_anchor: str) -> tuple[list[Context], bool]:
    """Return requests by trust anchors that the policy does not name, and whether these are all that matter.

    They are of the policy's accounts and regions, and of others.
    """
    conditions = [each for statement in statements for each in _conditions(statement, ANCHOR_KEYS)]
    values = [value for each in conditions for value in each.values]
    # One that names a trust anchor fits no stranger's, so its region and account need not be combined with others.
    naming = [each.split(":", 5) for each in values if each.count(":") >= 5 and not re.search(r"[*?]", each)]
    texts = [ANY_ANCHOR, trust_anchor, *(each for each in values if each.split(":", 5) not in naming)]
    wild = [each for each in texts if re.search(r"[*?]", each)]
    # Wildcards may be a part of a region, so each is also replaced.
    texts += [*map(_example, wild), *(_filled(part) for each in wild for part in each.split(":"))]
    named = [each.split(":", 5) for each in texts if each.count(":") >= 5]
    partitions = {parts[1] for parts in (*named, *naming) if re.fullmatch(r"aws[a-z-]*", parts[1])}
    regions = {parts[3] for parts in named if re.fullmatch(r"[a-z0-9-]+", parts[3])}
    accounts = {account for text in texts for account in _accounts(text)}
    places = set(itertools.product(partitions, regions, accounts))
    patterns = [each for each in dict.fromkeys(texts) if _names_several(each)]
    of_patterns = [(each, account) for each in patterns for account in _accounts_of(each) or accounts]
    are_all = len(places) + len(of_patterns) <= _MANY_PLACES
    if not are_all:  # Else it would take minutes.
        strange = {*itertools.product(partitions, regions, [_STRANGERS_ACCOUNT])}
        places &= strange | {*itertools.product(partitions, [_STRANGERS_REGION], accounts)}
        of_patterns = [(each, next(iter(_accounts_of(each)), _STRANGERS_ACCOUNT)) for each in patterns]
    places |= {
        (parts[1], parts[3], parts[4]) for parts in (*named, *naming) if not re.search(r"[*?$]", "".join(parts[:5]))
    }
    arns = [f"arn:{part}:rolesanywhere:{region}:{of}:trust-anchor/{_UUID}" for part, region, of in sorted(places)]
    requests = [request_by(each) for each in [*arns, *(_example_anchor(*each) for each in sorted(of_patterns))]]
    return requests, are_all


def _accounts_of(pattern: str) -> list[str]:
    """Return the only account that an ARN with wildcards fits, if it has one."""
    parts = pattern.split(":", 5)
    return _accounts(parts[4]) if len(parts) == 6 else []


def _accounts(text: str) -> list[str]:
    return re.findall(r"(?<!\d)\d{12}(?!\d)", text)


def _names_several(text: str) -> bool:
    """Return whether a value of aws:SourceArn has wildcards in the trust anchor's UUID, and fits others."""
    letters, wildcards = re.subn(r"[*?]", "", _anchor_id(text))
    return wildcards > 0 and "$" not in text and len(letters) < len(_UUID)


def _anchor_id(text: str) -> str:
    return text.rpartition(":")[2].rpartition("/")[2]


def _example_anchor(text: str, account: str) -> str:
    """Return the ARN of a trust anchor that a value of aws:SourceArn with wildcards fits."""
    parts = _example(text).split(":", 5)
    if len(parts) < 6:
        return f"arn:aws:rolesanywhere:{_STRANGERS_REGION}:{account}:trust-anchor/{_example(_anchor_id(text))}"
    return ":".join([*parts[:4], account, parts[5]])


def _example(pattern: str) -> str:
    """Return a text that fits a pattern."""
    return pattern.replace("*", "qz").replace("?", "0")


def _filled(pattern: str) -> str:
    """Return an account's number with its wildcards replaced by zeros; other text as it is."""
    missing = 12 - len(pattern.replace("*", ""))
    return pattern.replace("?", "0").replace("*", "0" * missing, 1).replace("*", "")


def _anchors(statements: Sequence[Statement], trust_anchor: str) -> list[str]:
    """Return trust anchors to try with certificates: those that the policy names, examples of its patterns, another."""
    conditions = (each for one in statements for each in one.conditions if is_about(each.key, ANCHOR_KEYS))
    account = re.compile(r"\$\{aws:SourceAccount\}", re.IGNORECASE)
    values = (account.sub(_STRANGERS_ACCOUNT, value) for each in conditions for value in each.values)
    texts = [trust_anchor, *(value for value in values if "$" not in value)]
    accounts = dict.fromkeys(account for text in texts for account in _accounts(_filled(text)))
    named = [_example(each) for each in texts if each.count(":") >= 5]
    others = [_example_anchor(each, account) for account in accounts for each in (ANY_ANCHOR, *map(_filled, named))]
    return list(dict.fromkeys([*named, *others, ANY_ANCHOR]))


def _about_anchors(statement: Statement, *, is_open: bool) -> Iterator[Finding]:
    """Yield why a statement lets trust anchors in that it does not name."""
    conditions = _conditions(statement, ANCHOR_KEYS)
    arns = [each for each in conditions if each.key.lower() == "aws:sourcearn"]
    if is_open and not conditions:
        yield policies.SOURCE_ARN_NONE.found(f"{statement.name} has no condition on aws:SourceArn")
    elif is_open and not arns and not any(map(_is_loose, conditions)):
        yield policies.SOURCE_ACCOUNT_ONLY.found(f"{statement.name} has aws:SourceAccount without aws:SourceArn")
    else:
        yield from _about_conditions(statement, arns or conditions, policies.SOURCE_ARN_ANY, is_open=is_open)


def _about_certificates(statement: Statement, *, is_open: bool) -> Iterator[Finding]:
    """Yield why a statement lets certificates in that it does not name, or that lack a name."""
    conditions = _conditions(statement, CERTIFICATE_KEYS)
    if is_open and not conditions:
        yield policies.TAG_NONE.found(f"{statement.name} has no condition on the certificate's names")
    elif is_open and all("/x509issuer/" in each.key.lower() for each in conditions):
        yield policies.ISSUER_ONLY.found(f"{statement.name} compares only names of the CA")
        return
    yield from _about_conditions(statement, conditions, policies.ANY_VALUE, is_open=is_open)


def _about_conditions(
    statement: Statement, conditions: Sequence[Condition], otherwise: Mistake, *, is_open: bool
) -> Iterator[Finding]:
    for condition in conditions if is_open else ():
        found = {naming.named_by(condition.key.lower(), each) for each in condition.values}
        is_suffix = otherwise is policies.ANY_VALUE and naming.SUFFIX in found
        mistake = _looseness(condition) or (policies.SUFFIX_UNBOUNDED if is_suffix else otherwise)
        values = " or ".join(map(repr, condition.values))
        yield mistake.found(f"{statement.name} has {condition.operator} {condition.key} {values}")


def _conditions(statement: Statement, keys: Sequence[str]) -> list[Condition]:
    return [each for each in statement.conditions if is_about(each.key, keys)]


def _is_chosen(condition: Condition) -> bool:
    """Return whether a condition compares with a variable that a requester with a trust anchor of its own chooses."""
    is_known = condition.judge({}).met is not None
    return is_known and any(not is_about(each, ANCHOR_KEYS) for each in condition.variables)


def _is_loose(condition: Condition) -> bool:
    return _looseness(condition) is not None or any(not each.strip("*?") for each in condition.values)


def _looseness(condition: Condition) -> Mistake | None:
    """Return the mistake by which a condition lets strangers in, or None if it is in the values."""
    quantifier, base, if_exists = condition.parts
    may_lack = not is_about(condition.key, ANCHOR_KEYS)  # Every request has those.
    if quantifier == "ForAllValues" and may_lack:
        return policies.FOR_ALL_VALUES
    if if_exists and may_lack and not OPERATORS[base].negated:  # A negated one is met without the key anyway.
        return policies.IF_EXISTS
    if OPERATORS[base].negated or (base == "Null" and "true" in condition.values):
        return policies.NEGATED
    return None
