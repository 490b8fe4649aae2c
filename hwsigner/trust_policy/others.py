"""Statements for principals other than Roles Anywhere: whether they name who may assume the role.

A statement for another account names by the external ID or the principal, one for an identity provider by a key of its
own. Services and principals of the own account are not judged: their account decides who uses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hwsigner.findings import Finding, policies
from hwsigner.trust_policy import _names_action
from hwsigner.trust_policy.reading import Statement, texts_of, values_of

_ACCOUNT = re.compile(r"(?:arn:aws[a-z-]*:iam::)?(\d{12})(?::root)?")
_OF_ACCOUNTS = (
    *("sts:externalid", "aws:principalarn", "aws:principalorgid", "aws:principalorgpaths", "aws:userid"),
    *("aws:username", "aws:sourcearn", "aws:sourceaccount"),  # The last two are not in their requests at all.
)
# By the end of the provider's name: the keys of which one must name who gets in.
_PROVIDERS = {
    "accounts.google.com": ("aud", "sub", "oaud"),
    "cognito-identity.amazonaws.com": ("aud",),
    **dict.fromkeys(("graph.facebook.com", "www.amazon.com"), ("app_id",)),
}
_EXAMPLES = {"token.actions.githubusercontent.com": "repo:ORGANIZATION/REPOSITORY:ref:refs/heads/main"}
_ANY = re.compile(r"(?:repo:|project_path:|organization:|system:serviceaccount:|[*?/:@.-])*(?:[*?].*)?")


def about_others(entry: Mapping[str, Any], statement: Statement, accounts: Sequence[str]) -> Iterator[Finding]:
    """Yield which principals of a statement get in without being named, if they are of none of the own accounts."""
    principal = entry.get("Principal") if statement.allows else None
    for kind, value in principal.items() if isinstance(principal, Mapping) else ():
        for text in texts_of(value):
            if kind == "AWS" and _has(entry, "sts:AssumeRole"):
                found = _ACCOUNT.fullmatch(text)
                if (
                    found
                    and accounts
                    and found[1] not in accounts
                    and not _named_keys(entry).intersection(_OF_ACCOUNTS)
                ):
                    yield policies.ACCOUNT_UNNAMED.found(f"{statement.name} is for account {found[1]}")
            elif kind == "Federated":
                yield from _about_provider(text, entry, statement)


def _about_provider(text: str, entry: Mapping[str, Any], statement: Statement) -> Iterator[Finding]:
    """Yield the missing condition of an identity provider."""
    host = text.partition(":oidc-provider/")[2] or text
    wanted, example = [f"{host}:{each}" for each in _PROVIDERS.get(host, ("sub",))], _EXAMPLES.get(host, "NAME")
    if is_saml := ":saml-provider/" in text:
        wanted, example = ["SAML:aud"], "https://signin.aws.amazon.com/saml"
    named = _named_keys(entry)
    claims = {each for each in named if each.startswith(f"{host.lower()}:") and not each.endswith(":aud")}
    is_named = claims or named.intersection(map(str.lower, wanted))
    if not is_named and _has(entry, f"sts:AssumeRoleWith{'SAML' if is_saml else 'WebIdentity'}"):
        yield policies.PROVIDER_UNNAMED.found(
            f"{statement.name} is for {text} and does not name {wanted[0]}",
            f'Add "StringEquals": {{"{wanted[0]}": "{example}"}}',
        )


def _has(entry: Mapping[str, Any], action: str) -> bool:
    return any(_names_action(text, action) for text in texts_of(entry.get("Action", "*")))


def _named_keys(entry: Mapping[str, Any]) -> set[str]:
    """Return the keys, in lower case, of which positive conditions name values."""
    found = set()
    conditions = entry.get("Condition")
    for operator, keys in conditions.items() if isinstance(conditions, Mapping) else ():
        is_positive = re.fullmatch(r"(?:ForAnyValue:)?(?:String|Arn)(?:Equals|Like|EqualsIgnoreCase)", operator)
        for key, wanted in keys.items() if is_positive and isinstance(keys, Mapping) else ():
            if not any(map(_ANY.fullmatch, values_of(wanted))):
                found.add(key.lower())
    return found
