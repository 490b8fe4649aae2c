"""`hwsigner aws trust-policy CERTIFICATE…`: a role's trust policy for certificates."""

from __future__ import annotations

import json
import warnings

from hwsigner._aws.region import parse_canonical_arn
from hwsigner._cli.aws.arguments import CERTIFICATE, MATCH, read_leaf, warn_of_leaves
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import report
from hwsigner._config.flags import KEY, Flag
from hwsigner._control_plane.policies import also_shared, checked_policy, compared_tags, what_it_lets_in
from hwsigner.errors import HwsignerWarning

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
    tags = compared_tags(arguments.match, certificates)
    policy = checked_policy(tags, certificates, anchor)
    warn_of_leaves(certificates)
    if anchor is None:
        problem = "any trust anchor of the account can reach this role, whatever CA it trusts"
        hint = "Give --trust-anchor-arn; a condition on aws:SourceAccount alone would not name one"
        warnings.warn(HwsignerWarning(problem, hint), stacklevel=1)
    print(json.dumps(policy, indent=2))
    for sentence in what_it_lets_in(tags, anchor):
        report(f"this policy {sentence}")
    if shared := also_shared(certificates, tags):
        report(f"the certificates also share {', '.join(shared)}; --match can compare these, too")
    return 0
