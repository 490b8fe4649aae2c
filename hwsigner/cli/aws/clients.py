"""The flags of commands that call the AWS APIs, and the clients that these flags choose."""

from __future__ import annotations

import os

from hwsigner.aws.apis import ServiceClients
from hwsigner.aws.region import check_region
from hwsigner.cli.parser import Arguments
from hwsigner.config.flags import Flag
from hwsigner.http.address import check_protected, read_url

AWS = (
    Flag("region", "AWS region (default: the one of the AWS SDKs)", "REGION"),
    Flag("aws-profile", "profile of the AWS SDKs' files, with an administrator's credentials", "NAME"),
    Flag("endpoint", "URL of the AWS APIs, such as an emulator's (default: those that the SDKs choose)", "URL"),
)


def clients(arguments: Arguments, *, region: str | None = None) -> ServiceClients:
    """Return the clients for a command's flags of `AWS`.

    A profile of config.toml does not count: its endpoint and region are those of CreateSession.

    Args:
        arguments: the command's arguments.
        region: the region if no flag gives one.

    Raises:
        HwsignerError: boto3 is not installed, or as `ServiceClients`.
        UsageError: the region or the endpoint is malformed, or the endpoint is `http:` on another machine.
    """
    given = {flag.name: value for flag, value in arguments.given}
    endpoint = given.get("endpoint")
    if endpoint:
        check_protected("--endpoint", read_url("--endpoint", endpoint))
    if given.get("region"):
        check_region(given["region"])
    # boto3 itself reads only AWS_DEFAULT_REGION; the other SDKs, and people, set AWS_REGION.
    chosen = given.get("region") or region or os.environ.get("AWS_REGION")
    return ServiceClients(chosen, profile=given.get("aws-profile"), endpoint=endpoint)
