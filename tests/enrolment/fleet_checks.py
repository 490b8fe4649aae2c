"""What must be true of a fleet, whatever was killed when. Judged by OpenSSL, the CA's own log and the service."""

from __future__ import annotations

import base64
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from enrolment.fleet_machine import Machine, public_key
from enrolment.fleets import Fleet, chip, sha256


def check_machine(fleet: Fleet, machine: Machine) -> None:
    """Check that a machine has one key and one certificate in use, which fit, and gets credentials by them."""
    profile = machine.profile()
    leaves = [one for one in machine.certificates() if one.subject.rfc4514_string() == machine.subject]
    assert len(leaves) == 1, (machine.name, leaves)
    key = profile["private-key"].removeprefix("tpm2:path=").partition("?")[0]
    assert machine.public_keys()[key] == public_key(leaves[0]), f"the pair of {machine.name} does not fit"
    fleet.emulator.requests.clear()
    assert machine.credentials()["AccessKeyId"].startswith("ASIA")
    sent = dict(fleet.emulator.requests[-1].headers)["X-Amz-X509"]
    assert base64.b64decode(sent) == leaves[0].public_bytes(Encoding.DER)


def check_files(machine: Machine, *names: str) -> None:
    """Check that a machine has these files with keys and certificates, and nothing that was not finished."""
    files = {path for path in machine.home.rglob("*") if path.is_file()}
    assert {path.name for path in files if path.parent == machine.keys and path.name[0] != "."} == set(names)
    unfinished = sorted(str(path) for path in files if path.name.endswith(".hwsigner-new"))
    assert not unfinished, unfinished


def check_issued(fleet: Fleet) -> None:
    """Check that the CA has issued nothing but what the policy allows and a registrar's log shows as proven."""
    chips = {machine.name: chip(machine) for machine in fleet.machines}
    keys = {machine.subject: {sha256(one) for one in machine.public_keys().values()} for machine in fleet.machines}
    proven = {line["request"]: line for line in fleet.audit() if line["decision"] == "proven"}
    for facts in fleet.issued():
        line = proven[facts["request"]]
        assert line["chip"] == chips[line["machine"]]
        assert line["subject"] == facts["subject"]
        assert facts["key"] in keys[facts["subject"]], f"a key that is not of {facts['subject']}"


def check_stranger(fleet: Fleet) -> None:
    """Check that a TPM that the policy does not name gets no certificate, for its own name or another one's."""
    before, victim = len(fleet.issued()), fleet.machines[-1]
    for subject, dns in ((victim.subject, victim.dns), (fleet.stranger.subject, fleet.stranger.dns)):
        status, _, err = fleet.stranger.run(*fleet.enrol(fleet.stranger, subject=subject, dns=dns))
        assert (status, "the registrar refused" in err) == (5, True), err
    assert len(fleet.issued()) == before
    assert not list(Path(fleet.stranger.keys).glob("*.crt"))


def check_taken_out(fleet: Fleet) -> None:
    """Take the first machine out of the policy, and check that it keeps what it has, and the others are renewed."""
    out, *others = fleet.machines
    fleet.take_out(out)
    old = out.certificates()
    status, _, err = out.run("renew", "web")
    assert (status, "the registrar's policy does not give this chip" in err) == (5, True), err
    assert out.certificates() == old
    check_machine(fleet, out)
    for machine in others:
        assert machine.run("renew", "web")[0] == 0
        check_machine(fleet, machine)
