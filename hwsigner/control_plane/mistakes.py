"""What can be wrong between a certificate, a trust anchor, a profile, a role and revocation lists, in words.

The names of the mistakes are stable. Those of trust policies are in `hwsigner.trust_policy.mistakes`.
"""

from __future__ import annotations

from hwsigner.trust_policy.mistakes import OPEN, UNCLEAR, WRONG, Mistake, ReviewFinding

MISTAKES = {
    "call-failed": Mistake(
        UNCLEAR, "What depends on it was not checked; all else was", "Get the permission, then run the check again"
    ),
    "account-other": Mistake(
        WRONG,
        "Trust anchor, profile and role must be in one account, and these credentials can't read another account's",
        "Use the credentials of the right account, with --aws-profile, or correct the ARN",
    ),
    "anchor-missing": Mistake(
        WRONG, "Every session is refused", "Correct the trust anchor's ARN, or make one with hwsigner aws setup"
    ),
    "anchor-disabled": Mistake(
        WRONG, "Every session is refused", "Run aws rolesanywhere enable-trust-anchor, if it should be in use"
    ),
    "anchor-not-judged": Mistake(
        UNCLEAR,
        "hwsigner can't tell whether the certificate chains to it",
        "Compare the certificate's issuer with the trust anchor's source",
    ),
    "anchor-ca-expired": Mistake(
        WRONG, "Certificates of an expired CA are refused", "Add the renewed CA with hwsigner aws setup --add-ca"
    ),
    "chain-untrusted": Mistake(
        WRONG,
        "The service refuses it as untrusted",
        "Give the missing --intermediates, use the right trust anchor, or add the CA with hwsigner aws setup --add-ca",
    ),
    "profile-missing": Mistake(
        WRONG, "Every session is refused", "Correct the profile's ARN, or make one with hwsigner aws setup"
    ),
    "profile-disabled": Mistake(
        WRONG, "Every session is refused", "Run aws rolesanywhere enable-profile, if it should be in use"
    ),
    "profile-without-role": Mistake(
        WRONG,
        "A session can only have a role that its profile lists",
        "Add the role to the profile with hwsigner aws setup",
    ),
    "duration-shortened": Mistake(
        WRONG,
        "A session lasts as long as the shorter of the two allows",
        "Set the profile's durationSeconds higher, or ask for less with --session-duration",
    ),
    "duration-over-role": Mistake(
        WRONG,
        "Sessions that would be longer than the role allows are refused, not shortened",
        "Set the role's MaxSessionDuration higher, or ask for less with --session-duration",
    ),
    "session-name-refused": Mistake(
        WRONG,
        "The service refuses the request",
        "Leave role-session-name out, or let the profile accept it (acceptRoleSessionName)",
    ),
    "tag-unmapped": Mistake(
        WRONG,
        "A name that the profile does not map becomes no session tag, so the trust policy's condition can't be met",
        "Map it with aws rolesanywhere put-attribute-mapping, or compare another name",
    ),
    "tag-refused": Mistake(
        WRONG,
        "The service refuses a session if a mapped name can't become a session tag",
        "Reissue the certificate without that name, or remove it from the profile's attribute mappings",
    ),
    "origin-missing": Mistake(
        WRONG,
        "The profile has trusted identity propagation, and the service refuses a session without its subject",
        "Reissue the certificate with that name, map it, or set another subjectSource in the profile",
    ),
    "certificate-refused": Mistake(WRONG, "The service refuses such a certificate", "Renew or reissue it"),
    "certificate-revoked": Mistake(
        WRONG,
        "The service refuses a revoked certificate",
        "Issue a new one for a new key, if the machine is still in use",
    ),
    "certificate-failed": Mistake(
        WRONG, "The service refused its last request", "CloudTrail's CreateSession event has the reason"
    ),
    "subject-disabled": Mistake(WRONG, "The service disabled this subject", "Ask who disabled it, and why"),
    "crl-disabled": Mistake(
        OPEN,
        "An imported list does nothing until it is enabled, so the certificates in it still get sessions",
        "Run aws rolesanywhere enable-crl",
    ),
    "crl-outdated": Mistake(
        OPEN, "Certificates that the CA revoked since then still get sessions", "Import the CA's current list"
    ),
    "crl-not-judged": Mistake(
        UNCLEAR, "hwsigner can't tell whether it revokes the certificate", "Look at it with aws rolesanywhere get-crl"
    ),
    "role-missing": Mistake(
        WRONG, "Every session is refused", "Correct the role's ARN, or make one with hwsigner aws setup"
    ),
    "role-refuses": Mistake(
        WRONG,
        "All three actions must be allowed, or the service refuses the session",
        "Change the trust policy, or use a certificate that it names",
    ),
}


def finding(name: str, found: str, instead: str = "") -> ReviewFinding:
    """Return a finding.

    Args:
        name: the mistake's name in MISTAKES.
        found: what was found.
        instead: what to do, if the table's sentence can be made more exact.
    """
    mistake = MISTAKES[name]
    return ReviewFinding(name, mistake.level, found, mistake.why, instead or mistake.instead)
