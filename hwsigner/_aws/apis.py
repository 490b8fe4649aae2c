"""Clients of the AWS APIs, whose errors name the call, the resource and the missing permission.

boto3 finds credentials, endpoints and proxies as in every other program. botocore's standard mode retries requests
that fail on the way; `hwsigner._aws.failures` those that are throttled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from copy import copy
from functools import cached_property
from itertools import islice
from typing import Any

from hwsigner._aws.failures import (
    MAKING_CLIENTS,
    NOT_FOUND,
    Patience,
    check_json,
    fits_model,
    not_from_aws,
    translated,
)
from hwsigner._system.notices import notify
from hwsigner.errors import HwsignerError, ServiceError, install_command

_CONNECT_TIMEOUT = 5
_READ_TIMEOUT = 30
# By partition. Elsewhere, botocore knows the region.
_IAM_REGIONS = {"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1", "aws-eusc": "eusc-de-east-1"}
# An end for a server that always has more. A large fleet has many pages of subjects.
_MOST_PAGES = 5000


def endpoint_of_variables(service: str) -> str | None:
    """Return the URL in AWS_ENDPOINT_URL_SERVICE, else AWS_ENDPOINT_URL, if botocore reads neither.

    Before 1.31, as in Debian 12, it would ask AWS itself in place of an emulator.
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

        In errors, the first parameter that is a string names the resource.

        Raises:
            ServiceError: the service refused. The message has the operation, the resource and, if one is missing, the
                permission.
            ServiceUnreachableError: no service was reached.
            UsageError: a parameter is not valid, or a setting of the SDKs' files.
        """
        with translated(self._action(operation), _resource(parameters)):
            return self._answer(operation, parameters)

    def find(self, operation: str, **parameters: Any) -> dict[str, Any] | None:
        """Call an operation that reads a resource. Return None if the service has no such resource."""
        return self.call_unless(NOT_FOUND, operation, **parameters)

    def call_unless(
        self, codes: Collection[str], operation: str, *, naming: str | None = None, **parameters: Any
    ) -> dict[str, Any] | None:
        """Call an operation. Return None if the service refuses it with one of these codes.

        If the message of such a refusal has the text `naming`, it is an error nevertheless.
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

        `member` is the member of its responses that has the items, such as "profiles".
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

    A region or profile that is None or empty is that of the SDKs' files and variables; an endpoint, the one that the
    SDKs choose. `say` shows one line, before a pause of which the user should know. `before_send` is called before each
    request, also before one that is sent again. If `makes_once`, the SDK sends no request again that may have made
    something.
    """

    def __init__(
        self,
        region: str | None = None,
        *,
        profile: str | None = None,
        endpoint: str | None = None,
        say: Callable[[str], None] = notify,
        before_send: Callable[[], None] | None = None,
        makes_once: bool = False,
    ) -> None:
        try:
            import boto3
        except ImportError as error:
            raise HwsignerError(f"this needs {error.name}", f"Run {install_command('aws')}") from error
        self._endpoint = endpoint or None
        self.say = say
        self._before_send = before_send
        self._makes_once = makes_once
        from botocore.exceptions import NoRegionError
        from botocore.session import Session

        with translated(MAKING_CLIENTS, ""):
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
    def sts(self) -> ServiceClient:
        """STS: the caller's identity, and the credentials of roles."""
        return self._client("sts")

    @cached_property
    def partition(self) -> str:
        """The partition of the region, such as "aws"."""
        with translated(MAKING_CLIENTS, ""):
            return str(self._session.get_partition_for_region(self._session.region_name))

    @cached_property
    def account(self) -> str:
        """The account of the credentials, from STS. This needs no permission."""
        found = self.sts.call("get_caller_identity")
        if "Account" not in found:
            raise not_from_aws("sts:GetCallerIdentity")
        return str(found["Account"])

    def of_caller(self, access_key_id: str, secret_access_key: str, session_token: str) -> ServiceClients:
        """Return clients of the same region and endpoint, with these credentials."""
        import boto3

        found = copy(self)
        for name in ("rolesanywhere", "iam", "acm_pca", "sts", "account"):
            vars(found).pop(name, None)
        with translated(MAKING_CLIENTS, ""):
            region = self._session.region_name
            found._session = boto3.Session(access_key_id, secret_access_key, session_token, region_name=region)
        return found

    def _client(self, service: str) -> ServiceClient:
        from botocore.config import Config

        from hwsigner._aws.create_session import USER_AGENT

        limits = {"connect_timeout": _CONNECT_TIMEOUT, "read_timeout": _READ_TIMEOUT}
        config = Config(retries={"mode": "standard"}, user_agent_extra=USER_AGENT, **limits)
        with translated(MAKING_CLIENTS, ""):
            region = self._iam_region() if service == "iam" else None
            endpoint = self._endpoint or endpoint_of_variables(service)
            client = self._session.client(service, region_name=region, endpoint_url=endpoint, config=config)
        if "json" in client.meta.service_model.metadata["protocol"]:
            client.meta.events.register("response-received", check_json)
        name = client.meta.service_model.service_id.hyphenize()
        client.meta.events.register_first(f"needs-retry.{name}", Patience(self.say, makes_once=self._makes_once))
        if before_send := self._before_send:
            client.meta.events.register("before-send", lambda **_: before_send())
        return ServiceClient(client)

    def _iam_region(self) -> str | None:
        """Return the region that IAM is in. With an endpoint of its own, botocore would sign for the session's."""
        region = self._session.region_name
        return _IAM_REGIONS.get(self._session.get_partition_for_region(region)) if region else None


def _resource(parameters: dict[str, Any]) -> str:
    return next((value for value in parameters.values() if isinstance(value, str)), "")
