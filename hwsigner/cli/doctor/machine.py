"""Mistakes of the machine: the key and its hardware, pcscd, the agent and the units. No PIN is sent."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hwsigner.cli.doctor.subject import Subject, no_pins
from hwsigner.cli.doctor.warned import warnings_into
from hwsigner.errors import HwsignerError, PinError, SigningKeyError
from hwsigner.findings import Finding, local
from hwsigner.key.listing import list_tokens
from hwsigner.key.management import describe_key
from hwsigner.system import pcsc
from hwsigner.system.files import check_no_pipe, open_trusted, read_text
from hwsigner.system.users import reading_group
from hwsigner.uri import KeyURI

if TYPE_CHECKING:
    from hwsigner.cli.status import Agents
    from hwsigner.identity.certificate import Certificate

TPM_DEVICE = "/dev/tpmrm0"
_TCTI_VARIABLES = ("TPM2_TCTI", "TPM2TOOLS_TCTI", "TPM_DEVICE")
UNIT_FOLDERS = ("/etc/systemd/system", "~/.config/systemd/user")
_SECONDS = 10


def check(subject: Subject) -> list[Finding]:
    """Return why the key can't be used, or is not the certificate's."""
    findings: list[Finding] = []
    if subject.key is None:
        return findings
    if subject.key.scheme == "pkcs11" and pcsc.is_refused():
        findings.append(local.PCSCD_REFUSES.found("polkit does not let this user use pcscd"))
    is_elsewhere = "tcti" in subject.key.query or any(subject.environ.get(name) for name in _TCTI_VARIABLES)
    group = reading_group(TPM_DEVICE) if subject.key.scheme == "tpm2" and not is_elsewhere else None
    if group:
        found = f"{TPM_DEVICE} is for the group {group}, and this user is not in it"
        return [local.TPM_GROUP.found(found, f"Run usermod -aG {group} USER, and log in again")]
    with warnings_into(findings):
        findings += [
            *_check_pin_file(subject),
            *_check_pin(subject.key, is_stored=_own_uri(subject).has_pin),
            *_check_key(subject.key, subject.leaf),
        ]
    return findings


def _own_uri(subject: Subject) -> KeyURI:
    """Return the key URI as the profile has it, with what it says of a PIN."""
    return KeyURI.parse(subject.settings.private_key or subject.settings.certificate or "")


def _check_pin_file(subject: Subject) -> Iterator[Finding]:
    """Yield why the file with the key's PIN can't be opened. Its PIN is not read."""
    source = _own_uri(subject).text("pin-source") or ""
    path = re.sub(r"^(file:)?(//(localhost)?(?=/))?", "", source)
    if not source.startswith(("file:", "/")) or (os.path.exists(path) and not os.path.isfile(path)):
        return  # A pipe is left alone.
    try:
        open_trusted(path, PinError).close()
    except OSError as error:
        yield local.PIN_UNREADABLE.found(f"can't read PIN file {path}: {error.strerror}")
    except PinError as error:
        yield local.PIN_UNREADABLE.found_by(error)


def _check_key(key: KeyURI, leaf: Certificate | None) -> Iterator[Finding]:
    try:
        if "path" in key.path:
            check_no_pipe(key.file, SigningKeyError)
        public_key = describe_key(key, no_pins(), allow_modules=True).public_key
    except PinError:
        return  # The key is hidden behind its PIN.
    except HwsignerError as error:
        yield local.KEY_UNUSABLE.found_by(error)
        return
    if public_key and leaf and public_key != leaf.public_key():
        yield local.KEY_MISMATCH.found(f"the key {key.name} is not that of certificate {leaf.source}")


def _check_pin(key: KeyURI, *, is_stored: bool) -> Iterator[Finding]:
    """Yield whether the key's token or TPM is locked, would be after one more wrong PIN, or refused a stored one."""
    if key.scheme not in ("pkcs11", "tpm2"):
        return
    tpm = {name: value for name, value in key.query.items() if name == "tcti"}
    uri = key.token if key.scheme == "pkcs11" else KeyURI("tpm2", {}, tpm)
    try:
        tokens = list(list_tokens(uri, no_pins(), allow_modules=True))
    except HwsignerError as error:
        if key.scheme == "tpm2" and "path" in key.path:  # The file has the public key, so nothing else asks the TPM.
            yield local.KEY_UNUSABLE.found_by(error)
        return
    fix = "Run tpm2_dictionarylockout --clear-lockout, or wait" if key.scheme == "tpm2" else ""
    for token in tokens:
        name = f"{token.label} ({token.manufacturer} {token.model})"
        if token.pin_state == "locked":
            yield local.PIN_LOCKED.found(f"{name} is locked after too many wrong PINs", fix)
        elif token.pin_state == "one try is left":
            yield local.PIN_NEARLY_LOCKED.found(f"{name} allows one more attempt", fix)
        elif token.pin_state == "an earlier try failed" and is_stored and key.scheme == "pkcs11":
            by_hand = f"Correct the stored PIN, then log in once: hwsigner list --login {shlex.quote(token.uri)}"
            yield local.PIN_FAILED.found(f"an earlier PIN failed at {name}", by_hand)


def check_agents(agents: Agents, names: Collection[str]) -> Iterator[Finding]:
    """Yield agents that do not answer, and those of the named profiles that an agent has no credentials for."""
    for problem in agents.problems:
        yield local.AGENT_SILENT.found(problem)
    for name, state in agents.served.items():
        of, flag = f"the {state.agent}'s agent", " --system" if state.agent == "system" else ""
        if name not in names:
            continue
        if state.state == "locked":
            fix = f"Run hwsigner agent unlock NAME{flag}"
            found = f"the profile is locked in {of}{state.failure and f': {state.failure}'}"
            yield local.AGENT_LOCKED.found(found, fix).about(name)
        elif state.failure:
            fix = f"Run hwsigner agent refresh NAME{flag}"
            yield local.AGENT_FAILURE.found(f"{of} failed: {state.failure}", fix).about(name)


def check_units(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the units of hwsigner whose program is missing, and those that failed."""
    for folder in UNIT_FOLDERS:
        for path in sorted(Path(os.path.expanduser(folder)).glob("hwsigner-*.service")):
            program = _program(path)
            if program and ("\0" in program or not os.access(program, os.X_OK)):
                yield local.UNIT_PROGRAM.found(f"{path} runs {program}, which is not there or not executable")
    for scope in ([], ["--user"]):
        for name in _failed(scope, environ):
            unit = shlex.join(["journalctl", *scope, "-u", name])
            yield local.UNIT_FAILED.found(f"{name} failed", f"Run {unit} for the reason")


def _program(path: Path) -> str:
    """Return the program that a unit runs, or an empty text if that can't be told."""
    try:
        text, _ = read_text(str(path), errors="replace")  # systemd, too, leaves out only the lines that are not UTF-8.
    except OSError:
        return ""
    settings = [line.split("=", 1) for line in text.splitlines() if "=" in line]
    command = next((value.strip() for name, value in settings if name.strip() == "ExecStart" and value.strip()), "")
    try:
        program = next(iter(shlex.split(command.lstrip("-@:+!"))), "")
    except ValueError:
        return ""
    return "" if {"%", "$"} & {*program} else program  # systemd replaces these.


def _failed(scope: list[str], environ: Mapping[str, str]) -> list[str]:
    """Return the names of failed units of the system, or of this user; nothing without systemd."""
    command = ["systemctl", *scope, "list-units", "--state=failed", "--no-legend", "--plain", "hwsigner*"]
    try:
        done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.split()[0] for line in done.stdout.splitlines() if line.split()]
