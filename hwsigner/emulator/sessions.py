"""CreateSession: verifies a request of Roles Anywhere and vends credentials."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import NameOID

from hwsigner.emulator import tags
from hwsigner.emulator.answers import Answer, RefusalError, denied, invalid, invalid_signature, json_answer
from hwsigner.emulator.canonical import canonical_request
from hwsigner.emulator.certificates import (
    algorithm_of,
    check_leaf,
    check_path,
    read_certificate,
    read_chain,
    verifies,
)
from hwsigner.emulator.parameters import Parameters, read_parameters
from hwsigner.emulator.record import Record
from hwsigner.emulator.signature import (
    Authorization,
    SignatureError,
    check_signed_headers,
    check_time,
    parse_authorization,
    string_to_sign,
)
from hwsigner.emulator.vault import Credentials, Vault
from hwsigner.emulator.wire import Request
from hwsigner.emulator.world import Profile, Role, TrustAnchor, World, missing_tags

ALGORITHMS = ("AWS4-X509-RSA-SHA256", "AWS4-X509-ECDSA-SHA256", "AWS4-X509-MLDSA")
_SIGNED_HEADERS = {"host", "content-type", "x-amz-date", "x-amz-x509"}


@dataclass(frozen=True)
class _Grant:
    """What a verified request gets a session of."""

    parameters: Parameters
    leaf: x509.Certificate
    role: Role
    duration: timedelta
    session_name: str


class SessionService:
    """Answers CreateSession from a world, with a clock, into a vault."""

    def __init__(self, world: World, vault: Vault, clock: Callable[[], datetime]) -> None:
        self._world = world
        self._vault = vault
        self._clock = clock

    def create_session(self, record: Record) -> Answer:
        """Verify a request and vend credentials.

        Args:
            record: has the raw request, and gets the findings and the strings that the signature must cover.

        Raises:
            RefusalError: the request is not in order.
        """
        request = record.request
        if request.method == "POST" and not request.body:
            record.findings.append("postEmptyBody")
        parameters = read_parameters(request)
        authorization = _read_authorization(request)
        anchor, profile, role = self._resources(parameters)
        leaf = self._verify_certificate(request, anchor)
        self._verify_signature(request, authorization, leaf, record)
        _check_scope(authorization, leaf, parameters.region)
        return self._vend(_grant(parameters, leaf, profile, role))

    def _resources(self, parameters: Parameters) -> tuple[TrustAnchor, Profile, Role]:
        anchor = self._world.trust_anchors.get(parameters.trust_anchor)
        if anchor is None:
            raise RefusalError("ResourceNotFoundException", 404, f"Trust anchor {parameters.trust_anchor} not found")
        profile = self._world.profiles.get(parameters.profile)
        if profile is None:
            raise RefusalError("ResourceNotFoundException", 404, f"Profile {parameters.profile} not found")
        if not anchor.enabled:
            raise denied("Untrusted Signing Certificate", "the trust anchor is disabled")
        if not profile.enabled:
            raise denied("Profile is disabled")
        role = self._world.roles.get(parameters.role)
        if parameters.role not in profile.roles or role is None:
            reason = "there is no such role" if role is None else "the profile does not list the role"
            raise denied(f"Unable to assume role for {parameters.role}", reason)
        return anchor, profile, role

    def _verify_certificate(self, request: Request, anchor: TrustAnchor) -> x509.Certificate:
        if request.value("x-amz-x509") is None:
            raise invalid("X-Amz-X509 is missing, or given twice")
        if len(request.values("x-amz-x509-chain")) > 1:
            raise invalid("X-Amz-X509-Chain is given twice")
        leaf = read_certificate(request.value("x-amz-x509") or "", "X-Amz-X509")
        chain = read_chain(request.value("x-amz-x509-chain"), leaf)
        now = self._clock()
        check_leaf(leaf, now)
        check_path(leaf, chain, anchor.certificates, now)
        return leaf

    def _verify_signature(
        self, request: Request, authorization: Authorization, leaf: x509.Certificate, record: Record
    ) -> None:
        if authorization.algorithm != algorithm_of(leaf):
            record.findings.append("algorithmMismatch")
            raise invalid_signature(f"{authorization.algorithm} is not the algorithm of the certificate's key")
        try:
            missing = check_signed_headers(request, authorization.signed_headers, _SIGNED_HEADERS)
            check_time(authorization, self._clock())
        except SignatureError as error:
            raise invalid_signature(str(error)) from error
        if missing:
            record.findings.append(f"missingSignedHeaders: {', '.join(missing)}")
            raise invalid_signature(f"SignedHeaders lacks {', '.join(missing)}")
        canonical = canonical_request(request, authorization.signed_headers)
        message = string_to_sign(canonical, authorization)
        record.canonical_request, record.string_to_sign = canonical.decode("latin-1"), message.decode("latin-1")
        if not verifies(leaf, authorization.signature, message):
            raise invalid_signature("the signature does not verify with the certificate's key over the string to sign")

    def _vend(self, grant: _Grant) -> Answer:
        arn = grant.parameters.role_parts
        role_name = arn.resource.rpartition("/")[2]
        vended = self._vault.vend(
            expiration=self._clock().replace(microsecond=0) + grant.duration,
            arn=f"arn:{arn.partition}:sts::{arn.account}:assumed-role/{role_name}/{grant.session_name}",
            user_id=f"{_role_id(grant.role.arn)}:{grant.session_name}",
            account=arn.account,
        )
        subject = tags.subject_arn(
            grant.leaf, partition=arn.partition, region=grant.parameters.region, account=arn.account
        )
        return json_answer(201, {"credentialSet": [_credential_set(vended, grant)], "subjectArn": subject})


def _read_authorization(request: Request) -> Authorization:
    if not request.values("authorization"):
        raise RefusalError("MissingAuthenticationTokenException", 403, "Missing Authentication Token")
    try:
        authorization = parse_authorization(request)
    except SignatureError as error:
        raise invalid_signature(str(error)) from error
    if authorization.algorithm not in ALGORITHMS:
        raise invalid_signature(f"{authorization.algorithm} is not one of {', '.join(ALGORITHMS)}")
    return authorization


def _check_scope(authorization: Authorization, leaf: x509.Certificate, region: str) -> None:
    if authorization.key_name != str(leaf.serial_number):
        raise invalid_signature(f"Credential begins with {authorization.key_name}, not the serial number in decimal")
    if authorization.service != "rolesanywhere":
        raise invalid_signature(f"the scope's service is {authorization.service}, not rolesanywhere")
    if authorization.region != region:
        raise invalid_signature(f"the scope's region is {authorization.region}, that of the trust anchor {region}")


def _grant(parameters: Parameters, leaf: x509.Certificate, profile: Profile, role: Role) -> _Grant:
    if parameters.session_name is not None and not profile.accept_role_session_name:
        raise denied("Not authorized to set roleSessionName")
    lacking = missing_tags(role.principal_tags, tags.principal_tags(leaf))
    if lacking:
        reason = f"the role's trust policy asks for other values of {', '.join(lacking)}"
        raise denied(f"Unable to assume role for {role.arn}", reason)
    seconds = min(parameters.duration or profile.duration_seconds, profile.duration_seconds)
    if seconds > role.max_session_duration:
        raise invalid("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
    name = parameters.session_name or tags.default_session_name(leaf)
    return _Grant(parameters, leaf, role, timedelta(seconds=seconds), name)


def _credential_set(vended: Credentials, grant: _Grant) -> dict[str, object]:
    common_names = grant.leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return {
        "assumedRoleUser": {"arn": vended.arn, "assumedRoleId": vended.user_id},
        "credentials": {
            "accessKeyId": vended.access_key_id,
            "secretAccessKey": vended.secret_access_key,
            "sessionToken": vended.session_token,
            "expiration": f"{vended.expiration:%Y-%m-%dT%H:%M:%SZ}",
        },
        "packedPolicySize": 10,
        "roleArn": grant.role.arn,
        "sourceIdentity": str(common_names[0].value) if common_names else grant.session_name,
    }


def _role_id(role_arn: str) -> str:
    return "AROA" + base64.b32encode(hashlib.sha256(role_arn.encode()).digest()).decode()[:16]
