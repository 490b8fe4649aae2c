"""Mistakes of the role's trust policy and of what is in AWS, as `hwsigner aws check` names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from hwsigner._aws.apis import ServiceClients
from hwsigner._aws.region import check_arns, parse_arn
from hwsigner._config import settings
from hwsigner._control_plane.facts import read_facts
from hwsigner._control_plane.report import compared_values, report, report_policy
from hwsigner._http.address import check_protected, read_url
from hwsigner._identity.certificate import Certificate, Chain, build_chain
from hwsigner._identity.session_tags import alternative_names, other_names
from hwsigner.errors import CertificateError, HwsignerError, UsageError
from hwsigner.findings import Finding, local

if TYPE_CHECKING:
    from hwsigner.doctor.profile_checks import ProfileState


def check_policy(state: ProfileState | None, document: bytes) -> Iterator[Finding]:
    """Yield what is open or wrong in a trust policy.

    The certificate and trust anchor of the state, a profile's, should be let in. The document may be anything that a
    file has.
    """
    anchor, name, now = "", None, datetime.now(UTC)
    if state:
        anchor, name = _anchor(state), state.settings.role_session_name
    yield from report_policy(document, _chain(state), now, trust_anchor=anchor, session_name=name).findings
    if state and state.leaf:
        yield from _check_names(compared_values(document), state.leaf)


def check_account(state: ProfileState, aws_profile: str | None, endpoint: str | None) -> Iterator[Finding]:
    """Yield what is wrong between a profile and what AWS has. Only read-only calls are made."""
    values, chain = state.settings, _chain(state)
    try:
        region = check_arns(values.trust_anchor_arn, values.profile_arn, role=values.role_arn, region=None)
        request = settings.session_request(values)
        if endpoint:
            check_protected("--endpoint", read_url("--endpoint", endpoint))
        clients = ServiceClients(region, profile=aws_profile, endpoint=endpoint)
        facts = read_facts(clients, request, [chain.leaf.subject] if chain else [])
        yield from report(facts, request, chain, datetime.now(UTC), others=state.certificates).findings
    except HwsignerError as error:
        yield local.AWS_NOT_ASKED.found_by(error)


def _anchor(state: ProfileState) -> str:
    """Return the profile's trust anchor, or an empty string if its ARN is invalid, which is a finding of its own."""
    anchor = state.settings.trust_anchor_arn or ""
    try:
        parse_arn(anchor, "--trust-anchor-arn")
    except UsageError:
        return ""
    return anchor


def _chain(state: ProfileState | None) -> Chain | None:
    if state is None or state.leaf is None:
        return None
    try:
        return build_chain(state.leaf, state.certificates)[0]
    except CertificateError:  # It is too long, which is a finding of its own.
        return Chain(state.leaf)


def _check_names(conditions: Iterable[tuple[str, str]], leaf: Certificate) -> Iterator[Finding]:
    """Yield the conditions on names of the subjectAltName that become no session tag."""
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
