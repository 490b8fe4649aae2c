"""URLs that sign a browser in to the AWS console with the credentials of a session.

As in AWS's page "Enable custom identity broker access to the AWS console", the federation endpoint gives a sign-in
token for credentials. SessionDuration is not sent: without it, the console session ends with the credentials.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple
from urllib.parse import urlencode

from hwsigner._aws.create_session import USER_AGENT
from hwsigner._aws.credentials import Credentials
from hwsigner._http.address import Endpoint, check_protected, parse_url, read_url
from hwsigner._http.connection import Deadline
from hwsigner._http.transport import Response, TransportOptions, post
from hwsigner.errors import ServiceError, UsageError

_FLAG, _DESTINATION = "--federation-endpoint", "--destination"
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9/_.-]*")
_URL = re.compile(r"https://[\x21-\x7e]+")


class _Hosts(NamedTuple):
    """The hosts of a partition."""

    federation: str
    console: str


_HOSTS = {
    "aws": _Hosts("signin.aws.amazon.com", "console.aws.amazon.com"),
    "aws-us-gov": _Hosts("signin.amazonaws-us-gov.com", "console.amazonaws-us-gov.com"),
    "aws-cn": _Hosts("signin.amazonaws.cn", "console.amazonaws.cn"),
}


def federation_endpoint(partition: str, url: str | None = None) -> Endpoint:
    """Return the federation endpoint: the `https:` URL of `--federation-endpoint`, or the partition's."""
    if url:
        endpoint = read_url(_FLAG, url)
        check_protected(_FLAG, endpoint)
        return endpoint
    return parse_url(f"https://{_hosts(partition, _FLAG).federation}/federation")


def console_page(partition: str, region: str, destination: str | None = None) -> str:
    """Return the URL of a page of the console.

    The destination is a service such as "s3", or a URL; None or an empty string is the console's home.
    """
    if destination and _URL.fullmatch(destination):
        return destination
    path = destination or "console/home"
    if not _SERVICE.fullmatch(path):
        problem = f"{_DESTINATION} is {destination[:200] if destination else ''!r}, neither a service nor an https: URL"
        raise UsageError(problem, "Use a service such as s3, or the URL of a page of the console")
    return f"https://{region}.{_hosts(partition, _DESTINATION).console}/{path}?region={region}"


def assume_role(credentials: Credentials, role_arn: str, *, region: str, session_name: str) -> Credentials:
    """Return the credentials of a role that a session's role may assume, which last an hour.

    DurationSeconds is not sent: AWS's page says that the federation endpoint then refuses what is not an IAM user's.
    """
    from hwsigner._aws.apis import ServiceClients
    from hwsigner._aws.failures import not_from_aws

    keys = (credentials.access_key_id, credentials.secret_access_key, credentials.session_token)
    answer = (
        ServiceClients(region).of_caller(*keys).sts.call("assume_role", RoleArn=role_arn, RoleSessionName=session_name)
    )
    try:
        found = answer["Credentials"]
        key, secret, token = (found[name] for name in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
        return Credentials(key, secret, token, found["Expiration"], role_arn, answer["AssumedRoleUser"]["Arn"])
    except KeyError:
        raise not_from_aws("sts:AssumeRole") from None


def sign_in_url(
    credentials: Credentials, page: str, *, endpoint: Endpoint, transport: TransportOptions, timeout: float
) -> str:
    """Return a URL that signs in to the console. It is secret, and works for 15 minutes."""
    session = {
        "sessionId": credentials.access_key_id,
        "sessionKey": credentials.secret_access_key,
        "sessionToken": credentials.session_token,
    }
    form = urlencode({"Action": "getSigninToken", "Session": json.dumps(session)}).encode()
    headers = (
        ("Host", endpoint.host_header),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("User-Agent", USER_AGENT),
    )
    response = post(endpoint, endpoint.path or "/", headers, form, options=transport, deadline=Deadline(timeout))
    query = {"Action": "login", "Issuer": "hwsigner", "Destination": page, "SigninToken": _token(response, endpoint)}
    return f"{endpoint.url}?{urlencode(query)}"


def _token(response: Response, endpoint: Endpoint) -> str:
    """Return the sign-in token. No error shows the response, which may have the credentials or the token."""
    token = response.json_object().get("SigninToken")
    if response.status == 200 and isinstance(token, str) and token and token.isascii():
        return token
    if response.status == 200:
        problem, hint = "gave no sign-in token", f"Check {_FLAG} and look for a proxy"
    else:
        problem = f"refused the session: status {response.status}"
        hint = "Retry later" if response.status >= 500 else f"Check {_FLAG}, and look for a proxy or an expired session"
    raise ServiceError(f"the federation endpoint {endpoint.host_header} {problem}", hint)


def _hosts(partition: str, flag: str) -> _Hosts:
    if found := _HOSTS.get(partition):
        return found
    raise UsageError(f"the console of the partition {partition} is not known", f"Give its URL with {flag}")
