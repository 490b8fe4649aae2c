"""`--match`: which names of a certificate a trust policy compares, and with what.

- `CN,OU`: with the values that the certificates have.
- `CN=bamboo-*,OU=devops`: with these values; `*` and `?` are wildcards.
- `CN=bamboo-01,CN=bamboo-02`: with one of these values.
- `CN,Issuer/CN,SAN/DNS`: names of the issuer and of the subjectAltName, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hwsigner.config.flags import Flag
from hwsigner.errors import CertificateError, HwsignerWarning, UsageError, suggestion
from hwsigner.findings.policies import SOURCE_ARN_NONE
from hwsigner.identity.certificate import Certificate
from hwsigner.identity.session_tags import MAX_LENGTH, TAGS, bad_characters, comparable_value, session_tags
from hwsigner.trust_policy import TrustPolicy
from hwsigner.trust_policy.openness import ANY_ANCHOR, request_by
from hwsigner.trust_policy.review import review
from hwsigner.trust_policy.writing import SIZE_LIMIT, check_size, in_words, literal, write_trust_policy

_DEFAULT = "CN"
MATCH = (
    Flag(
        *("match", "names to compare: CN,OU, CN=bamboo-*,OU=devops, Issuer/CN or SAN/DNS", "NAME[=VALUE],…"),
        default=_DEFAULT,
    ),
)
# The short forms, by the tag in lower case: "cn" and "subject/cn" for x509Subject/CN.
_SHORT = {
    **{tag.removeprefix("x509Subject/").lower(): tag for tag in TAGS},
    **{tag.removeprefix("x509").lower(): tag for tag in TAGS},
    **{tag.lower(): tag for tag in TAGS},
}


def wanted_tags(match: str | None, certificates: Sequence[Certificate]) -> dict[str, list[str]]:
    """Return the tags that a trust policy compares, each with its values in the policy's syntax.

    Args:
        match: the value of `--match`; CN if it is None.
        certificates: what gives the values of names without one.

    Raises:
        UsageError: `match` is malformed, or has a name without a value and there are no certificates.
        CertificateError: a certificate lacks a name, or has one that can't be compared.
    """
    tags: dict[str, list[str]] = {}
    for part in (match or _DEFAULT).split(","):
        name, equals, value = part.strip().partition("=")
        tag = _SHORT.get(name.strip().lower())
        if tag is None:
            raise UsageError(f"--match has {name!r}, which is not a name of a certificate", _names_hint(name))
        if equals:
            values = [_checked(name, value)]
        elif certificates:
            values = [literal(comparable_value(each, tag)) for each in certificates]
        else:
            problem = (
                f"--match is {match or _DEFAULT}: {name} has no value, and there is no certificate to take it from"
            )
            raise UsageError(problem, f"Write --match {name}=VALUE, or give a certificate")
        tags[tag] = list(dict.fromkeys([*tags.get(tag, []), *values]))
    return tags


def matching_policy(
    tags: Mapping[str, Sequence[str]], certificates: Sequence[Certificate], trust_anchor: str | None
) -> dict[str, Any]:
    """Return the trust policy that requires these tags, and check that it lets in the certificates.

    Args:
        tags: as `wanted_tags` returns them.
        certificates: those that must be let in.
        trust_anchor: the trust anchor's ARN, or None for any.

    Raises:
        CertificateError: it would refuse one.
        UsageError: the policy is too large.

    Warns:
        HwsignerWarning: the policy is larger than IAM's usual limit, or lets in more than it names.
    """
    policy = write_trust_policy(tags, trust_anchor=trust_anchor)
    check_size(policy)
    for each in certificates:
        if reason := TrustPolicy(policy).refusal(request_by(trust_anchor or ANY_ANCHOR, session_tags(each))):
            raise CertificateError(f"{each.source} would be refused: {reason}", "Leave it out, or change --match")
    for found in review(policy, trust_anchor=trust_anchor or "", size_limit=SIZE_LIMIT):
        if found.mistake is not SOURCE_ARN_NONE:  # The caller knows.
            warnings.warn(HwsignerWarning(f"{found.found}. {found.why}", found.fix), stacklevel=2)
    return policy


def what_it_lets_in(tags: Mapping[str, Sequence[str]], trust_anchor: str | None) -> Iterator[str]:
    """Yield sentences that say which certificates a policy of these tags lets in."""
    where = "the trust anchor" if trust_anchor else "any trust anchor of the account"
    yield f"lets in every certificate of {where} with {in_words(tags)}"
    issuer = "" if any(tag.startswith("x509Issuer/") for tag in tags) else ", and come from any CA below the anchor"
    yield f"compares only these names: a certificate may differ in all others, and in its key{issuer}"
    if any(value.endswith("*") or value.startswith("*") for values in tags.values() for value in values):
        yield "also fits names with several values, which AWS joins with slashes, such as one that fits and any other"
    if sum(len(values) > 1 for values in tags.values()) > 1:
        yield "does not pair the values: a certificate may have one of each, in any combination"


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
