"""The trust policy of a set-up: which names of a certificate it compares, and our statement in it.

`--match` says which names, and with what:

- `CN,OU`: with the values that the certificates have.
- `CN=bamboo-*,OU=devops`: with these values; `*` and `?` are wildcards.
- `CN=bamboo-01,CN=bamboo-02`: with one of these values.
- `CN,Issuer/CN,SAN/DNS`: names of the issuer and of the subjectAltName, too.

Our statement stands beside those of others, which stay to the letter.
"""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hwsigner._identity.certificate import Certificate
from hwsigner._identity.session_tags import MAX_LENGTH, TAGS, bad_characters, comparable_value, session_tags
from hwsigner.errors import CertificateError, ConfigError, HwsignerWarning, UsageError, suggestion
from hwsigner.findings.policies import SOURCE_ARN_NONE
from hwsigner.trust_policy import Context, TrustPolicy, request_context, writing
from hwsigner.trust_policy.openness import ANY_ANCHOR
from hwsigner.trust_policy.review import review
from hwsigner.trust_policy.strangers import request_by

DEFAULT_MATCH = "CN"
# The short forms, by the tag in lower case: "cn" and "subject/cn" for x509Subject/CN.
_SHORT = {
    **{tag.removeprefix("x509Subject/").lower(): tag for tag in TAGS},
    **{tag.removeprefix("x509").lower(): tag for tag in TAGS},
    **{tag.lower(): tag for tag in TAGS},
}
_MUCH_LATER = timedelta(days=3650)  # A statement that ends before lets no one in for good.


def compared_tags(match: str | None, certificates: Sequence[Certificate]) -> dict[str, list[str]]:
    """Return the tags that a trust policy compares, each with its values in the policy's syntax.

    `match` is the value of `--match`; CN if it is None. The certificates give the values of names without one.
    """
    tags: dict[str, list[str]] = {}
    for part in (match or DEFAULT_MATCH).split(","):
        name, equals, value = part.strip().partition("=")
        tag = _SHORT.get(name.strip().lower())
        if tag is None:
            raise UsageError(f"--match has {name!r}, which is not a name of a certificate", _names_hint(name))
        if equals:
            values = [_checked(name, value)]
        elif certificates:
            values = [writing.literal(comparable_value(each, tag)) for each in certificates]
        else:
            problem = (
                f"--match is {match or DEFAULT_MATCH}: {name} has no value, and there is no certificate to take it from"
            )
            raise UsageError(problem, f"Write --match {name}=VALUE, or give a certificate")
        tags[tag] = list(dict.fromkeys([*tags.get(tag, []), *values]))
    return tags


def checked_policy(
    tags: Mapping[str, Sequence[str]], certificates: Sequence[Certificate], trust_anchor: str | None
) -> dict[str, Any]:
    """Return the trust policy that requires these tags, and check that it lets in the certificates.

    The tags are as `compared_tags` returns them. Without a trust anchor, the policy allows any. Warns if it is larger
    than IAM's usual limit, or lets in more than it names.
    """
    policy = writing.write_trust_policy(tags, trust_anchor=trust_anchor)
    writing.check_size(policy)
    for each in certificates:
        if reason := _refusal(policy, request_by(trust_anchor or ANY_ANCHOR, session_tags(each))):
            raise CertificateError(f"{each.source} would be refused: {reason}", "Leave it out, or change --match")
    for found in review(policy, trust_anchor=trust_anchor or "", size_limit=writing.SIZE_LIMIT):
        if found.mistake is not SOURCE_ARN_NONE:  # The caller knows.
            warnings.warn(HwsignerWarning(f"{found.found}. {found.why}", found.fix), stacklevel=2)
    return policy


def what_it_lets_in(tags: Mapping[str, Sequence[str]], trust_anchor: str | None) -> Iterator[str]:
    """Yield sentences that say which certificates a policy of these tags lets in."""
    where = "the trust anchor" if trust_anchor else "any trust anchor of the account"
    yield f"lets in every certificate of {where} with {writing.in_words(tags)}"
    issuer = "" if any(tag.startswith("x509Issuer/") for tag in tags) else ", and come from any CA below the anchor"
    yield f"compares only these names: a certificate may differ in all others, and in its key{issuer}"
    if any(value.endswith("*") or value.startswith("*") for values in tags.values() for value in values):
        yield "also fits names with several values, which AWS joins with slashes, such as one that fits and any other"
    if sum(len(values) > 1 for values in tags.values()) > 1:
        yield "does not pair the values: a certificate may have one of each, in any combination"


def also_shared(certificates: Sequence[Certificate], tags: Collection[str]) -> list[str]:
    """Return the tags that several certificates share and that are not compared yet, with their values."""
    if len(certificates) < 2:
        return []
    first, *others = (session_tags(each) for each in certificates)
    shared = {tag: value for tag, value in first.items() if all(other.get(tag) == value for other in others)}
    return [f"{tag} {value!r}" for tag, value in shared.items() if tag not in tags]


def with_statement(
    policy: Mapping[str, Any] | None, tags: Mapping[str, Sequence[str]], trust_anchor: str
) -> dict[str, Any]:
    """Return a trust policy to which a statement was added: certificates with these tags may assume the role.

    The policy is returned as it is if it has such a statement, or allows the same in another way.
    """
    others = _statements(policy) if policy is not None else []
    new = writing.write_trust_policy(tags, trust_anchor=trust_anchor)
    statement = {"Sid": _sid(others), **new["Statement"][0]}
    if policy is not None and (_has(others, statement) or _allows(policy, tags, trust_anchor)):
        return dict(policy)
    longer = {**(new if policy is None else policy), "Statement": [*others, statement]}
    # If IAM accepted a larger one, the account has a higher limit.
    is_raised = policy is not None and writing.size(policy) > writing.SIZE_LIMIT
    writing.check_size(longer, writing.HIGHEST_SIZE_LIMIT if is_raised else writing.SIZE_LIMIT)
    return longer


def lets_in_otherwise(policy: Mapping[str, Any], tags: Mapping[str, Sequence[str]], trust_anchor: str) -> bool:
    """Return whether a policy lets in certificates with these tags, though no statement says just that."""
    [statement] = writing.write_trust_policy(tags, trust_anchor=trust_anchor)["Statement"]
    return not _has(_statements(policy), statement) and _allows(policy, tags, trust_anchor)


def refusal(policy: Mapping[str, Any], tags: Mapping[str, Sequence[str]], trust_anchor: str) -> str:
    """Return why the policy refuses certificates with these tags all the same, such as a Deny; an empty string if not.

    Wildcards, and parts of a policy that the evaluator does not know, leave it open. That counts as no reason.
    """
    if any(map(writing.has_wildcard, (value for values in tags.values() for value in values))):
        return ""
    try:
        return _refusal(policy, _request(tags, trust_anchor, datetime.now(UTC)))
    except ConfigError:
        return ""


def difference(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[str]:
    """Return the lines that differ, with a few around them, each with a sign in front: "+", "-" or a space."""
    old = json.dumps(before, indent=2).splitlines() if before is not None else []
    lines = difflib.unified_diff(old, json.dumps(after, indent=2).splitlines(), lineterm="", n=3)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def _checked(name: str, value: str) -> str:
    """Return a value of `--match`, which a session tag must be able to have."""
    problem = ""
    if not value:
        problem = "is empty, which says nothing about a certificate"
    elif len(value) > MAX_LENGTH:
        problem = f"has {len(value)} characters, and a session tag has {MAX_LENGTH} at most"
    elif bad := bad_characters(value.replace("*", "").replace("?", "")):
        problem = f"is {value!r}, and a session tag can't have {' '.join(map(repr, bad))}"
    if problem:
        raise UsageError(f"{name} of --match {problem}", "Use letters, digits, spaces and _.:/=+-@; * and ? match any")
    return value


def _names_hint(name: str) -> str:
    known = [tag.removeprefix("x509Subject/").removeprefix("x509") for tag in TAGS]
    return suggestion(name, known, "Use names such as CN, OU, Issuer/CN, SAN/DNS, SAN/URI or SAN/Name/CN")


def _statements(policy: Mapping[str, Any]) -> list[Any]:
    found = policy.get("Statement", [])
    return list(found) if isinstance(found, list) else [found]


def _has(statements: Sequence[Any], statement: Mapping[str, Any]) -> bool:
    meaning = _meaning(statement)
    return any(_meaning(each) == meaning for each in statements)


def _allows(policy: Mapping[str, Any], tags: Mapping[str, Sequence[str]], trust_anchor: str) -> bool:
    values = [value for values in tags.values() for value in values]
    # With wildcards or several values, one request says nothing about the others.
    if len(values) > len(tags) or any(map(writing.has_wildcard, values)):
        return False
    now = datetime.now(UTC)
    others = dict.fromkeys(TAGS, "any")
    requests = (_request(tags, trust_anchor, now), _request(tags, trust_anchor, now + _MUCH_LATER, others))
    try:
        return not any(_refusal(policy, each) for each in requests)
    except ConfigError:
        return False


def _refusal(policy: Mapping[str, Any], request: Context) -> str:
    """Return why a policy refuses a request under either reading of its keys, or an empty string if it does not."""
    judge = TrustPolicy(policy)
    return judge.refusal(request) or judge.refusal(request, every_key=True)


def _request(
    tags: Mapping[str, Sequence[str]], trust_anchor: str, now: datetime, others: Mapping[str, str] | None = None
) -> Context:
    """Return a request by a certificate with these names, and with others that the user did not name."""
    return request_context(
        trust_anchor=trust_anchor,
        tags={**(others or {}), **{name: values[0] for name, values in tags.items()}},
        session_name="1" if others else "0",
        source_identity="CN=" + next(iter(tags.get("x509Subject/CN", ())), "any" if others else ""),
        now=now,
    )


def _sid(others: Sequence[Any]) -> str:
    """Return an ID that says who wrote a statement, and that no other statement has."""
    used = [each.get("Sid") for each in others if isinstance(each, Mapping)]
    return next(sid for number in range(1, len(used) + 2) if (sid := f"Hwsigner{number}") not in used)


def _meaning(statement: object) -> object:
    """Return a statement without its Sid, in a form in which a list of one is its item, and order does not count."""
    if isinstance(statement, Mapping):
        return frozenset((key, _meaning(value)) for key, value in statement.items() if key != "Sid")
    if isinstance(statement, list):
        items = frozenset(map(_meaning, statement))
        return next(iter(items)) if len(items) == 1 else items
    return statement
