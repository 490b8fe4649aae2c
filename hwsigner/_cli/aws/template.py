"""`hwsigner aws template cloudformation|terraform`: trust anchor, role and Roles Anywhere profile as a template."""

from __future__ import annotations

from hwsigner._cli.aws.arguments import (
    BOUNDARY,
    CA_AND_ROLE,
    CERTIFICATE,
    MATCH,
    NAME,
    read_ca,
    read_leaf,
    warn_of_leaves,
)
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import report
from hwsigner._config.flags import KEY, Flag, session_duration
from hwsigner._control_plane.policies import checked_policy, compared_tags, what_it_lets_in
from hwsigner._control_plane.resources import DEFAULT_DURATION, Setup
from hwsigner._control_plane.templates import TEMPLATES, check_characters
from hwsigner.errors import UsageError, suggestion

HELP = "print a template for CloudFormation or Terraform"

_LONGEST = "longest session of the Roles Anywhere profile, 900 to 43200"
_DURATION = Flag("duration", _LONGEST, "SECONDS", session_duration, DEFAULT_DURATION)
# As long as any trust anchor's ARN. The template refers to the ARN of its own.
_PLACEHOLDER = (
    "arn:aws-us-gov:rolesanywhere:us-gov-west-1:000000000000:trust-anchor/00000000-0000-4000-8000-000000000000"
)


def add_arguments(parser: Parser) -> None:
    """Add the format, the certificates, and the flags."""
    parser.add_argument("format", metavar="|".join(TEMPLATES), help="whose template to print")
    parser.add_argument("certificates", metavar="CERTIFICATE", nargs="*", help=CERTIFICATE)
    parser.add_flags(CA_AND_ROLE, MATCH, (NAME, _DURATION, BOUNDARY), KEY)


def run(arguments: Arguments) -> int:
    """Print the template, and on stderr which certificates may assume the role."""
    if arguments.format not in TEMPLATES:
        hint = suggestion(arguments.format, TEMPLATES, f"Write one of {', '.join(TEMPLATES)}")
        raise UsageError(f"there is no template for {arguments.format[:40]!r}", hint)
    cas = read_ca(arguments)
    certificates = [read_leaf(arguments.settings, text) for text in arguments.certificates]
    tags = compared_tags(arguments.match, certificates)
    check_characters(tags)
    name, boundary = arguments.name or arguments.role, arguments.permissions_boundary or ""
    setup = Setup(name, arguments.role, cas, tags, arguments.duration, boundary=boundary)
    policy = checked_policy(tags, certificates, _PLACEHOLDER)
    warn_of_leaves(certificates)
    print(TEMPLATES[arguments.format](setup, policy))
    for sentence in what_it_lets_in(tags, _PLACEHOLDER):
        report(f"this role {sentence}")
    report(f"the role {setup.role} has no permissions yet: attach policies to it")
    return 0
