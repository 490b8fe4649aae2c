"""Chips that a registrar's policy still lets renew, for the commands that revoke certificates."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hwsigner._cli.registrar import POLICY_FILE
from hwsigner._identity.certificate import Certificate
from hwsigner.enrolment.registrar.policy import read_policy
from hwsigner.errors import ConfigError


def renewals(given: str | None, certificates: Sequence[Certificate]) -> list[str]:
    """Return what to know about chips that could still get a new certificate from a registrar: sentences.

    `given` is the path of its policy; None for the usual one, which may be on another machine.
    """
    path = given or POLICY_FILE
    if not certificates or not (given or os.path.exists(path)):
        hint = "run hwsigner registrar remove NAME on the registrar's machine"
        return [f"If a registrar issued it, its chip can still get a new one: {hint}"]
    try:
        policy = read_policy(path)
    except ConfigError as error:
        return [f"Whether a chip can still get a new one is not known: {error}"]
    flag = "" if path == POLICY_FILE else f" --policy {path}"
    found = [machine for one in certificates for machine in policy.with_subject(one.x509.subject)]
    return [
        f"The chip {one.chip} can still get a new one: run hwsigner registrar remove {one.name}{flag}" for one in found
    ] or [f"{path} has no chip with this subject. If the CA writes others, look with hwsigner registrar list{flag}"]
