"""Clients of the AWS APIs, whose errors name the call, the resource and the missing permission.

boto3 finds credentials, endpoints and proxies as in every other program. botocore's standard mode retries requests
that are throttled or fail on the way.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any

from hwsigner.control_plane.failures import NOT_FOUND, check_json, not_from_aws, translated
from hwsigner.errors import HwsignerError, install_command

_CONNECT_TIMEOUT = 5
_READ_TIMEOUT = 30
# By partition. Elsewhere, botocore knows the region.
_IAM_REGIONS = {"aws": "us-east-1", "aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1", "aws-eusc": "eusc-de-east-1"}


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


class Client:
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
        return self.call_unless(NOT_FOUND, operation, **parameters)

    def call_unless(self, codes: Collection[str], operation: str, **parameters: Any) -> dict[str, Any] | None:
        """Call an operation. Return None if the service refuses it with one of these codes.

        Raises:
            HwsignerError: as `call`.
        """
        with translated(self._action(operation), _resource(parameters)):
            try:
                return self._answer(operation, parameters)
            except self._client.exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") in codes:
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
        name = self._client.meta.method_to_api_mapping[operation]
        shape = self._client.meta.service_model.operation_model(name).output_shape
        if shape is not None and shape.members and not shape.members.keys() & answer.keys():
            raise not_from_aws(self._action(operation))
        return answer

    def _pages(self, operation: str, member: str, parameters: dict[str, Any]) -> Iterator[Any]:
        if self._client.can_paginate(operation):
            for page in self._client.get_paginator(operation).paginate(**parameters):
                yield from page.get(member, [])
        else:
            yield from getattr(self._client, operation)(**parameters).get(member, [])

    def _action(self, operation: str) -> str:
        """Return an operation as policies name it: "iam:GetRole"."""
        name = self._client.meta.method_to_api_mapping[operation]
        return f"{self._client.meta.service_model.signing_name}:{name}"


class Clients:
    """The clients of one region, made when they are first used.

    Args:
        region: the region; None or an empty string for the one of the SDKs' files and variables.
        profile: the profile of the SDKs' files; None or an empty string for AWS_PROFILE or the default one.
        endpoint: the URL of all the services, such as an emulator's; None or an empty string for those that the SDKs
            choose.

    Raises:
        HwsignerError: boto3 is not installed.
        UsageError: there is no such profile or no region, or another setting is not valid.
    """

    def __init__(self, region: str | None = None, *, profile: str | None = None, endpoint: str | None = None) -> None:
        try:
            import boto3
        except ImportError as error:
            raise HwsignerError(f"hwsigner aws needs {error.name}", f"Run {install_command('aws')}") from error
        self._endpoint = endpoint or None
        with translated("boto3", ""):
            self._session = boto3.Session(profile_name=profile or None, region_name=region or None)

    @cached_property
    def rolesanywhere(self) -> Client:
        """IAM Roles Anywhere: trust anchors, profiles, CRLs and subjects."""
        return self._client("rolesanywhere")

    @cached_property
    def iam(self) -> Client:
        """IAM: roles."""
        return self._client("iam")

    @cached_property
    def acm_pca(self) -> Client:
        """AWS Private CA."""
        return self._client("acm-pca")

    @cached_property
    def account(self) -> str:
        """The account of the credentials, from STS. This needs no permission.

        Raises:
            HwsignerError: as `Client.call`.
        """
        found = self._client("sts").call("get_caller_identity")
        if "Account" not in found:
            raise not_from_aws("sts:GetCallerIdentity")
        return str(found["Account"])

    def _client(self, service: str) -> Client:
        from botocore.config import Config

        from hwsigner.aws.create_session import USER_AGENT

        config = Config(
            retries={"mode": "standard"},
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=_READ_TIMEOUT,
            user_agent_extra=USER_AGENT,
        )
        with translated("boto3", ""):
            region = self._iam_region() if service == "iam" else None
            endpoint = self._endpoint or endpoint_of_variables(service)
            client = self._session.client(service, region_name=region, endpoint_url=endpoint, config=config)
        if "json" in client.meta.service_model.metadata["protocol"]:
            client.meta.events.register("response-received", check_json)
        return Client(client)

    def _iam_region(self) -> str | None:
        """Return the region that IAM is in. With an endpoint of its own, botocore would sign for the session's."""
        region = self._session.region_name
        return _IAM_REGIONS.get(self._session.get_partition_for_region(region)) if region else None


def _resource(parameters: dict[str, Any]) -> str:
    return next((value for value in parameters.values() if isinstance(value, str)), "")
