"""`hwsigner console`: print or open a URL that signs in to the AWS console with a session."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING

from hwsigner._aws.console import assume_role, console_page, federation_endpoint, sign_in_url
from hwsigner._aws.credentials import Credentials, read_agent_credentials
from hwsigner._aws.region import parse_then_role
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import asker, report
from hwsigner._config import settings
from hwsigner._config.flags import IDENTITY, PROFILE, SESSION, Flag, switch
from hwsigner._http.connection import find_proxy
from hwsigner._http.transport import TransportOptions
from hwsigner.errors import ServiceError

if TYPE_CHECKING:
    from hwsigner._aws.create_session import Service, SessionRequest
    from hwsigner._identity import Identity

HELP = "print a URL that signs in to the AWS console"

_OWN = (
    Flag("then-role", "role to assume with the session and sign in to, such as one of another account", "ARN"),
    Flag("destination", "page to open: a service such as s3, or its URL (default: the console's home)", "SERVICE|URL"),
    switch("open", "open the URL in the browser, and do not print it"),
    Flag("federation-endpoint", "URL that gives sign-in tokens (default: the partition's)", "URL"),
)
# Every role allows the last one. Which is the longest is not known before AWS refuses a longer one.
_DURATIONS = (43200, 28800, 14400, 7200, 3600)


def add_arguments(parser: Parser) -> None:
    """Add the flags."""
    parser.add_flags(_OWN, IDENTITY, SESSION, PROFILE)


def run(arguments: Arguments) -> int:
    """Get credentials, exchange them for a sign-in token, and print or open its URL."""
    if arguments.open:
        from hwsigner._system.support import require_linux

        require_linux("--open", "Leave it out, and open the URL that is printed")  # It must know the browser's user.
    service = settings.service(arguments.settings)
    own, then_role = arguments.settings.role_arn or "", arguments.then_role
    partition = own.split(":")[1]
    if then_role:
        parse_then_role(then_role, own)
    endpoint = federation_endpoint(partition, arguments.federation_endpoint)
    page = console_page(partition, service.region, arguments.destination)
    # Always verified: this request has the credentials themselves.
    limits = (service.transport.connect_timeout, service.transport.read_timeout)
    transport = TransportOptions(*limits, cas=service.transport.cas, proxy=find_proxy(endpoint, os.environ))
    credentials = _of_agent(arguments) or _own(arguments, service)
    if then_role:
        name = arguments.settings.role_session_name or "hwsigner"
        credentials = assume_role(credentials, then_role, region=service.region, session_name=name)
    url = sign_in_url(credentials, page, endpoint=endpoint, transport=transport, timeout=service.timeout)
    if arguments.open:
        from hwsigner._cli.browser import open_in_browser

        open_in_browser(url)
    else:
        print(url, flush=True)
    works = "" if arguments.open else "the URL is secret and works for 15 minutes; "
    report(f"{works}the console session ends at {credentials.expiration:%Y-%m-%dT%H:%M:%SZ}")
    return 0


def _of_agent(arguments: Arguments) -> Credentials | None:
    """Return a running agent's credentials, if no flag changes the key or the session."""
    name = arguments.profile or arguments.config_profile
    if not name or {flag.name for flag, _ in arguments.given} - {flag.name for flag in (*_OWN, *PROFILE)}:
        return None
    from hwsigner._agent.client import find_credentials

    body = find_credentials(name, ask_pin=asker(arguments.settings.pinentry))
    return read_agent_credentials(body, role_arn=arguments.settings.role_arn or "") if body else None


def _own(arguments: Arguments, service: Service) -> Credentials:
    """Create a session, the longest one that AWS allows if no duration is set and no role follows."""
    from hwsigner._aws.create_session import create_session
    from hwsigner._cli.monitoring import audit_of_sessions
    from hwsigner._identity import open_identity

    is_set = "session_duration" in vars(arguments.settings)
    request = settings.session_request(arguments.settings)
    audit = audit_of_sessions()
    with open_identity(settings.identity_source(arguments.settings)) as identity:
        create = create_session if is_set or arguments.then_role else _create_longest
        credentials = create(identity, request, service)
    if audit:
        audit.give_self(arguments.profile or arguments.config_profile or "", credentials)
    return credentials


def _create_longest(identity: Identity, request: SessionRequest, service: Service) -> Credentials:
    """Create the longest session that AWS allows. It shortens those that the role allows and the profile does not."""
    from hwsigner._aws.create_session import create_session

    for longer, duration in pairwise(_DURATIONS):
        try:
            return create_session(identity, request._replace(duration=longer), service)
        except ServiceError as error:
            if "DurationSeconds" not in error.message:
                raise
            report(f"the role allows no session of {longer // 3600} hours: asking for {duration // 3600}")
    return create_session(identity, request._replace(duration=_DURATIONS[-1]), service)
