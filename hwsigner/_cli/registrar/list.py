"""`hwsigner registrar list`: the machines of the policy."""

from __future__ import annotations

import json

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import report
from hwsigner._cli.registrar import POLICY
from hwsigner._config.flags import OUTPUT
from hwsigner.enrolment.registrar.policy import TPM, read_policy
from hwsigner.errors import printable

HELP = "list the machines, with chips and names"


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags((POLICY,), OUTPUT)


def run(arguments: Arguments) -> int:
    """Print a line for each machine, in the order of the policy."""
    machines = read_policy(arguments.policy).machines.values()
    if not machines:
        report(f"{printable(arguments.policy)} has no machine")
    if arguments.json:
        print(json.dumps({"machines": [{"name": one.name, **one.values()} for one in machines]}, indent=2))
        return 0
    width = max((len(one.name) for one in machines), default=0)
    for one in machines:
        chip = f"{'tpm' if one.format == TPM else 'yubikey'} {one.chip}"
        print(printable("  ".join([one.name.ljust(width), chip, one.subject, *one.dns, *one.uris])))
    return 0
