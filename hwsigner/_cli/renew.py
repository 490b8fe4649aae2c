"""`hwsigner renew`: another certificate for a profile, in place only once the service accepts it."""

from __future__ import annotations

import json

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome, print_rows, prompts
from hwsigner._config.flags import OUTPUT, Flag, switch
from hwsigner.enrolment.renewal import Renewed, renew

HELP = "renew the certificate of a profile"

_FLAGS = (
    Flag("new-key", "make this key, and have the certificate issued for it instead of the old one", "KEY-URI"),
    switch("if-due", "for timers: do nothing if it is too early, or too soon after a failure"),
)


def add_arguments(parser: Parser) -> None:
    """Add the profile's name and the flags."""
    parser.add_argument("name", metavar="NAME", help="name of the profile")
    parser.add_flags(_FLAGS, OUTPUT)


def run(arguments: Arguments) -> int:
    """Renew the certificate, or do nothing if it is too early, and print what there is then."""
    renewed = renew(arguments.name, if_due=arguments.if_due, new_key=arguments.new_key, prompts=prompts)
    if renewed:
        _print(arguments, renewed)
    elif arguments.json:
        print(json.dumps({"renewed": False, "profile": arguments.name}, indent=2))
    return 0


def _print(arguments: Arguments, renewed: Renewed) -> None:
    name, leaf, end = arguments.name, renewed.leaf, renewed.leaf.x509.not_valid_after_utc
    if arguments.json:
        about = {"subject": leaf.subject, "notAfter": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
        data = {
            "renewed": True,
            "profile": name,
            "file": renewed.file,
            **about,
            "oldKey": renewed.old_key,
            "timer": renewed.timer or None,
        }
        print_outcome(f"{name} is renewed", json.dumps(data, indent=2))
        return
    rows = [
        ("Renewed", f"{leaf.subject}, expires {end:%Y-%m-%dT%H:%MZ}"),
        ("Profile", f"{renewed.file}: [profile.{name}]"),
    ]
    if renewed.timer:
        rows.append(("Timer", renewed.timer))
    if renewed.old_key:
        rows.append(("Old key", f"{renewed.old_key} is no longer used: hwsigner delete deletes it"))
    print_rows(f"{name} is renewed", rows)
