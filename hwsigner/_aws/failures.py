"""Calls by botocore that fail: it waits when they are throttled, refuses odd answers, and names what was missing.

By default, IAM Roles Anywhere takes one request a second for each kind of resource. botocore's own pauses are shorter
than that, and it says nothing of them. Its parsers let through answers that are not as their models say. Its errors are
turned into those of hwsigner, which name the call, the resource and the missing permission.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import repeat
from time import sleep
from typing import Any

from hwsigner._aws.create_session import clock_difference
from hwsigner.errors import ConfigError, HwsignerError, ServiceError, ServiceUnreachableError, UsageError

THROTTLED = frozenset({"Throttling", "ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded"})
# Operations that make another one each time, and the statuses after which one may be there.
_MAKING = frozenset({"CreateTrustAnchor", "CreateProfile", "CreateRole", "ImportCrl"})
_MAYBE_DONE = frozenset({500, 502, 504})
# Seconds before each further attempt. They grow for the case that other programs use the same quota.
PAUSES = (1.1, 1.3, 1.7, 2.5, 4.0, 6.0, 9.0)
_JITTER_SECONDS = 0.3
_TYPES: dict[str, type[Any]] = {"structure": dict, "list": list, "map": dict, "string": str, "blob": bytes}
_TYPES |= {"boolean": bool, "integer": int, "long": int, "timestamp": datetime}
# What every resource has, though the models do not always say so.
_USED_MEMBERS = {
    "TrustAnchorDetail": ("trustAnchorArn",),
    "ProfileDetail": ("profileArn",),
    "AttributeMapping": ("certificateField", "mappingRules"),
    "MappingRule": ("specifier",),
    "CrlDetail": ("crlId",),
    "SubjectSummary": ("subjectId",),
    "GetRoleResponse": ("Role",),
    "Role": ("Arn", "RoleName"),
    "AttachedPolicy": ("PolicyArn",),
}
_SURROGATE = re.compile(r"[\ud800-\udfff]")
NOT_FOUND = frozenset({"NoSuchEntity", "NoSuchEntityException", "ResourceNotFoundException"})
MAKING_CLIENTS = "boto3"
DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
OF_CLOCK = frozenset({"RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "InvalidSignatureException"})
OF_CREDENTIALS = frozenset({"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId"})
OF_CREDENTIALS |= {"ExpiredToken", "ExpiredTokenException"}
# Calls that need a second permission, which the service does not always name.
_ALSO = {
    "rolesanywhere:CreateTrustAnchor": "iam:CreateServiceLinkedRole",
    "rolesanywhere:CreateProfile": "iam:PassRole",
    "rolesanywhere:UpdateProfile": "iam:PassRole",
}
# "User: ARN is not authorized to perform: iam:GetRole on resource: role web because no … policy allows it"
_MISSING = re.compile(
    r"(?:User: (?P<caller>\S+) )?is not authorized to perform: (?P<action>[\w-]+:\w+)"
    r"(?: on resource: (?P<resource>.+?))?(?P<reason> because .*| with an explicit deny.*)?$"
)
_LIMIT = re.compile(r" because no (permissions boundary|session policy|service control policy) allows the ")
_SHOWN_CHARACTERS = 500
# What botocore's parsers raise for an answer of another shape or encoding, and its clients for an invalid setting.
_BREAKAGES = (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError)
_CLOCK_TOLERANCE = 60


class Patience:
    """Decides whether a request is sent again, and waits first if it was throttled. For botocore's event needs-retry.

    If `makes_once`, operations that make something are not sent again if AWS may have done that.
    """

    def __init__(self, say: Callable[[str], None], *, makes_once: bool = False) -> None:
        self._say = say
        self._once = _MAKING if makes_once else frozenset[str]()

    def __call__(
        self, *, response: Any, operation: Any, attempts: int, caught_exception: Exception | None, **_: object
    ) -> float | None:
        """Wait, and return 0 so that botocore sends the request again; None leaves the decision to botocore.

        Raises botocore's error if the request must not be sent again.
        """
        from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError

        code = (response[1].get("Error") or {}).get("Code") if response else None
        if operation.name in self._once and code not in THROTTLED:
            if caught_exception and not isinstance(caught_exception, ConnectTimeoutError | EndpointConnectionError):
                raise caught_exception
            if response and response[0].status_code in _MAYBE_DONE:
                raise ClientError(response[1], operation.name)
        if code not in THROTTLED or attempts > len(PAUSES):
            return None
        pause = PAUSES[attempts - 1] + random.uniform(0, _JITTER_SECONDS)  # noqa: S311 - no secret
        self._say(f"AWS takes no more {operation.name} requests for now: waiting {pause:.1f} s")
        sleep(pause)
        return 0


def fits_model(answer: Any, shape: Any) -> bool:
    """Return whether all values in an answer have the types of botocore's model, and those that are used are there."""
    pending: list[tuple[Any, Any]] = [(answer, shape)]
    while pending:
        value, shape = pending.pop()
        kind = shape.type_name
        if not isinstance(value, _TYPES.get(kind, object)):
            if shape.name != "policyDocumentType":  # botocore parses the documents of IAM.
                return False
        elif kind == "structure":
            for name in _USED_MEMBERS.get(shape.name, ()):
                if name not in value or (name.lower().endswith("arn") and str(value[name]).count(":") < 5):
                    return False
            for name in value.keys() & shape.members.keys():
                pending.append((value[name], shape.members[name]))
        elif kind == "list":
            pending += zip(value, repeat(shape.member))
        elif kind == "string" and _SURROGATE.search(value):
            return False
    return True


def check_json(response_dict: Mapping[str, Any] | None, **_: Any) -> None:
    """Check that a successful answer is a JSON object, as botocore takes anything else for an empty one.

    For botocore's event "response-received". The error is a ResponseParserError; `translated` names the call.
    """
    from botocore.parsers import ResponseParserError

    if response_dict and 200 <= response_dict["status_code"] < 300:  # None if there was no answer.
        try:
            is_object = isinstance(json.loads(response_dict["body"] or b"{}"), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise ResponseParserError("not a JSON object")


def not_from_aws(what: str) -> ServiceError:
    """Return the error for an answer that is not what the service's model says."""
    return ServiceError(f"the answer to {what} is not from AWS", "Check --endpoint and look for a proxy")


@contextmanager
def translated(action: str, resource: str) -> Iterator[None]:
    """Turn the errors of botocore into those of hwsigner."""
    from botocore import exceptions as botocore
    from botocore.parsers import ResponseParserError

    what = f"{action} of {resource[:_SHOWN_CHARACTERS]!r}" if resource else action
    try:
        yield
    except botocore.ClientError as error:
        raise _refusal(what, action, error) from error
    except (ResponseParserError, botocore.PaginationError) as error:
        raise not_from_aws(what) from error
    except botocore.BotoCoreError as error:
        raise _failure(what, error) from error
    except _BREAKAGES as error:
        if "Invalid endpoint" in str(error):
            hint = "Use https://host, such as http://127.0.0.1:4566"
            raise UsageError("the endpoint is not a URL", hint) from error
        raise _failure(what, error) if action == MAKING_CLIENTS else not_from_aws(what) from error


def _failure(what: str, error: Exception) -> HwsignerError:
    """Return the error for a call that got no answer, or was not sent."""
    from botocore import exceptions as botocore

    if isinstance(error, botocore.HTTPClientError | botocore.ConnectionError):
        hint = "Check the network, the region, the endpoint and the CA bundle (AWS_CA_BUNDLE)"
        return ServiceUnreachableError(f"{what} got no answer: {_flat(error)}", hint)
    if isinstance(error, botocore.ParamValidationError):
        return UsageError(f"{what} was not sent: {_flat(error)}", "Correct that value")
    if isinstance(error, botocore.ProfileNotFound):
        return ConfigError(_flat(error), "Correct or unset AWS_PROFILE, or name a profile of ~/.aws/config")
    if isinstance(error, botocore.NoRegionError):
        return UsageError("no region was given", "Give --region, such as eu-central-1, or set AWS_REGION")
    of_sso = botocore.CredentialRetrievalError, botocore.TokenRetrievalError, botocore.SSOError
    if isinstance(error, (botocore.NoCredentialsError, botocore.PartialCredentialsError, *of_sso)):
        hint = "Run aws configure or aws sso login, or name a profile of the SDKs' files with --aws-profile"
        return ConfigError(f"no credentials for the AWS APIs: {_flat(error)}", hint)
    return ConfigError(f"{what} failed: {_flat(error)}", "Check the settings of the AWS SDKs")


def _refusal(what: str, action: str, error: Any) -> HwsignerError:
    """Return the error for an answer that is not a success."""
    answer = error.response.get("Error", {})
    code, message = str(answer.get("Code", "")), _flat(answer.get("Message") or "no message")
    metadata = error.response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode", 0)
    if code in DENIED:
        problem, hint = _denial(what, action, message)
    else:
        problem, hint = f"{what} was refused: {code}: {message}", _hint(code, status, metadata)
    retryable = code in THROTTLED or status >= 500
    return ServiceError(problem, hint, retryable=retryable)


def _denial(what: str, action: str, message: str) -> tuple[str, str]:
    parts = _MISSING.search(message)
    if parts is None:
        also = f" and {_ALSO[action]}" if action in _ALSO else ""
        return f"{what} was refused: {message}", f"Ask for a policy that allows {action}{also}"
    missing = parts["action"] + (f" on {parts['resource']}" if parts["resource"] else "")
    problem = f"{what} was refused: {parts['caller'] or 'the caller'} lacks {missing}"
    if "explicit deny" in message:
        return f"{problem}{parts['reason'] or ''}", f"Ask for an exception to the policy that denies {parts['action']}"
    limit = _LIMIT.match(parts["reason"] or "")
    if limit:  # The caller's own policies may allow it.
        return f"{problem}{parts['reason']}", f"Ask for a {limit[1]} that allows {parts['action']}"
    return problem, f"Ask for a policy that allows {parts['action']}"


def _hint(code: str, status: int, metadata: dict[str, Any]) -> str:
    if 300 <= status < 400:
        return "AWS redirects nothing here: check --endpoint and look for a proxy"
    if code in OF_CLOCK:
        return _clock_hint(metadata) or "Check the clock and the secret access key, and look for a proxy"
    if code in OF_CREDENTIALS:
        return "Renew the credentials, for example with aws sso login, or name others with --aws-profile"
    if code in THROTTLED or status >= 500:
        return "Retry later"
    if code in NOT_FOUND:
        return "Check the name or ARN, the account and the region"
    if code in ("LimitExceeded", "LimitExceededException", "ServiceQuotaExceededException"):
        return "Remove what is not needed, or ask AWS for a higher quota"
    return "Correct what the message names"


def _clock_hint(metadata: dict[str, Any]) -> str:
    """Return by how much this machine's clock is off by the Date header, or an empty string."""
    try:
        theirs = parsedate_to_datetime(metadata.get("HTTPHeaders", {}).get("date", ""))
    except ValueError:
        return ""
    off = (datetime.now(UTC) - theirs.astimezone(UTC)).total_seconds()
    if abs(off) < _CLOCK_TOLERANCE:
        return ""
    return f"This machine's clock is {clock_difference(off)} AWS's: fix the clock"


def _flat(text: object) -> str:
    """Return a message as one line without a full stop at its end."""
    return " ".join(str(text).split())[:_SHOWN_CHARACTERS].rstrip(".")
