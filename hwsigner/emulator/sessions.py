"""CreateSession: verifies a request to Roles Anywhere and issues credentials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hwsigner.emulator import certificates, signature, tags
from hwsigner.emulator.canonical import canonical_request
from hwsigner.emulator.differences import Difference, Differences
from hwsigner.emulator.iam_policies import session_refusal
from hwsigner.emulator.parameters import Parameters, read_parameters
from hwsigner.emulator.record import Record
from hwsigner.emulator.refusals import RefusalError, denied, invalid, invalid_signature, json_response
from hwsigner.emulator.resources import Profile, Role, Subject, TrustAnchor, by_arn
from hwsigner.emulator.vault import CredentialVault
from hwsigner.emulator.wire import Request, Response
from hwsigner.emulator.world import World
from hwsigner.trust_policy import request_context

ALGORITHMS = ("AWS4-X509-RSA-SHA256", "AWS4-X509-ECDSA-SHA256", "AWS4-X509-MLDSA")
_SIGNED_HEADERS = {"host", "content-type", "x-amz-date", "x-amz-x509"}
# The oldest are dropped, so that an emulator that runs for days does not grow without limit.
MAX_SUBJECTS = 10_000
MAX_CERTIFICATES = 100


class _Target(NamedTuple):
    """What a request names."""

    anchor: TrustAnchor
    profile: Profile
    role: Role


class SessionService:
    """CreateSession for the resources of a world. The credentials go into a vault."""

    def __init__(self, world: World, vault: CredentialVault, clock: Callable[[], datetime]) -> None:
        self._world = world
        self._vault = vault
        self._clock = clock

    def create_session(self, record: Record) -> Response:
        """Verify a request and issue credentials. The record gets findings, canonical request and string to sign."""
        request = record.request
        if not request.body:
            record.findings.append("postEmptyBody")
        parameters = read_parameters(request)
        authorization = _read_authorization(request)
        target = self._find(parameters)
        leaf = self._verify_certificate(request, target.anchor)
        self._verify_signature(request, authorization, leaf, record)
        _check_scope(authorization, leaf, parameters.region)
        try:
            self._check_permission(parameters, leaf, target)
            duration = _duration(parameters, target, self._world.differing)
        except RefusalError:
            self._record(parameters, leaf, failed=True)
            raise
        self._record(parameters, leaf, failed=False)
        return self._issue(parameters, leaf, target, duration)

    def _find(self, parameters: Parameters) -> _Target:
        anchor = by_arn(self._world.trust_anchors, parameters.trust_anchor)
        if anchor is None:
            raise denied("Specified Trust Anchor wasn't found.", f"there is no trust anchor {parameters.trust_anchor}")
        profile = by_arn(self._world.profiles, parameters.profile)
        if profile is None:
            raise denied("Invalid or empty profile provided.", f"there is no profile {parameters.profile}")
        if not anchor.enabled:
            raise denied("Untrusted signing certificate", "the trust anchor is disabled")
        if not profile.enabled:
            if Difference.DISABLED_NOT_FOUND in self._world.differing:
                raise RefusalError("ResourceNotFoundException", 404, f"Profile {parameters.profile} not found")
            raise denied("Profile is disabled")
        if parameters.role not in profile.roles:
            raise denied("Requested Role isn't one of those listed in the Profile.", f"not listed: {parameters.role}")
        role = self._world.roles.get(parameters.role)
        if role is None or not role.is_visible(self._clock()):
            raise denied(f"Unable to assume role for {parameters.role}", "the role does not exist, or not yet")
        return _Target(anchor, profile, role)

    def _verify_certificate(self, request: Request, anchor: TrustAnchor) -> x509.Certificate:
        text = request.value("x-amz-x509")
        if text is None:
            raise invalid("X-Amz-X509 is missing, or given twice")
        if len(request.values("x-amz-x509-chain")) > 1:
            raise invalid("X-Amz-X509-Chain is given twice")
        leaf = certificates.read_certificate(text, "X-Amz-X509")
        now, differing, crls = self._clock(), self._world.differing, list(self._world.crls.values())
        chain = certificates.read_chain(request.value("x-amz-x509-chain"), leaf, differing)
        certificates.check_leaf(leaf, now, differing)
        certificates.check_path(leaf, chain, anchor.certificates, now)
        if Difference.NAME_CONSTRAINTS in differing:
            certificates.check_name_constraints(leaf, (*chain, *anchor.certificates))
        if Difference.EXPIRED_CRL in differing:
            crls = [each for each in crls if (each.parsed.next_update_utc or now) >= now]
        certificates.check_revocation((leaf, *chain), anchor, crls)
        return leaf

    def _verify_signature(
        self, request: Request, authorization: signature.Authorization, leaf: x509.Certificate, record: Record
    ) -> None:
        if authorization.algorithm != certificates.algorithm_of(leaf):
            record.findings.append("algorithmMismatch")
            raise invalid_signature(f"{authorization.algorithm} is not the algorithm of the certificate's key")
        try:
            missing = signature.check_signed_headers(request, authorization.signed_headers, _SIGNED_HEADERS)
            skew = timedelta(minutes=15) if Difference.LONGER_SKEW in self._world.differing else signature.MAX_SKEW
            signature.check_time(authorization, self._clock(), skew)
        except signature.SignatureError as error:
            raise invalid_signature(str(error)) from error
        if missing:
            record.findings.append(f"missingSignedHeaders: {', '.join(missing)}")
            raise invalid_signature(f"SignedHeaders lacks {', '.join(missing)}")
        canonical = canonical_request(request, authorization.signed_headers)
        message = signature.string_to_sign(canonical, authorization)
        record.canonical_request, record.string_to_sign = canonical.decode("latin-1"), message.decode("latin-1")
        if not certificates.verifies(leaf, authorization.signature, message):
            raise invalid_signature("the signature does not verify with the certificate's key over the string to sign")

    def _check_permission(self, parameters: Parameters, leaf: x509.Certificate, target: _Target) -> None:
        role, profile, differing = target.role, target.profile, self._world.differing
        session_name = self._session_name(parameters, leaf, profile)
        found = tags.principal_tags(leaf, role.arn, profile.attribute_mappings, differing=differing)
        different = [name for name, value in role.principal_tags.items() if found.get(name) != value]
        if different:
            reason = f"the role's trust policy requires other values of {', '.join(different)}"
            raise denied(f"Unable to assume role for {role.arn}", reason)
        context = request_context(
            trust_anchor=target.anchor.arn,
            tags=found,
            session_name=session_name,
            source_identity=tags.source_identity(leaf, role.arn, differing),
            now=self._clock(),
            origin_identity=_origin_identity(profile, found, role),
        )
        reason = session_refusal(role.trust_policy, context, differing) if role.trust_policy else ""
        if reason:
            raise denied(f"Unable to assume role for {role.arn}", reason)

    def _session_name(self, parameters: Parameters, leaf: x509.Certificate, profile: Profile) -> str:
        differing, given = self._world.differing, parameters.session_name
        if given is not None and not profile.accept_role_session_name:
            if Difference.SESSION_NAME_IGNORED not in differing:
                raise denied("Not authorized to set roleSessionName")
            given = None
        return given or tags.default_session_name(leaf, differing)

    def _subject_arn(self, parameters: Parameters, leaf: x509.Certificate) -> str:
        differing = self._world.differing
        return tags.subject_arn(leaf, parameters.role_parts, parameters.region, differing=differing)

    def _issue(self, parameters: Parameters, leaf: x509.Certificate, target: _Target, duration: timedelta) -> Response:
        role = target.role
        arn, differing = parameters.role_parts, self._world.differing
        session_name = self._session_name(parameters, leaf, target.profile)
        expiration = self._clock().replace(microsecond=0) + duration
        issued = self._vault.issue(
            expiration=expiration,
            arn=f"arn:{arn.partition}:sts::{arn.account}:assumed-role/{role.name}/{session_name}",
            user_id=f"{role.id}:{session_name}",
            source_identity=tags.source_identity(leaf, role.arn, differing),
            tags=tags.principal_tags(leaf, role.arn, target.profile.attribute_mappings, differing=differing),
        )
        entry = {
            "assumedRoleUser": {"arn": issued.arn, "assumedRoleId": issued.user_id},
            "credentials": {
                "accessKeyId": issued.access_key_id,
                "secretAccessKey": issued.secret_access_key,
                "sessionToken": issued.session_token,
                "expiration": f"{expiration:%Y-%m-%dT%H:%M:%SZ}",
            },
            "packedPolicySize": 10,
            "roleArn": role.arn,
            "sourceIdentity": issued.source_identity,
        }
        status = 200 if Difference.STATUS_200 in differing else 201
        return json_response(status, {"credentialSet": [entry], "subjectArn": self._subject_arn(parameters, leaf)})

    def _record(self, parameters: Parameters, leaf: x509.Certificate, *, failed: bool) -> None:
        """Add a request to its subject. The first one makes the subject."""
        arn, now, subjects = self._subject_arn(parameters, leaf), self._clock(), self._world.subjects
        made = Subject(arn, leaf.subject.rfc4514_string(), now, created_at=now, updated_at=now)
        subject = subjects.setdefault(arn, made)
        subject.last_seen_at = subject.updated_at = now
        if len(subjects) > MAX_SUBJECTS:
            del subjects[next(iter(subjects))]
        issuer, serial = leaf.issuer.rfc4514_string(), str(leaf.serial_number)
        seen = now.isoformat(timespec="microseconds")
        subject.credentials[issuer, serial] = {
            "seenAt": seen,
            "serialNumber": serial,
            "issuer": issuer,
            "enabled": True,
            "x509CertificateData": leaf.public_bytes(Encoding.PEM).decode(),
            "failed": failed,
        }
        if len(subject.credentials) > MAX_CERTIFICATES:
            del subject.credentials[next(iter(subject.credentials))]
        if parameters.instance_properties:
            properties = {"seenAt": seen, "properties": parameters.instance_properties, "failed": failed}
            subject.instance_properties = [properties]


def _read_authorization(request: Request) -> signature.Authorization:
    if not request.values("authorization"):
        raise RefusalError("MissingAuthenticationTokenException", 403, "Missing Authentication Token")
    try:
        authorization = signature.parse_authorization(request)
    except signature.SignatureError as error:
        raise invalid_signature(str(error)) from error
    if authorization.algorithm not in ALGORITHMS:
        raise invalid_signature(f"{authorization.algorithm} is not one of {', '.join(ALGORITHMS)}")
    return authorization


def _check_scope(authorization: signature.Authorization, leaf: x509.Certificate, region: str) -> None:
    if authorization.key_name != str(leaf.serial_number):
        raise invalid_signature(f"Credential begins with {authorization.key_name}, not the serial number in decimal")
    if authorization.service != "rolesanywhere":
        raise invalid_signature(f"the scope's service is {authorization.service}, not rolesanywhere")
    if authorization.region != region:
        raise invalid_signature(f"the scope's region is {authorization.region}, that of the trust anchor {region}")


def _origin_identity(profile: Profile, found: Mapping[str, str], role: Role) -> dict[str, str]:
    """Return what trusted identity propagation (TIP) says of the certificate, if the profile enables it."""
    if profile.tip is None or profile.tip["status"] != "ENABLED":
        return {}
    source = profile.tip.get("subjectSource", "x509Subject/CN")
    if source not in found:
        reason = f"the subject of trusted identity propagation, {source}, is not in the certificate or not mapped"
        raise denied(f"Unable to assume role for {role.arn}", reason)
    kind = {"SubjectType": profile.tip["subjectType"]} if "subjectType" in profile.tip else {}
    return {"Subject": found[source], **kind}


def _duration(parameters: Parameters, target: _Target, differing: Differences) -> timedelta:
    longest = target.profile.duration_seconds
    if Difference.DURATION_REFUSED in differing and (parameters.duration or 0) > longest:
        raise invalid("The requested durationSeconds exceeds the durationSeconds of the profile")
    seconds = min(parameters.duration or longest, longest)
    if seconds > target.role.max_session_duration:
        problem = "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
        raise denied(f"Unable to assume role for {target.role.arn}. {problem}")
    return timedelta(seconds=seconds)
