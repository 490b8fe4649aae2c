"""`hwsigner registrar allow`: add a machine to the policy."""

from __future__ import annotations

import json
import os
import re

from hwsigner import attestation
from hwsigner._cli.documents import read_bytes, read_endorsement_key, read_trust
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome
from hwsigner._cli.registrar import POLICY
from hwsigner._config.flags import OUTPUT, Flag, switch
from hwsigner._identity.certificate_request import check_names, parse_name
from hwsigner.enrolment.registrar.policy import HASH, PCR, PUBLIC_KEY, TPM, YUBIKEY, Machine, add_machine
from hwsigner.errors import AttestationError, UsageError

HELP = "add a chip, and the names it may have, to the policy"


def _pcr(given: str) -> str:
    """Return a value of --pcrs as the policy has it; `keygen --pcrs` names the bank too."""
    value = given.lower().removeprefix("sha256:")
    if not PCR.fullmatch(value):
        problem = f"--pcrs is {given[:80]!r}, which is not a PCR and its value"
        raise UsageError(problem, "Write --pcrs 7=HEX: a PCR from 0 to 23, and the 64 digits of its value in sha256")
    return value


_FLAGS = (
    POLICY,
    Flag("subject", "subject for its certificates, such as CN=web-01,OU=web", "NAME"),
    Flag("dns", "DNS name for its certificates; repeatable", "NAME", many=True),
    Flag("uri", "URI for its certificates; repeatable", "URI", many=True),
    Flag("name", "name of the machine in the policy (default: the CN of the subject)", "NAME"),
    Flag("ek-public-key", "endorsement key of a TPM that you certify in its vendor's place; - for stdin", "FILE"),
    Flag("pcrs", "TPM: a PCR of the bank sha256 and the value it must have; repeatable", "N=HEX", _pcr, many=True),
    Flag("roots", "for a statement: folder of the chip vendors' certificates", "DIR"),
    switch("replace", "replace the machine of this name, such as after its mainboard was swapped"),
)
_DIGITS = re.compile("[0-9A-Fa-f]+")
_HINT = "Give the 64 digits of hwsigner attest --ek, a file with them, or a statement"


def add_arguments(parser: Parser) -> None:
    """Add the chip and the flags."""
    parser.add_argument(
        "statement",
        metavar="STATEMENT",
        nargs="?",
        help="output of hwsigner attest --ek on the machine: a file, or the 64 digits; or a file with a statement",
    )
    parser.add_flags(_FLAGS, OUTPUT)


def run(arguments: Arguments) -> int:
    """Add the machine and print its chip."""
    if not arguments.settings.subject:
        raise UsageError("no subject was given", "Add --subject CN=web-01,OU=web")
    subject, dns, uris = arguments.settings.subject, arguments.settings.dns, arguments.settings.uri
    check_names(subject, dns_names=dns, uris=uris)
    if arguments.statement and arguments.ek_public_key:
        problem = "--ek-public-key can't be combined with a chip or STATEMENT"
        raise UsageError(problem, "Leave that out: the key says which chip it is")
    if not arguments.statement and not arguments.ek_public_key:
        raise UsageError("one of STATEMENT and --ek-public-key is needed", _HINT)
    ek = PUBLIC_KEY if arguments.ek_public_key else ""
    kind, chip, root = (TPM, read_endorsement_key(arguments.ek_public_key), "") if ek else _chip(arguments)
    name = arguments.name or _common_name(subject)
    machine = Machine(name, kind, chip, root, subject, tuple(dns), tuple(uris), ek, tuple(arguments.pcrs))
    changed = add_machine(arguments.policy, machine, replace=arguments.replace)
    done = "added to" if changed else "is in"
    certified = ", whose endorsement key you certify" if ek else ""
    text = f"{machine.name} {done} {arguments.policy} with the chip {chip}{certified}"
    if arguments.json:
        data = {"name": machine.name, "chip": chip, "policy": arguments.policy, "changed": changed}
        text = json.dumps({**data, "ek": ek or None, "pcrs": arguments.pcrs}, indent=2)
    print_outcome("the policy was changed", text)
    return 0


def _chip(arguments: Arguments) -> tuple[str, str, str]:
    """Return the format of a chip's statements, the chip, and the SHA-256 of its root if it is a YubiKey's."""
    given = arguments.statement
    if HASH.fullmatch(given.lower()):
        return TPM, given.lower(), ""
    if _DIGITS.fullmatch(given) and not os.path.exists(given):
        raise UsageError(f"{given[:70]} has {len(given)} digits, and the hash of an endorsement key has 64", _HINT)
    data = read_bytes(given)
    text = data.decode("ascii", "replace").strip()
    if HASH.fullmatch(text):
        return TPM, text, ""
    if not text.startswith("{"):
        raise UsageError(f"{given} has neither the hash of an endorsement key nor a statement", _HINT)
    if not arguments.roots:
        raise UsageError("a statement counts only under the vendor's roots", "Add --roots DIR")
    statement = attestation.read(data, "statement")
    found = attestation.examine(statement, read_trust(arguments.roots))
    if statement.format not in (TPM, YUBIKEY):
        raise AttestationError("nothing proves where the statement's key is", "Use a key in a TPM or a YubiKey")
    return statement.format, found.chip, found.roots[0] if statement.format == YUBIKEY else ""


def _common_name(subject: str) -> str:
    for attribute in parse_name(subject):
        if attribute.rfc4514_attribute_name == "CN":
            return str(attribute.value)
    raise UsageError("the subject has no CN to name the machine by", "Add --name NAME")
