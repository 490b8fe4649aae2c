"""What `hwsigner doctor` finds: mistakes of profiles, certificates, keys, the SDKs' files and the machine."""

from __future__ import annotations

from hwsigner.findings import Mistake

_REFUSED = "The service refuses every session with it"
_RENEW = "Run hwsigner renew NAME, or have it issued again and run hwsigner install-certificate"
_EDIT = "Run hwsigner profile edit NAME with the right"
_ENDPOINT = "hwsigner can't ask for a session"

# The profile.
PROFILE_NONE = Mistake("profile-none", "Without a profile, there is little to check", "Run hwsigner enroll NAME")
PROFILES_UNREADABLE = Mistake("profiles-unreadable", "No profile can be used", "Fix config.toml in an editor")
PROFILES_IGNORED = Mistake(
    "profiles-ignored",
    "Only one of the two files is read",
    "Move its profiles into the file that is read, then delete it",
)
MONITORING_INVALID = Mistake(
    "monitoring-invalid", "No command gives credentials until it is corrected", "Fix config.toml in an editor"
)
PROFILE_TWICE = Mistake(
    "profile-twice",
    "Programs ask the agents before they read config.toml, so they may get the credentials of the other profile",
    "Give one of the two another name",
)
PROFILE_INVALID = Mistake(
    "profile-invalid", "No command can use the profile", "Correct it with hwsigner profile edit NAME"
)
ARN_INVALID = Mistake("arn-invalid", "Without all three ARNs, hwsigner can't ask for a session", f"{_EDIT} ARN")
ARN_SWAPPED = Mistake("arn-swapped", "An ARN of another kind is refused", f"{_EDIT} ARN")
ARN_REGION = Mistake(
    "arn-region", "Trust anchor and Roles Anywhere profile must be in the region that hwsigner asks", f"{_EDIT} ARN"
)
ARN_ACCOUNT = Mistake(
    "arn-account", "Trust anchor, Roles Anywhere profile and role must be in one account", f"{_EDIT} ARN"
)
ARN_PARTITION = Mistake("arn-partition", "Partitions, such as aws and aws-cn, share nothing", f"{_EDIT} ARN")
DURATION_INVALID = Mistake(
    "duration-invalid", "A session lasts 900 to 43200 seconds", "Run hwsigner profile edit NAME --session-duration 3600"
)
SESSION_NAME_INVALID = Mistake(
    "session-name-invalid",
    "The service refuses such a name",
    "Run hwsigner profile edit NAME --unset role-session-name",
)
SETTING_UNSAFE = Mistake(
    "setting-unsafe", "The setting weakens what protects the key or the connection", "Change the setting"
)
SETTING_UNUSED = Mistake("setting-unused", "The setting has no effect", "Remove it, or set what it needs")

# The certificate.
CERTIFICATE_UNREADABLE = Mistake(
    "certificate-unreadable",
    "Without a certificate, hwsigner can't ask for a session",
    "Run hwsigner profile edit NAME --certificate CERT",
)
CERTIFICATE_EXPIRED = Mistake("certificate-expired", _REFUSED, _RENEW)
CERTIFICATE_NOT_RENEWED = Mistake(
    "certificate-not-renewed",
    "Once it has expired, no session can be created. With metrics, the alert HwsignerCertificateExpiring warns too",
    _RENEW,
)
RENEWAL_FAILED = Mistake(
    "renewal-failed",
    "The certificate in use is good until it expires. Then no session can be created",
    "Correct the cause, then run hwsigner renew NAME",
)
PODS_INVALID = Mistake(
    "pods-invalid",
    "serve --pods does not take such a policy, or gives Pods no credentials by it",
    "Correct pods.toml or config.toml, and check it with hwsigner serve --pods FILE --check",
)
ISSUER_INVALID = Mistake(
    "issuer-invalid", "The certificate can't be renewed", "Correct it with hwsigner profile edit NAME"
)
CERTIFICATE_NOT_YET_VALID = Mistake(
    "certificate-not-yet-valid", _REFUSED, "Fix the clock if it is wrong: timedatectl. Otherwise wait"
)
CERTIFICATE_VERSION = Mistake(
    "certificate-version",
    "The service accepts only X.509 version 3",
    "Have it issued again with extensions, such as keyUsage",
)
CERTIFICATE_CA = Mistake("certificate-ca", "The service refuses CA certificates", _RENEW)
CERTIFICATE_KEY_USAGE = Mistake(
    "certificate-key-usage",
    "The service requires the keyUsage digitalSignature",
    "Have it issued again with that key usage",
)
CERTIFICATE_HASH = Mistake(
    "certificate-hash", "The service requires SHA-256 or better", "Have it issued again by a CA that uses it"
)
CERTIFICATE_SUBJECT = Mistake(
    "certificate-subject",
    "AWS's guide says that certificates with an empty subject are not yet supported",
    "Have it issued again with a CN",
)
CERTIFICATE_ATTESTATION = Mistake(
    "certificate-attestation",
    "An attestation certificate proves where a key is. No CA of yours issued it, so no trust anchor accepts it",
    "Run hwsigner csr for a request, and install what the CA returns",
)
CHAIN_GAP = Mistake(
    "chain-gap",
    "What is above the gap is not sent, so the chain may not reach the trust anchor",
    "Add the missing intermediate to the file, or remove what does not belong to the chain",
)
CHAIN_ORDER = Mistake(
    "chain-order",
    "hwsigner sorts the chain; other programs send it as it is, and the service refuses it",
    "Write the leaf first, then each issuer",
)
CHAIN_TOO_LONG = Mistake(
    "chain-too-long", "The service accepts five intermediates", "Import one of the intermediates as the trust anchor"
)
NAME_EMPTY = Mistake(
    "name-empty",
    "The source identity is then a serial number, and no trust policy can compare the CN",
    "Have it issued again with a CN",
)
NAME_UNTAGGABLE = Mistake(
    "name-untaggable",
    "AWS's guide says that the service ignores a name that can't become a session tag. Users saw it refuse the session",
    "Have it issued again with another name, or take the name out of the Roles Anywhere profile's attribute mappings",
)

# The key.
KEY_MISMATCH = Mistake(
    "key-mismatch",
    "The service refuses the signature",
    "Run hwsigner profile edit NAME --private-key KEY with the certificate's",
)
KEY_UNUSABLE = Mistake(
    "key-unusable", "Without its key, the certificate is useless", "Run hwsigner show --profile NAME"
)
PIN_LOCKED = Mistake(
    "pin-locked",
    "A locked token or TPM refuses every key with a PIN",
    "Unlock the token with its own tools, or wait for the TPM",
)
PIN_NEARLY_LOCKED = Mistake(
    "pin-nearly-locked", "One more wrong PIN locks the token", "Log in once with the right PIN in another program"
)
PIN_FAILED = Mistake(
    "pin-failed",
    "hwsigner does not send a stored PIN after a wrong one, which could lock the token",
    "Correct the stored PIN, then log in once: hwsigner list --login URI, with the token's URI",
)
PIN_UNREADABLE = Mistake(
    "pin-unreadable",
    "Without its PIN, the key can't be used",
    "Write the PIN into the file of pin-source, and run chmod 600 on it",
)
PCSCD_REFUSES = Mistake(
    "pcscd-refuses",
    "Tokens behind pcscd are not seen by services, ssh sessions and cron jobs",
    "Run hwsigner systemd install --system, or write a rule into /etc/polkit-1/rules.d",
)
TPM_GROUP = Mistake("tpm-group", "The TPM can't be used", "Run usermod -aG GROUP USER, and log in again")

# The files of the AWS SDKs.
CONFIG_MISSING = Mistake(
    "config-missing", "The SDKs go on as if the file were empty", "Correct the path, the link or the permissions"
)
CONFIG_UNREADABLE = Mistake(
    "config-unreadable",
    "The AWS CLI and boto3 refuse the whole file",
    "Fix it in an editor, and save it as UTF-8 without a byte order mark",
)
CONFIG_TOO_LONG = Mistake(
    "config-too-long", "hwsigner reads at most 16 MiB, and goes on as if the file were empty", "Make the file shorter"
)
CONFIG_TWICE = Mistake(
    "config-twice", "The AWS CLI and boto3 use only the last section of a profile", "Merge the sections into one"
)
CONFIG_PREFIX = Mistake(
    "config-prefix",
    "The SDKs look for [profile NAME] in the config file, and for [NAME] in the credentials file",
    "Write [profile NAME]",
)
CONFIG_INDENTED = Mistake(
    "config-indented",
    "The SDKs take an indented line as a part of the setting above it",
    "Remove the spaces at the start of that line",
)
CONFIG_SOURCE_MISSING = Mistake(
    "config-source-missing", "The SDKs end with an error if a source_profile does not exist", "Name another profile"
)
CONFIG_STATIC_KEYS = Mistake(
    "config-static-keys",
    "The SDKs prefer an access key to a credential_process",
    "Remove the access key from that section",
)
CONFIG_OTHER_SOURCE = Mistake(
    "config-other-source",
    "If a section has several sources of credentials, an SDK uses the first in its own order",
    "Remove all sources but one",
)
CONFIG_RECURSION = Mistake(
    "config-recursion",
    "The profile gets its credentials from itself, so each call starts another one, until no memory is left",
    "Name the other profile",
)
CONFIG_PLUGIN = Mistake(
    "config-plugin", "Version 1 of the AWS CLI ends with an error at a plugin", "Remove the line, or install version 2"
)
PROCESS_TILDE = Mistake("process-tilde", "No shell reads the line, so ~ stays ~", "Write the whole path")
PROCESS_VARIABLE = Mistake(
    "process-variable", "No shell reads the line, so variables are not replaced", "Write the value"
)
PROCESS_BACKSLASH = Mistake(
    "process-backslash", "The SDKs drop backslashes, or refuse the line", "Quote with double quotes instead"
)
PROCESS_MISSING = Mistake("process-missing", "The SDKs can't run the command", "Write the full path of hwsigner")
PROCESS_COMMAND = Mistake(
    "process-command",
    "The command prints no credentials",
    "Write hwsigner-credentials --profile NAME with its full path",
)
PROCESS_SHIM = Mistake(
    "process-shim", "A version manager's shim may run another version, or none", "Write the path of the program itself"
)
NODE_PROGRAM = Mistake(
    "node-program",
    "nodeadm puts AWS's program back when it upgrades an EKS hybrid node",
    "Run install -m 755 /opt/hwsigner/bin/hwsigner /usr/local/bin/aws_signing_helper",
)

# The environment.
ENVIRONMENT_KEYS = Mistake(
    "environment-keys",
    "The SDKs prefer an access key in the environment to the default profile and to AWS_PROFILE",
    "Run unset VARIABLE",
)
ENVIRONMENT_PROFILE = Mistake(
    "environment-profile", "The SDKs end with an error unless another profile is named", "Run unset AWS_PROFILE"
)
ENDPOINT_INVALID = Mistake("endpoint-invalid", _ENDPOINT, "Correct or remove the setting")
ENDPOINT_REGION = Mistake(
    "endpoint-region",
    "The service refuses requests that are signed for another region",
    "Name an endpoint of that region, or none",
)
PROXY_INVALID = Mistake("proxy-invalid", _ENDPOINT, "Set it to http://host:port")
CA_UNREADABLE = Mistake("ca-unreadable", "No server can be verified", "Correct or remove the setting")
CONNECTION_SETTING = Mistake("connection-setting", _ENDPOINT, "Correct or remove the setting")

# The machine.
AGENT_SILENT = Mistake(
    "agent-silent",
    "Programs wait for the agent, and then continue without it",
    "Run systemctl --user restart hwsigner-agent.service, or pkill -u $USER -f 'hwsigner agent' without systemd",
)
AGENT_UNREADABLE = Mistake(
    "agent-unreadable",
    "Users of allow-users get no credentials",
    "Run chown root:hwsigner FILE && chmod 640 FILE",
)
AGENT_LOCKED = Mistake("agent-locked", "Programs get no credentials from the agent", "Run hwsigner agent unlock NAME")
AGENT_FAILURE = Mistake(
    "agent-failure", "Programs get no new credentials from the agent", "Run hwsigner agent refresh NAME"
)
UNIT_PROGRAM = Mistake("unit-program", "The unit can't start", "Run hwsigner systemd install again")
UNIT_FAILED = Mistake("unit-failed", "The unit's work is not done", "Run journalctl -u UNIT")

# With --online.
CLOCK_WRONG = Mistake(
    "clock-wrong",
    "The service refuses signatures whose time is more than five minutes off its own",
    "Run timedatectl set-ntp true",
)
SERVICE_UNREACHABLE = Mistake("service-unreachable", _ENDPOINT, "Check endpoint, proxy and CAs")
SESSION_REFUSED = Mistake(
    "session-refused", "No program gets credentials with the profile", "Run hwsigner aws check --profile NAME"
)

# With --aws.
AWS_NOT_ASKED = Mistake(
    "aws-not-asked",
    "Trust anchor, Roles Anywhere profile and role were not compared with what AWS has",
    "Give --aws-profile NAME with an administrator's credentials",
)

# With --policy.
POLICY_SECOND_NAME = Mistake(
    "policy-second-name",
    "If the subjectAltName has several names of one kind, only the first becomes a session tag",
    "Compare the first, or have the certificate issued again with this name first",
)
POLICY_OTHER_NAME = Mistake(
    "policy-other-name",
    "An otherName, such as Microsoft's user principal name, does not become a session tag",
    "Compare the CN, or have the certificate issued again with the name as DNS name or URI",
)

# Of doctor itself.
CHECK_FAILED = Mistake(
    "check-failed",
    "What this check would find is unknown. All other checks were made",
    "Report this finding as a bug of hwsigner",
)
