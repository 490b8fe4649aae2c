"""sts:GetCallerIdentity: verifies the caller's signature, and says who it is."""

from __future__ import annotations

from hwsigner.emulator.answers import Answer, RefusalError, caller_identity
from hwsigner.emulator.canonical import query_pairs
from hwsigner.emulator.record import Record
from hwsigner.emulator.signature import Flaw, SignatureError, claimed_service, read_authorization
from hwsigner.emulator.verification import Verifier
from hwsigner.emulator.wire import Request
from hwsigner.emulator.wordings import Family, refusal

_ACTION = ("GetCallerIdentity", "2011-06-15")


def is_for_sts(request: Request) -> bool:
    """Tell whether a request is one of STS: POST /, and signed for STS or asking for GetCallerIdentity."""
    if (request.method, request.target) != ("POST", "/"):
        return False
    return claimed_service(request) == "sts" or _action(request) == _ACTION


def get_caller_identity(record: Record, verifier: Verifier) -> Answer:
    """Verify a request and name its caller.

    Raises:
        RefusalError: an STS error: InvalidAction, MissingAuthenticationToken, IncompleteSignature,
            InvalidClientTokenId, ExpiredToken or SignatureDoesNotMatch.
    """
    _check_action(record.request)
    try:
        authorization = read_authorization(record.request)
        if authorization.service != "sts":
            raise SignatureError("Credential should be scoped to the service sts", Flaw.SCOPE)
        credentials = verifier.verify(record, authorization)
    except SignatureError as error:
        raise refusal(error, Family.STS) from error
    return caller_identity(credentials.arn, credentials.user_id, credentials.account, record.request_id)


def _action(request: Request) -> tuple[str, str]:
    form = dict(query_pairs(request.body.decode("latin-1")))
    action, version = (form.get(name, b"").decode("utf-8", "replace") for name in (b"Action", b"Version"))
    return action, version


def _check_action(request: Request) -> None:
    content_type = (request.value("content-type") or "").partition(";")[0].strip().lower()
    if content_type != "application/x-www-form-urlencoded":
        raise RefusalError("InvalidAction", 400, "The body is not application/x-www-form-urlencoded")
    action, version = _action(request)
    if (action, version) != _ACTION:
        raise RefusalError("InvalidAction", 400, f"Could not find operation {action} for version {version}")
