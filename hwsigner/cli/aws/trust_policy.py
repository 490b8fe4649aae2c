"""`hwsigner aws trust-policy CERTIFICATE…`: a role's trust policy for certificates."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Sequence

from hwsigner.aws.region import parse_canonical_arn
from hwsigner.cli.aws.certificates import CERTIFICATE, read_leaf, warn_of_refused, warn_of_untaggable
from hwsigner.cli.aws.matching import MATCH, matching_policy, wanted_tags, what_it_lets_in
from hwsigner.cli.parser import Arguments, Parser
from hwsigner.cli.process import report
from hwsigner.config.flags import KEY, Flag
from hwsigner.errors import HwsignerWarning
from hwsigner.identity.certificate import Certificate
from hwsigner.identity.session_tags import session_tags

HELP = "print a role's trust policy for certificates"

_TRUST_ANCHOR = (Flag("trust-anchor-arn", "the only trust anchor that the policy lets in", "ARN"),)


def add_arguments(parser: Parser) -> None:
    """Add the certificates, and the flags that find and compare them."""
    parser.add_argument("certificates", metavar="CERTIFICATE", nargs="*", help=CERTIFICATE)
    parser.add_flags(MATCH, _TRUST_ANCHOR, KEY)


def run(arguments: Arguments) -> int:
    """Print the policy, and on stderr which certificates it lets in."""
    anchor = arguments.settings.trust_anchor_arn
    if anchor is not None:
        parse_canonical_arn(anchor, "--trust-anchor-arn")
    certificates = [read_leaf(arguments.settings, text) for text in arguments.certificates]
    tags = wanted_tags(arguments.match, certificates)
    policy = matching_policy(tags, certificates, anchor)
    for each in certificates:
        warn_of_refused(each)
        warn_of_untaggable(each)
    if anchor is None:
        problem = "any trust anchor of the account can reach this role, whatever CA it trusts"
        hint = "Give --trust-anchor-arn; a condition on aws:SourceAccount alone would not name one"
        warnings.warn(HwsignerWarning(problem, hint), stacklevel=1)
    print(json.dumps(policy, indent=2))
    for sentence in what_it_lets_in(tags, anchor):
        report(f"this policy {sentence}")
    if shared := _also_shared(certificates, tags):
        report(f"the certificates also share {', '.join(shared)}; --match can compare these, too")
    return 0


def _also_shared(certificates: Sequence[Certificate], tags: Collection[str]) -> list[str]:
    """Return the tags that several certificates share and that are not compared yet, with their values."""
    if len(certificates) < 2:
        return []
    first, *others = (session_tags(each) for each in certificates)
    shared = {tag: value for tag, value in first.items() if all(other.get(tag) == value for other in others)}
    return [f"{tag} {value!r}" for tag, value in shared.items() if tag not in tags]
