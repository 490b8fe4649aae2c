"""What `hwsigner doctor` can find: for each mistake, why it matters and how to fix it. The names are stable.

Those of trust policies, and of what is in AWS, are those of `hwsigner aws check`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from hwsigner.errors import HwsignerError, HwsignerWarning


@dataclass(frozen=True)
class Finding:
    """One mistake.

    Attributes:
        id: its name, such as `certificate-expired`.
        found: what was found.
        why: why it matters.
        fix: what to do, with the command if there is one.
        profile: the profile of config.toml that it is about; empty if it is about the machine.
    """

    id: str
    found: str
    why: str
    fix: str
    profile: str = ""

    def about(self, profile: str) -> Finding:
        """Return the finding for a profile, whose name replaces NAME in the commands."""
        return replace(self, profile=profile, fix=self.fix.replace(" NAME", f" {profile}"))


class Mistake(NamedTuple):
    """Why a mistake matters, and how to fix it."""

    why: str
    fix: str


_REFUSED = "The service refuses every session with it"
_RENEW = "Run hwsigner renew NAME, or have it issued again and run hwsigner install-certificate"
_EDIT = "Run hwsigner profile edit NAME with the right"
_ENDPOINT = "hwsigner can't ask for a session"

MISTAKES = {
    # The profile.
    "profile-none": Mistake("Without a profile, there is little to check", "Run hwsigner enroll NAME"),
    "profiles-unreadable": Mistake("No profile can be used", "Fix config.toml in an editor"),
    "monitoring-invalid": Mistake("No command gives credentials until it is corrected", "Fix config.toml in an editor"),
    "profile-twice": Mistake(
        "Programs ask the agents before they read config.toml, so they may get the credentials of the other profile",
        "Give one of the two another name",
    ),
    "profile-invalid": Mistake("No command can use the profile", "Correct it with hwsigner profile edit NAME"),
    "arn-invalid": Mistake("Without all three ARNs, hwsigner can't ask for a session", f"{_EDIT} ARN"),
    "arn-swapped": Mistake("An ARN of another kind is refused", f"{_EDIT} ARN"),
    "arn-region": Mistake("Trust anchor and profile must be in the region that hwsigner asks", f"{_EDIT} ARN"),
    "arn-account": Mistake("Trust anchor, profile and role must be in one account", f"{_EDIT} ARN"),
    "arn-partition": Mistake("Partitions, such as aws and aws-cn, share nothing", f"{_EDIT} ARN"),
    "duration-invalid": Mistake(
        "A session lasts 900 to 43200 seconds", "Run hwsigner profile edit NAME --session-duration 3600"
    ),
    "session-name-invalid": Mistake(
        "The service refuses such a name", "Run hwsigner profile edit NAME --unset role-session-name"
    ),
    "setting-unsafe": Mistake("The setting weakens what protects the key or the connection", "Change the setting"),
    # The certificate.
    "certificate-unreadable": Mistake(
        "Without a certificate, hwsigner can't ask for a session", "Run hwsigner profile edit NAME --certificate CERT"
    ),
    "certificate-expired": Mistake(_REFUSED, _RENEW),
    "certificate-not-yet-valid": Mistake(_REFUSED, "Fix the clock if it is wrong: timedatectl. Otherwise wait"),
    "certificate-version": Mistake(
        "The service accepts only X.509 version 3", "Have it issued again with extensions, such as keyUsage"
    ),
    "certificate-ca": Mistake("The service refuses CA certificates", _RENEW),
    "certificate-key-usage": Mistake(
        "The service requires the keyUsage digitalSignature", "Have it issued again with that key usage"
    ),
    "certificate-hash": Mistake("The service requires SHA-256 or better", "Have it issued again by a CA that uses it"),
    "certificate-attestation": Mistake(
        "An attestation certificate proves where a key is. No CA of yours issued it, so no trust anchor accepts it",
        "Run hwsigner csr for a request, and install what the CA returns",
    ),
    "chain-gap": Mistake(
        "What is above the gap is not sent, so the chain may not reach the trust anchor",
        "Add the missing intermediate to the file, or remove what does not belong to the chain",
    ),
    "chain-order": Mistake(
        "hwsigner sorts the chain; other programs send it as it is, and the service refuses it",
        "Write the leaf first, then each issuer",
    ),
    "chain-too-long": Mistake(
        "The service accepts five intermediates", "Import one of the intermediates as the trust anchor"
    ),
    "name-empty": Mistake(
        "The source identity is then a serial number, and no trust policy can compare the CN",
        "Have it issued again with a CN",
    ),
    "name-untaggable": Mistake(
        "The service refuses a session if a name of the certificate can't become a session tag",
        "Have it issued again with another name, or take the name out of the profile's attribute mappings",
    ),
    # The key.
    "key-mismatch": Mistake(
        "The service refuses the signature", "Run hwsigner profile edit NAME --private-key KEY with the certificate's"
    ),
    "key-unusable": Mistake("Without its key, the certificate is useless", "Run hwsigner show --profile NAME"),
    "pin-locked": Mistake(
        "A locked token or TPM refuses every key with a PIN", "Unlock the token with its own tools, or wait for the TPM"
    ),
    "pin-nearly-locked": Mistake(
        "One more wrong PIN locks the token", "Log in once with the right PIN in another program"
    ),
    "pin-failed": Mistake(
        "hwsigner does not send a stored PIN after a wrong one, which could lock the token",
        "Correct the stored PIN, then log in once: hwsigner list --login URI, with the token's URI",
    ),
    "pin-unreadable": Mistake(
        "Without its PIN, the key can't be used", "Write the PIN into the file of pin-source, and run chmod 600 on it"
    ),
    "pcscd-refuses": Mistake(
        "Tokens behind pcscd are not seen by services, ssh sessions and cron jobs",
        "Run hwsigner systemd install --system, or write a rule into /etc/polkit-1/rules.d",
    ),
    "tpm-group": Mistake("The TPM can't be used", "Run usermod -aG GROUP USER, and log in again"),
    # The files of the AWS SDKs.
    "config-missing": Mistake(
        "The SDKs go on as if the file were empty", "Correct the path, the link or the permissions"
    ),
    "config-unreadable": Mistake(
        "The AWS CLI and boto3 refuse the whole file",
        "Fix it in an editor, and save it as UTF-8 without a byte order mark",
    ),
    "config-too-long": Mistake(
        "hwsigner reads at most 16 MiB, and goes on as if the file were empty", "Make the file shorter"
    ),
    "config-twice": Mistake(
        "The AWS CLI and boto3 use only the last section of a profile", "Merge the sections into one"
    ),
    "config-prefix": Mistake(
        "The SDKs look for [profile NAME] in the config file, and for [NAME] in the credentials file",
        "Write [profile NAME]",
    ),
    "config-indented": Mistake(
        "The SDKs take an indented line as a part of the setting above it",
        "Remove the spaces at the start of that line",
    ),
    "config-source-missing": Mistake(
        "The SDKs end with an error if a source_profile does not exist", "Name another profile"
    ),
    "config-static-keys": Mistake(
        "The SDKs prefer an access key to a credential_process", "Remove the access key from that section"
    ),
    "config-other-source": Mistake(
        "If a section has several sources of credentials, an SDK uses the first in its own order",
        "Remove all sources but one",
    ),
    "config-recursion": Mistake(
        "The profile gets its credentials from itself, so each call starts another one, until no memory is left",
        "Name the other profile",
    ),
    "config-plugin": Mistake(
        "Version 1 of the AWS CLI ends with an error at a plugin", "Remove the line, or install version 2"
    ),
    "process-tilde": Mistake("No shell reads the line, so ~ stays ~", "Write the whole path"),
    "process-variable": Mistake("No shell reads the line, so variables are not replaced", "Write the value"),
    "process-backslash": Mistake("The SDKs drop backslashes, or refuse the line", "Quote with double quotes instead"),
    "process-missing": Mistake("The SDKs can't run the command", "Write the full path of hwsigner"),
    "process-command": Mistake(
        "The command prints no credentials", "Write hwsigner credential-process --profile NAME with its full path"
    ),
    "process-shim": Mistake(
        "A version manager's shim may run another version, or none",
        "Write the path of the program itself",
    ),
    "node-program": Mistake(
        "nodeadm puts AWS's program back when it upgrades an EKS hybrid node",
        "Run install -m 755 /opt/hwsigner/bin/hwsigner /usr/local/bin/aws_signing_helper",
    ),
    # The environment.
    "environment-keys": Mistake(
        "The SDKs prefer an access key in the environment to the default profile and to AWS_PROFILE",
        "Run unset VARIABLE",
    ),
    "environment-profile": Mistake(
        "The SDKs end with an error unless another profile is named", "Run unset AWS_PROFILE"
    ),
    "endpoint-invalid": Mistake(_ENDPOINT, "Correct or remove the setting"),
    "endpoint-region": Mistake(
        "The service refuses requests that are signed for another region", "Name an endpoint of that region, or none"
    ),
    "proxy-invalid": Mistake(_ENDPOINT, "Set it to http://host:port"),
    "ca-unreadable": Mistake("No server can be verified", "Correct or remove the setting"),
    "connection-setting": Mistake(_ENDPOINT, "Correct or remove the setting"),
    # The machine.
    "agent-silent": Mistake(
        "Programs wait for the agent, and then continue without it",
        "Find the agent with pgrep -af 'hwsigner agent', and stop it with kill",
    ),
    "agent-locked": Mistake("Programs get no credentials from the agent", "Run hwsigner agent unlock NAME"),
    "agent-failure": Mistake("Programs get no new credentials from the agent", "Run hwsigner agent refresh NAME"),
    "unit-program": Mistake("The unit can't start", "Run hwsigner systemd install again"),
    "unit-failed": Mistake("The unit's work is not done", "Run journalctl -u UNIT"),
    # With --online.
    "clock-wrong": Mistake(
        "The service refuses signatures whose time is more than five minutes off its own",
        "Run timedatectl set-ntp true",
    ),
    "service-unreachable": Mistake(_ENDPOINT, "Check endpoint, proxy and CAs"),
    "session-refused": Mistake("No program gets credentials with the profile", "Run hwsigner aws check --profile NAME"),
    # With --aws.
    "aws-not-asked": Mistake(
        "Trust anchor, profile and role were not compared with what AWS has",
        "Give --aws-profile NAME with an administrator's credentials",
    ),
    # With --policy.
    "policy-second-name": Mistake(
        "If the subjectAltName has several names of one kind, only the first becomes a session tag",
        "Compare the first, or have the certificate issued again with this name first",
    ),
    "policy-other-name": Mistake(
        "An otherName, such as Microsoft's user principal name, does not become a session tag",
        "Compare the CN, or have the certificate issued again with the name as DNS name or URI",
    ),
}


def finding(name: str, found: str, fix: str = "") -> Finding:
    """Return a finding.

    Args:
        name: the mistake's name in MISTAKES.
        found: what was found.
        fix: what to do, if the table's sentence can be made more exact.
    """
    mistake = MISTAKES[name]
    return Finding(name, found, mistake.why, fix or mistake.fix)


def of_error(name: str, error: HwsignerError | HwsignerWarning) -> Finding:
    """Return a finding with the message and the hint of an error."""
    return finding(name, error.message, error.hint)


@contextmanager
def warnings_into(findings: list[Finding]) -> Iterator[None]:
    """Add hwsigner's warnings in the `with` statement to the findings, instead of showing them."""
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", HwsignerWarning)
        yield
    messages = (each.message for each in raised)
    findings += [of_error("setting-unsafe", each) for each in messages if isinstance(each, HwsignerWarning)]
