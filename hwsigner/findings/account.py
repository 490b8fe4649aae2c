"""What `hwsigner aws check` finds between a certificate and trust anchor, profile, role and revocation lists."""

from __future__ import annotations

from hwsigner.findings import OPEN, UNCLEAR, Mistake

CALL_FAILED = Mistake(
    "call-failed",
    "What depends on it was not checked; all else was",
    "Get the permission, then run the check again",
    level=UNCLEAR,
)
ACCOUNT_OTHER = Mistake(
    "account-other",
    "Trust anchor, Roles Anywhere profile and role must be in one account, and these credentials can't read another's",
    "Use the credentials of the right account, with --aws-profile, or correct the ARN",
)
ANCHOR_MISSING = Mistake(
    "anchor-missing", "Every session is refused", "Correct the trust anchor's ARN, or make one with hwsigner aws setup"
)
ANCHOR_DISABLED = Mistake(
    "anchor-disabled", "Every session is refused", "Run aws rolesanywhere enable-trust-anchor, if it should be in use"
)
ANCHOR_NOT_JUDGED = Mistake(
    "anchor-not-judged",
    "hwsigner can't tell whether the certificate chains to it",
    "Compare the certificate's issuer with the trust anchor's source",
    level=UNCLEAR,
)
ANCHOR_CA_EXPIRED = Mistake(
    "anchor-ca-expired",
    "Certificates of an expired CA are refused",
    "Add the renewed CA with hwsigner aws setup --add-ca",
)
ANCHOR_CA_REFUSED = Mistake(
    "anchor-ca-refused",
    "The service refuses certificates of such a CA",
    "Add a CA that the service accepts with hwsigner aws setup --add-ca",
)
INTERMEDIATE_REFUSED = Mistake(
    "intermediate-refused",
    "The service refuses a chain with such a CA certificate",
    "Give the CA's current certificate with --intermediates, or have the certificate issued by another CA",
)
CHAIN_OTHER = Mistake(
    "chain-other",
    "hwsigner builds the chain without knowing the trust anchor, so of several certificates of a CA it may send one "
    "that does not lead there",
    "Remove the certificate that should not be sent from the profile's certificate and --intermediates",
)
CHAIN_UNTRUSTED = Mistake(
    "chain-untrusted",
    "The service refuses it as untrusted",
    "Give the missing --intermediates, use the right trust anchor, or add the CA with hwsigner aws setup --add-ca",
)
PROFILE_MISSING = Mistake(
    "profile-missing",
    "Every session is refused",
    "Correct the Roles Anywhere profile's ARN, or make one with hwsigner aws setup",
)
PROFILE_DISABLED = Mistake(
    "profile-disabled", "Every session is refused", "Run aws rolesanywhere enable-profile, if it should be in use"
)
PROFILE_WITHOUT_ROLE = Mistake(
    "profile-without-role",
    "A session can only have a role that its Roles Anywhere profile lists",
    "Add the role to the Roles Anywhere profile with hwsigner aws setup",
)
DURATION_SHORTENED = Mistake(
    "duration-shortened",
    "A session lasts as long as the shorter of the two allows",
    "Set the Roles Anywhere profile's durationSeconds higher, or ask for less with --session-duration",
)
DURATION_OVER_ROLE = Mistake(
    "duration-over-role",
    "Sessions that would be longer than the role allows are refused, not shortened",
    "Set the role's MaxSessionDuration higher, or ask for less with --session-duration",
)
SESSION_NAME_REFUSED = Mistake(
    "session-name-refused",
    "The service refuses the request",
    "Let the Roles Anywhere profile accept names: hwsigner aws setup --accept-role-session-name. Only without serve "
    "--pods, you may leave role-session-name out instead",
)
TAG_UNMAPPED = Mistake(
    "tag-unmapped",
    "A name that the Roles Anywhere profile does not map becomes no session tag, so the condition can't be met",
    "Map it with aws rolesanywhere put-attribute-mapping, or compare another name",
)
TAG_REFUSED = Mistake(
    "tag-refused",
    "AWS's guide says that the service ignores a name that can't become a session tag. Users saw it refuse the session",
    "Reissue the certificate without that name, or remove it from the Roles Anywhere profile's attribute mappings",
)
ORIGIN_MISSING = Mistake(
    "origin-missing",
    "The Roles Anywhere profile has trusted identity propagation, and the service refuses sessions without its subject",
    "Reissue the certificate with that name, map it, or set another subjectSource in the Roles Anywhere profile",
)
CERTIFICATE_REFUSED = Mistake("certificate-refused", "The service refuses such a certificate", "Renew or reissue it")
CERTIFICATE_DOUBTFUL = Mistake(
    "certificate-doubtful",
    "AWS does not document whether the service accepts such a certificate",
    "Reissue it with a key of P-256 or of RSA with 2048 bits, signed with SHA-256",
    level=UNCLEAR,
)
CERTIFICATE_REVOKED = Mistake(
    "certificate-revoked",
    "The service refuses a revoked certificate",
    "Issue a new one for a new key, if the machine is still in use",
)
CERTIFICATE_FAILED = Mistake(
    "certificate-failed", "The service refused its last request", "CloudTrail's CreateSession event has the reason"
)
SUBJECT_DISABLED = Mistake("subject-disabled", "The service disabled this subject", "Ask who disabled it, and why")
CRL_DISABLED = Mistake(
    "crl-disabled",
    "An imported list does nothing until it is enabled, so the certificates in it still get sessions",
    "Run aws rolesanywhere enable-crl",
    level=OPEN,
)
CRL_OUTDATED = Mistake(
    "crl-outdated",
    "Certificates that the CA revoked since then still get sessions",
    "Import the CA's current list",
    level=OPEN,
)
CRL_OTHER_CA = Mistake(
    "crl-other-ca",
    "A list revokes only certificates of its CA. Unless that is an intermediate CA below the trust anchor, the list "
    "protects nothing",
    "Import the list of the CA that issues the certificates",
    level=OPEN,
)
CRL_DOUBTFUL = Mistake(
    "crl-doubtful",
    "AWS does not document what the service makes of such a list. It may revoke nothing",
    "Import a complete list of the CA that is valid now",
    level=UNCLEAR,
)
CRL_NOT_JUDGED = Mistake(
    "crl-not-judged",
    "hwsigner can't tell whether it revokes the certificate",
    "Look at it with aws rolesanywhere get-crl",
    level=UNCLEAR,
)
CAS_SEVERAL = Mistake(
    "cas-several",
    "Each of the trust anchor's CAs can issue a certificate with the names that the trust policy compares, and it "
    "compares none of the CA's",
    'If only one of them should: add "StringEquals": {"aws:PrincipalTag/x509Issuer/CN": "CA"}',
    level=UNCLEAR,
)
ROLE_MISSING = Mistake(
    "role-missing", "Every session is refused", "Correct the role's ARN, or make one with hwsigner aws setup"
)
ROLE_REFUSES = Mistake(
    "role-refuses",
    "All three actions must be allowed, or the service refuses the session",
    "Change the trust policy, or use a certificate that it names",
)
