"""Clients of the AWS APIs, whose errors name the call, the resource and the missing permission.

boto3 finds credentials, endpoints and proxies as in every other program. botocore's standard mode retries requests
that fail on the way; `hwsigner._aws.handlers` those that are throttled. Its errors are turned into those of hwsigner.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from itertools import islice
from typing import Any

from hwsigner._aws.create_session import clock_difference
from hwsigner._aws.handlers import THROTTLED, Patience, check_json, fits_model
from hwsigner._system.notices import notify
from hwsigner.errors import (
    ConfigError,
    HwsignerError,
    ServiceError,
    ServiceUnreachableError,
    UsageError,
    install_command,
)

_CONNECT_TIMEOUT = 5
_READ_TIMEOUT = 30
# By partition. Elsewhere, botocore knows the region.
_IAM_REGIONS = {"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1", "aws-eusc": "eusc-de-east-1"}
_NOT_FOUND = frozenset({"NoSuchEntity", "NoSuchEntityException", "ResourceNotFoundException"})
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_OF_CLOCK = frozenset({"RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "InvalidSignatureException"})
_OF_CREDENTIALS = frozenset({"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId"})
_OF_CREDENTIALS |= {"ExpiredToken", "ExpiredTokenException"}
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
# An end for a server that always has more. A large fleet has many pages of subjects.
_MOST_PAGES = 5000
_MAKING_CLIENTS = "boto3"
# What botocore's parsers raise for an answer of another shape or encoding, and its clients for an invalid setting.
_BREAKAGES = (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError)
_CLOCK_TOLERANCE = 60


def endpoint_of_variables(service: str) -> str | None:
    """Return the URL in AWS_ENDPOINT_URL_SERVICE, else AWS_ENDPOINT_URL, if botocore reads neither.

    Before 1.31, as in Debian 12, it would ask AWS itself in place of an emulator.

    Args:
        service: its name in boto3, such as "iam".
    """
    from botocore import __version__

    is_ignored = os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
    if is_ignored or tuple(map(int, __version__.split(".")[:2])) >= (1, 31):
        return None
    own = f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')}"
    return os.environ.get(own) or os.environ.get("AWS_ENDPOINT_URL") or None


class ServiceClient:
    """A client of one service."""

    def __init__(self, client: Any) -> None:
        self._client = client
        # The region of its requests. IAM has one per partition, such as us-east-1.
        self.region: str = client.meta.region_name

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call an operation and return its response.

        Args:
            operation: its name in boto3, such as "create_profile".
            parameters: its parameters. The first one that is a string names the resource in errors.

        Raises:
            ServiceError: the service refused. The message has the operation, the resource and, if one is missing, the
                permission.
            ServiceUnreachableError: no service was reached.
            UsageError: a parameter is not valid, or a setting of the SDKs' files.
        """
        with translated(self._action(operation), _resource(parameters)):
            return self._answer(operation, parameters)

    def find(self, operation: str, **parameters: Any) -> dict[str, Any] | None:
        """Call an operation that reads a resource. Return None if the service has no such resource.

        Raises:
            HwsignerError: as `call`.
        """
        return self.call_unless(_NOT_FOUND, operation, **parameters)

    def call_unless(
        self, codes: Collection[str], operation: str, *, naming: str | None = None, **parameters: Any
    ) -> dict[str, Any] | None:
        """Call an operation. Return None if the service refuses it with one of these codes.

        Args:
            codes: the codes.
            operation: its name in boto3.
            naming: a refusal whose message has this text is an error nevertheless; None for no such text.
            parameters: its parameters, as for `call`.

        Raises:
            HwsignerError: as `call`.
        """
        with translated(self._action(operation), _resource(parameters)):
            try:
                return self._answer(operation, parameters)
            except self._client.exceptions.ClientError as error:
                answer = error.response.get("Error", {})
                if answer.get("Code") in codes and not (naming and naming in str(answer.get("Message"))):
                    return None
                raise

    def items(self, operation: str, member: str, **parameters: Any) -> list[Any]:
        """Return all items of an operation that lists them in pages.

        Args:
            operation: its name in boto3, such as "list_profiles".
            member: the member of its responses that has the items, such as "profiles".
            parameters: its parameters, as for `call`.

        Raises:
            HwsignerError: as `call`.
        """
        with translated(self._action(operation), _resource(parameters)):
            return list(self._pages(operation, member, parameters))

    def _answer(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self._client, operation)(**parameters)
        shape = self._shape(operation)
        if shape is not None and shape.members and not shape.members.keys() & answer.keys():
            raise not_from_aws(self._action(operation))
        self._check(operation, answer)
        return answer

    def _pages(self, operation: str, member: str, parameters: dict[str, Any]) -> Iterator[Any]:
        if self._client.can_paginate(operation):
            pages = iter(self._client.get_paginator(operation).paginate(**parameters))
        else:
            pages = iter([getattr(self._client, operation)(**parameters)])
        for page in islice(pages, _MOST_PAGES):
            self._check(operation, page)
            yield from page.get(member, [])
        if next(pages, None) is not None:
            problem = f"the answer to {self._action(operation)} has more than {_MOST_PAGES} pages"
            raise ServiceError(problem, "Check --endpoint and look for a proxy")

    def _check(self, operation: str, answer: dict[str, Any]) -> None:
        """Check that an answer is as the service's model says: botocore's parsers take a text for a list, and so on."""
        shape = self._shape(operation)
        if shape is not None and not fits_model(answer, shape):
            raise not_from_aws(self._action(operation))

    def _shape(self, operation: str) -> Any:
        name = self._client.meta.method_to_api_mapping[operation]
        return self._client.meta.service_model.operation_model(name).output_shape

    def _action(self, operation: str) -> str:
        """Return an operation as policies name it: "iam:GetRole"."""
        name = self._client.meta.method_to_api_mapping[operation]
        return f"{self._client.meta.service_model.signing_name}:{name}"


class ServiceClients:
    """The clients of one region, made when they are first used.

    Args:
        region: the region; None or an empty string for the one of the SDKs' files and variables.
        profile: the profile of the SDKs' files; None or an empty string for AWS_PROFILE or the default one.
        endpoint: the URL of all the services, such as an emulator's; None or an empty string for those that the SDKs
            choose.
        say: shows one line, before a pause of which the user should know.

    Raises:
        HwsignerError: boto3 is not installed.
        UsageError: there is no such profile or no region, or another setting is not valid.
    """

    def __init__(
        self,
        region: str | None = None,
        *,
        profile: str | None = None,
        endpoint: str | None = None,
        say: Callable[[str], None] = notify,
    ) -> None:
        try:
            import boto3
        except ImportError as error:
            raise HwsignerError(f"hwsigner aws needs {error.name}", f"Run {install_command('aws')}") from error
        self._endpoint = endpoint or None
        self.say = say
        from botocore.exceptions import NoRegionError
        from botocore.session import Session

        with translated(_MAKING_CLIENTS, ""):
            session = Session(profile=profile or None)
            # For botocore, an empty variable or setting is the region.
            found = region or session.get_config_variable("region") or session.get_scoped_config().get("region")
            if not found:
                raise NoRegionError
            self._session = boto3.Session(botocore_session=session, region_name=found)

    @cached_property
    def rolesanywhere(self) -> ServiceClient:
        """IAM Roles Anywhere: trust anchors, profiles, CRLs and subjects."""
        return self._client("rolesanywhere")

    @cached_property
    def iam(self) -> ServiceClient:
        """IAM: roles."""
        return self._client("iam")

    @cached_property
    def acm_pca(self) -> ServiceClient:
        """AWS Private CA."""
        return self._client("acm-pca")

    @cached_property
    def partition(self) -> str:
        """The partition of the region, such as "aws"."""
        with translated(_MAKING_CLIENTS, ""):
            return str(self._session.get_partition_for_region(self._session.region_name))

    @cached_property
    def account(self) -> str:
        """The account of the credentials, from STS. This needs no permission.

        Raises:
            HwsignerError: as `ServiceClient.call`.
        """
        found = self._client("sts").call("get_caller_identity")
        if "Account" not in found:
            raise not_from_aws("sts:GetCallerIdentity")
        return str(found["Account"])

    def _client(self, service: str) -> ServiceClient:
        from botocore.config import Config

        from hwsigner._aws.create_session import USER_AGENT

        limits = {"connect_timeout": _CONNECT_TIMEOUT, "read_timeout": _READ_TIMEOUT}
        config = Config(retries={"mode": "standard"}, user_agent_extra=USER_AGENT, **limits)
        with translated(_MAKING_CLIENTS, ""):
            region = self._iam_region() if service == "iam" else None
            endpoint = self._endpoint or endpoint_of_variables(service)
            client = self._session.client(service, region_name=region, endpoint_url=endpoint, config=config)
        if "json" in client.meta.service_model.metadata["protocol"]:
            client.meta.events.register("response-received", check_json)
        name = client.meta.service_model.service_id.hyphenize()
        client.meta.events.register_first(f"needs-retry.{name}", Patience(self.say))
        return ServiceClient(client)

    def _iam_region(self) -> str | None:
        """Return the region that IAM is in. With an endpoint of its own, botocore would sign for the session's."""
        region = self._session.region_name
        return _IAM_REGIONS.get(self._session.get_partition_for_region(region)) if region else None


def _resource(parameters: dict[str, Any]) -> str:
    return next((value for value in parameters.values() if isinstance(value, str)), "")


def not_from_aws(what: str) -> ServiceError:
    """Return the error for an answer that is not what the service's model says."""
    return ServiceError(f"the answer to {what} is not from AWS", "Check --endpoint and look for a proxy")


@contextmanager
def translated(action: str, resource: str) -> Iterator[None]:
    """Turn the errors of botocore into those of hwsigner.

    Args:
        action: what is called, such as "iam:GetRole".
        resource: what the call is about, or an empty string.

    Raises:
        ServiceError, ServiceUnreachableError, UsageError, ConfigError, HwsignerError: instead of botocore's errors.
    """
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
        raise _failure(what, error) if action == _MAKING_CLIENTS else not_from_aws(what) from error


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
    if code in _DENIED:
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
    if code in _OF_CLOCK:
        return _clock_hint(metadata) or "Check the clock and the secret access key, and look for a proxy"
    if code in _OF_CREDENTIALS:
        return "Renew the credentials, for example with aws sso login, or name others with --aws-profile"
    if code in THROTTLED or status >= 500:
        return "Retry later"
    if code in _NOT_FOUND:
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
