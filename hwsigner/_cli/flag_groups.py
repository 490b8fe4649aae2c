"""A command's flags in groups, and its example, for its help, its man page and completion."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from hwsigner._config.flags import ARNS, Flag

_FIRST = ("certificate", "private-key", *ARNS)
_OWN, _OUTPUT = "Flags", "Output and messages"
# A group is shown if a command has two of its flags. The others are the command's own.
_GROUPS = {
    "Which certificate": (
        *("intermediates", "cert-selector", "use-latest-expiring-certificate", "no-preflight"),
        "system-store-name",
    ),
    "Names in the certificate": ("subject", "dns", "uri"),
    "Issuer": (
        *("issuer", "issuer-url", "issuer-command", "issuer-ca-file", "issuer-user", "issuer-secret"),
        *("issuer-certificate", "issuer-arn", "vendor-certificates"),
    ),
    "New key": (
        *("algorithm", "always-authenticate", "accept-unproven", "pin-policy", "touch-policy"),
        *("noda", "pcrs", "overwrite", "nv-index"),
    ),
    "Session": ("session-duration", "role-session-name", "region", "instance-property"),
    "Connection": (
        *("endpoint", "use-fips-endpoint", "use-dualstack-endpoint", "no-verify-ssl", "with-proxy"),
        *("connect-timeout", "read-timeout", "timeout"),
    ),
    "Token and TPM": ("pkcs11-lib", "tcti", "srk-name", "accept-new-srk"),
    "PIN": (
        *("reuse-pin", "tpm-key-password", "no-tpm-key-password", "pkcs8-password", "allow-final-pin-try"),
        "pinentry",
    ),
    "Logs and metrics": (
        *("log-level", "log-format", "audit-log", "audit", "audit-rate"),
        *("metrics-listen", "metrics-remote", "metrics-textfile"),
    ),
}
_MESSAGES = ("output", "json", "strict", "debug")
# Of each command, for its help and its man page.
EXAMPLES = {
    "credential-process": "hwsigner credential-process --profile web",
    "serve": "hwsigner serve web",
    "exec": "hwsigner exec web -- aws s3 ls",
    "console": "hwsigner console --profile web --destination s3 --open",
    "update": "hwsigner update --config-profile web --profile default",
    "agent": "hwsigner agent status",
    "sign-string": "hwsigner sign-string --private-key handle:0x81000100",
    "read-certificate-data": "hwsigner read-certificate-data --certificate web.pem",
    "list": "hwsigner list\nhwsigner list 'pkcs11:token=web' --login",
    "status": "hwsigner status",
    "whoami": "hwsigner whoami --profile web",
    "doctor": "hwsigner doctor --profile web --online",
    "keygen": "hwsigner keygen tpm2:path=/etc/pki/web.tss2",
    "csr": "hwsigner csr /etc/pki/web.tss2 --subject CN=web,OU=devops --out web.csr",
    "install-certificate": "hwsigner install-certificate web.pem /etc/pki/web.tss2 --profile web",
    "enroll": """\
hwsigner enroll web --private-key tpm2:path=/etc/pki/web.tss2 \\
    --subject CN=web-01,OU=devops \\
    --issuer registrar --issuer-url https://registrar.example.com:8443""",
    "renew": "hwsigner renew web --if-due",
    "show": "hwsigner show --profile web",
    "delete": "hwsigner delete /etc/pki/web.tss2",
    "attest": "hwsigner attest tpm2:path=/etc/pki/web.tss2 --out web.statement",
    "verify-attestation": "hwsigner verify-attestation web.statement --roots /etc/hwsigner/roots",
    "registrar": "hwsigner registrar --issuer vault --issuer-url https://vault.example.com:8200",
    "registrar allow": """\
hwsigner registrar allow web.statement --roots /etc/hwsigner/roots \\
    --subject CN=web-01,OU=devops""",
    "registrar remove": "hwsigner registrar remove web-01",
    "registrar list": "hwsigner registrar list",
    "registrar rotate-keys": "hwsigner registrar rotate-keys",
    "aws principal-tags": "hwsigner aws principal-tags web.pem",
    "aws trust-policy": "hwsigner aws trust-policy web.pem --match CN,OU",
    "aws template": "hwsigner aws template terraform --ca ca.pem --role web --match CN=web",
    "aws setup": "hwsigner aws setup --ca ca.pem --role web --match CN=web,OU=devops --plan",
    "aws check": "hwsigner aws check --profile web",
    "aws revoke": "hwsigner aws revoke web.pem --profile web --ca-key ca.key --ca ca.pem",
    "profile": """\
hwsigner profile add web --certificate web.pem --private-key web.tss2 \\
    --trust-anchor-arn ARN --profile-arn ARN --role-arn ARN""",
    "migrate": "hwsigner migrate\nhwsigner migrate ~/.aws/config aws.service",
    "retire": "hwsigner retire web --ca-key ca.key --ca ca.pem",
    "systemd": "hwsigner systemd install --user",
    "launchd": "hwsigner launchd install",
    "completion": "hwsigner completion zsh",
    "emulator": "hwsigner emulator --tls --ca-file /tmp/ca.pem",
    "version": "hwsigner version --verbose",
}


def flag_groups(of_command: Iterable[Flag]) -> dict[str, list[Flag]]:
    """Return a command's flags by the title of their group, in the order of the help."""
    flags = {flag.name: flag for flag in of_command}
    titles = dict.fromkeys(_MESSAGES, _OUTPUT) | {
        name: title for title, listed in _GROUPS.items() if len(flags.keys() & set(listed)) > 1 for name in listed
    }
    first = _FIRST if flags.keys() >= set(_FIRST) else ()
    found = {"What a session needs": [flags.pop(name) for name in first], "Profile": [], _OWN: []}
    for flag in flags.values():
        title = "Profile" if flag.names_profile else titles.get(flag.name, _OWN)
        found.setdefault(title, []).append(flag)
    found[_OUTPUT] = found.pop(_OUTPUT, [])
    return {title: listed for title, listed in found.items() if listed}


def add_to_help(parser: argparse.ArgumentParser, flags: Sequence[Flag], positionals: Sequence[argparse.Action]) -> None:
    """Add a command's flags to argparse, for its help. They are parsed without it."""
    parser.usage = usage_of(parser.prog, parser.usage, flags, positionals).replace("%", "%%")
    parser.formatter_class = partial(argparse.RawDescriptionHelpFormatter, max_help_position=29)
    groups = flag_groups(flags)
    groups.setdefault(_OUTPUT, [])  # The last one, which also has --help.
    for title, grouped in groups.items():
        group = parser.add_argument_group(title)
        for flag in grouped:
            value: dict[str, Any] = {"metavar": flag.metavar} if flag.metavar else {"action": "store_true"}
            group.add_argument(f"--{flag.name}", dest=flag.attribute, help=help_of(flag).replace("%", "%%"), **value)
    group.add_argument("-h", "--help", action="help", help="show this help")
    notes = [parser.epilog] if parser.epilog else []
    if any(flag.names_profile or (flag.default is None and not flag.metavar) for flag in flags):
        notes.append("A flag without a value can be switched off: --FLAG=false.")
    if example := EXAMPLES.get(parser.prog.removeprefix("hwsigner ")):
        notes.append("Example:\n" + textwrap.indent(example, "  "))
    parser.epilog = "\n\n".join(notes)


def usage_of(prog: str, usage: str | None, flags: Sequence[Flag], positionals: Sequence[argparse.Action]) -> str:
    """Return a command's line of usage, made from its arguments if it has no other."""
    words = (prog, *map(_positional, positionals), *(["[flags]"] if flags else []))
    return usage or " ".join(words)


def _positional(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    return {"?": f"[{name}]", "*": f"[{name} …]"}.get(str(action.nargs), name)


def help_of(flag: Flag) -> str:
    """Return what a flag is for, with its default."""
    shown = f"{flag.default:g}" if isinstance(flag.default, int | float) else flag.default
    return f"{flag.help} (default: {shown})" if shown and flag.metavar else flag.help
