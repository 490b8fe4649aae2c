"""`hwsigner aws check`: whether a certificate may assume a role, who else may, and what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from hwsigner._aws.region import check_arns, parse_arn
from hwsigner._cli.aws.arguments import AWS, service_clients
from hwsigner._cli.colours import GREEN, RED, YELLOW, coloured, indented
from hwsigner._cli.documents import read_bytes
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.pods_check import policy_beside_config, session_names
from hwsigner._config import settings
from hwsigner._config.flags import ARNS, IDENTITY, OUTPUT, PROFILE, SESSION, Flag
from hwsigner._control_plane.facts import read_facts
from hwsigner._control_plane.report import Report, report, report_policy
from hwsigner._identity.certificate import Certificate, Chain, build_chain, latest_expiring, leaves, load
from hwsigner._uri import KeyURI
from hwsigner.errors import CertificateError
from hwsigner.key import find_certificates

HELP = "check the AWS side of a profile: what is wrong or open"

_FOUND = 1  # The exit status if there are findings.
_FLAGS = (
    Flag("pods", "policy of serve --pods, for session names (default: pods.toml in the folder of config.toml)", "FILE"),
    Flag("policy", "file with a trust policy to check, without AWS", "FILE"),
    *OUTPUT,
)
_OF_SESSION = (*ARNS, "session-duration", "role-session-name")


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(PROFILE, _FLAGS, AWS, [flag for flag in SESSION if flag.name in _OF_SESSION], IDENTITY)


def run(arguments: Arguments) -> int:
    """Print the report. The status is 1 if anything is wrong, open or unclear."""
    if not arguments.settings.role_session_name:
        names = session_names(arguments.pods or policy_beside_config())
        arguments.settings.role_session_name = names.get(arguments.profile or arguments.config_profile or "")
    chain, certificates = _chain(arguments)
    found = _of_policy(arguments, chain) if arguments.policy else _of_account(arguments, chain, certificates)
    print(json.dumps(_data(found), indent=2) if arguments.json else "\n".join(_lines(found)))
    return _FOUND if found.findings else 0


def _data(report: Report) -> dict[str, Any]:
    findings = [
        {"id": each.id, "level": each.level, "found": each.found, "why": each.why, "instead": each.fix}
        for each in report.findings
    ]
    return {"facts": report.facts, "decisions": [asdict(each) for each in report.decisions], "findings": findings}


def _of_policy(arguments: Arguments, chain: Chain | None) -> Report:
    """Review the trust policy in the file of --policy. AWS is not called."""
    anchor = arguments.settings.trust_anchor_arn or ""
    if anchor:
        parse_arn(anchor, "--trust-anchor-arn")
    document = read_bytes(arguments.policy)
    name = arguments.settings.role_session_name
    return report_policy(document, chain, datetime.now(UTC), trust_anchor=anchor, session_name=name)


def _of_account(arguments: Arguments, chain: Chain | None, certificates: Sequence[Certificate]) -> Report:
    """Compare the certificate with what AWS has, by read-only calls."""
    anchor = arguments.settings.trust_anchor_arn
    settings.check_is_given(arguments.settings, os.environ)
    region = check_arns(
        anchor, arguments.settings.profile_arn, role=arguments.settings.role_arn, region=arguments.settings.region
    )
    request = settings.session_request(arguments.settings)
    facts = read_facts(service_clients(arguments, region=region), request, [chain.leaf.subject] if chain else [])
    return report(facts, request, chain, datetime.now(UTC), others=certificates)


def _chain(arguments: Arguments) -> tuple[Chain | None, list[Certificate]]:
    """Return the certificate with its intermediates, or None if none is named, and all certificates. Open no key."""
    if not arguments.settings.certificate and not arguments.settings.cert_selector:
        return None, []
    source = settings.identity_source(arguments.settings, check=False)
    uri = KeyURI.of(source.certificate)
    found = load(find_certificates(uri, settings.pin_source(arguments.settings, uri), allow_modules=True))
    extra = load(find_certificates(source.intermediates, allow_modules=True)) if source.intermediates else []
    leaf = latest_expiring([each for each in found if each.der == source.selected] or leaves(found))
    try:
        chain, _ = build_chain(leaf, [*found, *extra])
    except CertificateError:  # It is too long, which is a finding.
        chain, _ = build_chain(leaf, [*found, *extra], most=len(found) + len(extra))
    return chain, [*found, *extra]


def _lines(report: Report) -> Iterator[str]:
    """Yield the report for people, 80 columns wide where names allow it."""
    for title, sentences in report.facts.items():
        yield title[:1].upper() + title[1:]
        for sentence in sentences:
            yield indented(sentence)
        if title == "certificate":
            yield from map(indented, _decided(report))
    number = len(report.findings)
    yield f"{number} finding{'s' if number > 1 else ''}" if number else coloured("Nothing is wrong", GREEN)
    for finding in report.findings:
        yield ""
        yield coloured(f"{finding.level}: {finding.id}", YELLOW if finding.level == "unclear" else RED)
        yield indented(finding.found)
        yield indented(f"Why: {finding.why}")
        yield indented(f"Instead: {finding.fix}")


def _decided(report: Report) -> Iterator[str]:
    """Yield which actions are allowed, and by what. Why the others are refused is among the findings."""
    reasons = dict.fromkeys(each.reason for each in report.decisions if each.allowed)
    for reason in reasons:
        actions = ", ".join(each.action for each in report.decisions if each.allowed and each.reason == reason)
        yield f"may do {actions}: {reason}"
    refused = ", ".join(each.action for each in report.decisions if not each.allowed)
    if refused:
        yield f"may not do {refused}: see role-refuses"
