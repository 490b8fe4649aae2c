"""Mistakes of the role's trust policy and of what is in AWS, as `hwsigner aws check` names them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import copy
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from hwsigner.cli.aws import check as aws_check
from hwsigner.cli.documents import read_bytes
from hwsigner.cli.parser import Arguments
from hwsigner.config.settings import Settings
from hwsigner.errors import CertificateError, HwsignerError
from hwsigner.findings import Finding, local

if TYPE_CHECKING:
    from hwsigner.cli.doctor.subject import Subject
    from hwsigner.identity.certificate import Certificate, Chain


def check(subject: Subject | None, arguments: Arguments) -> Iterator[Finding]:
    """Yield the findings for a policy in a file, or for what AWS has.

    Args:
        subject: the profile; None to check the policy alone.
        arguments: the command's arguments: `policy` names the file, and the others say how to reach AWS.

    Raises:
        UsageError: the file can't be read.
    """
    settings = copy(subject.settings) if subject else Settings()
    settings.endpoint = settings.region = None
    of_profile = Arguments(**{**vars(arguments), "settings": settings})
    try:
        ask = aws_check.of_policy if arguments.policy else aws_check.of_account
        yield from ask(of_profile, _chain(subject)).findings
    except HwsignerError as error:
        if arguments.policy:
            raise
        yield local.AWS_NOT_ASKED.found_by(error)
    if arguments.policy and subject and subject.leaf:
        yield from _check_names(_conditions(read_bytes(arguments.policy)), subject.leaf)


def _chain(subject: Subject | None) -> Chain | None:
    from hwsigner.identity.certificate import Chain, build_chain

    if subject is None or subject.leaf is None:
        return None
    try:
        return build_chain(subject.leaf, subject.certificates)[0]
    except CertificateError:  # It is too long, which is a finding of its own.
        return Chain(subject.leaf)


def _conditions(document: bytes) -> list[tuple[str, str]]:
    """Return the keys and values of all conditions; nothing if the policy can't be read, which the review says."""
    try:
        statements = json.loads(document)["Statement"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    found = []
    for statement in statements if isinstance(statements, list) else [statements]:
        conditions = statement.get("Condition", {}) if isinstance(statement, Mapping) else {}
        for pairs in conditions.values() if isinstance(conditions, Mapping) else ():
            found += [(key, each) for key, value in _items(pairs) for each in _texts(value)]
    return found


def _items(pairs: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(pairs, Mapping):
        yield from pairs.items()


def _texts(value: Any) -> list[str]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def _check_names(conditions: list[tuple[str, str]], leaf: Certificate) -> Iterator[Finding]:
    """Yield the conditions on names of the subjectAltName that become no session tag."""
    from hwsigner.identity.session_tags import alternative_names, other_names

    names, others = alternative_names(leaf), other_names(leaf)
    for key, pattern in conditions:
        for tag, values in names.items():
            if key.lower().endswith(tag.lower()) and _is_second(values, pattern):
                found = f"the trust policy compares {key} with {pattern}, and the certificate has {values[0]} first"
                yield local.POLICY_SECOND_NAME.found(found)
        if pattern in others:
            yield local.POLICY_OTHER_NAME.found(f"the trust policy compares {key} with {pattern}, an otherName")


def _is_second(values: list[str], pattern: str) -> bool:
    matches = [fnmatchcase(value, pattern) for value in values]
    return any(matches) and not matches[0]
