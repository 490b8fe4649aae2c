"""Mistakes of the machine: the key and its hardware, pcscd, the agents, the units, an EKS node. No PIN is sent."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from hwsigner._agent.client import ask_agents
from hwsigner._config.profiles import Profile
from hwsigner._config.sharing import hidden_files
from hwsigner._system import pcsc
from hwsigner._system.files import check_no_pipe, open_trusted, read_text
from hwsigner._system.users import reading_group
from hwsigner._uri import KeyURI
from hwsigner.doctor.profile_checks import ProfileState, no_pins, warnings_as_findings
from hwsigner.errors import HwsignerError, PinError, SigningKeyError
from hwsigner.findings import Finding, local
from hwsigner.key.listing import list_tokens
from hwsigner.key.management import describe_key

TPM_DEVICE = "/dev/tpmrm0"
NODE_CONFIG, NODE_PROGRAM = "/etc/aws/hybrid/config", "/usr/local/bin/aws_signing_helper"
_TCTI_VARIABLES = ("TPM2_TCTI", "TPM2TOOLS_TCTI", "TPM_DEVICE")
UNIT_FOLDERS = ("/etc/systemd/system", "~/.config/systemd/user")
_SECONDS = 10


def check_key(state: ProfileState) -> Iterator[Finding]:
    """Yield why the key can't be used, or is not the certificate's."""
    if state.key is None:
        return
    if state.key.scheme == "pkcs11" and pcsc.is_refused():
        yield local.PCSCD_REFUSES.found("polkit does not let this user use pcscd")
    is_elsewhere = "tcti" in state.key.query or any(state.environ.get(name) for name in _TCTI_VARIABLES)
    group = reading_group(TPM_DEVICE) if state.key.scheme == "tpm2" and not is_elsewhere else None
    if group:
        found = f"{TPM_DEVICE} is for the group {group}, and this user is not in it"
        yield local.TPM_GROUP.found(found, f"Run usermod -aG {group} USER, and log in again")
        return
    own = KeyURI.parse(state.settings.private_key or state.settings.certificate or "")  # With what it says of a PIN.
    with warnings_as_findings() as unsafe:
        yield from _check_pin_file(own)
        yield from _check_pin(state, state.key, is_stored=own.has_pin)
        yield from _check_public_key(state, state.key)
    yield from unsafe


def _check_pin_file(uri: KeyURI) -> Iterator[Finding]:
    """Yield why the file with the key's PIN can't be opened. Its PIN is not read."""
    source = uri.text("pin-source") or ""
    path = re.sub(r"^(file:)?(//(localhost)?(?=/))?", "", source)
    if not source.startswith(("file:", "/")) or (os.path.exists(path) and not os.path.isfile(path)):
        return  # A pipe is left alone.
    try:
        open_trusted(path, PinError).close()
    except OSError as error:
        yield local.PIN_UNREADABLE.found(f"can't read PIN file {path}: {error.strerror}")
    except PinError as error:
        yield local.PIN_UNREADABLE.found_by(error)


def _check_public_key(state: ProfileState, key: KeyURI) -> Iterator[Finding]:
    try:
        if "path" in key.path:
            check_no_pipe(key.file, SigningKeyError)
        described = describe_key(key, no_pins(), allow_modules=True)
    except PinError:  # The key is hidden behind its PIN.
        can_be_copied = ", from which it can be copied" if key.scheme in ("file", "env", "fd") else ""
        state.facts["key"] = f"in {key.name}{can_be_copied}"
        return
    except HwsignerError as error:
        yield local.KEY_UNUSABLE.found_by(error)
        return
    state.facts["key"] = f"in {described.whereabouts}"
    public_key, leaf = described.public_key, state.leaf
    if public_key and leaf and public_key != leaf.public_key():
        yield local.KEY_MISMATCH.found(f"the key {key.name} is not that of certificate {leaf.source}")


def _check_pin(state: ProfileState, key: KeyURI, *, is_stored: bool) -> Iterator[Finding]:
    """Yield whether the key's token or TPM is locked, would be after one more wrong PIN, or refused a stored one."""
    if key.scheme not in ("pkcs11", "tpm2"):
        return
    tpm = {name: value for name, value in key.query.items() if name == "tcti"}
    uri = key.token if key.scheme == "pkcs11" else KeyURI("tpm2", {}, tpm)
    try:
        state.tokens = list(list_tokens(uri, no_pins(), allow_modules=True))
    except HwsignerError as error:
        if key.scheme == "tpm2" and "path" in key.path:  # The file has the public key, so nothing else asks the TPM.
            yield local.KEY_UNUSABLE.found_by(error)
        return
    fix = "Run tpm2_dictionarylockout --clear-lockout, or wait" if key.scheme == "tpm2" else ""
    for token in state.tokens:
        name = f"{token.label} ({token.manufacturer} {token.model})"
        if token.pin_state == "locked":
            yield local.PIN_LOCKED.found(f"{name} is locked after too many wrong PINs", fix)
        elif token.pin_state == "one try is left":
            yield local.PIN_NEARLY_LOCKED.found(f"{name} allows one more attempt", fix)
        elif token.pin_state == "an earlier try failed" and is_stored and key.scheme == "pkcs11":
            by_hand = f"Correct the stored PIN, then log in once: hwsigner list --login {shlex.quote(token.uri)}"
            yield local.PIN_FAILED.found(f"an earlier PIN failed at {name}", by_hand)


def check_agents(
    environ: Mapping[str, str], names: Collection[str], of_system: Mapping[str, Profile]
) -> Iterator[Finding]:
    """Yield agents that do not answer, and those of the named profiles that an agent has no credentials for."""
    hidden = list(_hidden_files(each for each in of_system.values() if each.name in names))
    yield from hidden
    served, problems = ask_agents(environ)
    for problem in problems:
        is_system = problem.startswith("the system's")
        if not (hidden and is_system):
            yield local.AGENT_SILENT.found(problem, "Run systemctl restart hwsigner-agent.service" * is_system)
    for name, state in served.items():
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


def _hidden_files(of_system: Iterable[Profile]) -> Iterator[Finding]:
    """Yield the files that the system's agent can't read, of the profiles that it serves."""
    served = [each for each in of_system if each.values.get("allow-users")]
    fixes = {path: fix for each in served for path, fix in hidden_files(each.values)}
    for path, fix in fixes.items():
        yield local.AGENT_UNREADABLE.found(f"the system's agent can't read {path}", fix)


def check_hybrid_node(state: ProfileState) -> Iterator[Finding]:
    """Yield whether an EKS hybrid node uses the key by AWS's program, which nodeadm puts back when it upgrades."""
    path = state.key.path.get("path") if state.key else None
    try:
        words = Path(NODE_CONFIG).read_bytes().split()
        is_hwsigner = b"hwsigner" in Path(NODE_PROGRAM).read_bytes()
    except OSError:
        return  # No hybrid node, or one that this user can't look at.
    if path in words and NODE_PROGRAM.encode() in words and not is_hwsigner:
        yield local.NODE_PROGRAM.found(f"{NODE_PROGRAM}, which {NODE_CONFIG} runs with this key, is not hwsigner")


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
