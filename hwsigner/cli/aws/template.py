"""`hwsigner aws template cloudformation|terraform`: trust anchor, role and profile as a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwsigner.cli.aws import cloudformation, terraform
from hwsigner.cli.aws.certificates import CERTIFICATE, read_leaf, warn_of_refused, warn_of_untaggable
from hwsigner.cli.aws.matching import MATCH, matching_policy, wanted_tags, what_it_lets_in
from hwsigner.cli.aws.wanted import CA_AND_ROLE, NAME, read_ca
from hwsigner.cli.parser import Arguments, Parser
from hwsigner.cli.process import report
from hwsigner.config.flags import KEY, Flag, session_duration
from hwsigner.control_plane.wanted import DEFAULT_DURATION, Wanted
from hwsigner.errors import UsageError, suggestion

HELP = "print a template for CloudFormation or Terraform"

_FORMATS = {"cloudformation": cloudformation.template, "terraform": terraform.template}
_DURATION = Flag(
    "duration", "longest session of the profile, 900 to 43200", "SECONDS", session_duration, DEFAULT_DURATION
)
# As long as any trust anchor's ARN. The template refers to the ARN of its own.
_PLACEHOLDER = (
    "arn:aws-us-gov:rolesanywhere:us-gov-west-1:000000000000:trust-anchor/00000000-0000-4000-8000-000000000000"
)


def add_arguments(parser: Parser) -> None:
    """Add the format, the certificates, and the flags."""
    parser.add_argument("format", metavar="|".join(_FORMATS), help="whose template to print")
    parser.add_argument("certificates", metavar="CERTIFICATE", nargs="*", help=CERTIFICATE)
    parser.add_flags(CA_AND_ROLE, MATCH, (NAME, _DURATION), KEY)


def run(arguments: Arguments) -> int:
    """Print the template, and on stderr which certificates may assume the role."""
    if arguments.format not in _FORMATS:
        hint = suggestion(arguments.format, _FORMATS, f"Write one of {', '.join(_FORMATS)}")
        raise UsageError(f"there is no template for {arguments.format[:40]!r}", hint)
    cas = read_ca(arguments)
    certificates = [read_leaf(arguments.settings, text) for text in arguments.certificates]
    tags = wanted_tags(arguments.match, certificates)
    _check_characters(tags)
    wanted = Wanted(arguments.name or arguments.role, arguments.role, cas, tags, arguments.duration)
    policy = matching_policy(tags, certificates, _PLACEHOLDER)
    for each in certificates:
        warn_of_refused(each)
        warn_of_untaggable(each)
    print(_FORMATS[arguments.format](wanted, policy))
    for sentence in what_it_lets_in(tags, _PLACEHOLDER):
        report(f"this role {sentence}")
    report(f"the role {wanted.role} has no permissions yet: attach policies to it")
    return 0


def _check_characters(tags: Mapping[str, Sequence[str]]) -> None:
    """Check that IAM accepts the values as they are: a template can't escape them in the policy's JSON."""
    for tag, values in tags.items():
        for character in "".join(values):
            if character > "\xff":
                problem = f"{tag} has {character!r}, and a policy of IAM has no characters above U+00FF"
                raise UsageError(problem, "Compare another name, or write ? for this character in --match")
