"""`hwsigner registrar remove`: remove a machine from the policy."""

from __future__ import annotations

import json

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome
from hwsigner._cli.registrar import POLICY
from hwsigner._config.flags import OUTPUT
from hwsigner.enrolment.registrar.policy import remove_machine

HELP = "remove a machine: its chip gets no certificates"


def add_arguments(parser: Parser) -> None:
    """Add the machine's name and the flags."""
    parser.add_argument("name", metavar="NAME", help="name of the machine in the policy")
    parser.add_flags((POLICY,), OUTPUT)


def run(arguments: Arguments) -> int:
    """Remove the machine and print its chip."""
    machine = remove_machine(arguments.policy, arguments.name)
    text = (
        f"{machine.name} removed from {arguments.policy}, with the chip {machine.chip}. Its certificate stays valid"
        " until it expires, or until hwsigner aws revoke revokes it"
    )
    if arguments.json:
        text = json.dumps({"name": machine.name, "policy": arguments.policy, **machine.values()}, indent=2)
    print_outcome("the policy was changed", text)
    return 0
