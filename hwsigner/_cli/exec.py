"""`hwsigner exec NAME -- COMMAND …`: run a program whose AWS SDK finds the credentials of a profile, or of flags."""

from __future__ import annotations

import argparse
import gc
import hmac
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from hwsigner._aws.config_file import find_default_credentials
from hwsigner._cli.parser import Arguments, Parser, is_of_system_agent
from hwsigner._config.flags import IDENTITY, PROFILE, SESSION
from hwsigner._monitoring.log import Log
from hwsigner._refresh.monitor import Monitor
from hwsigner.errors import HwsignerWarning, NoProfileError, UsageError

if TYPE_CHECKING:
    from hwsigner._cli.served_profiles import ServedProfile
    from hwsigner._config.settings import Settings
    from hwsigner._serving.server import HTTPServer

HELP = "run a command with credentials"

_HOP_LIMIT = 64
# What the SDKs would prefer to the container endpoint, or take for another one.
_REMOVED = (
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_DEFAULT_PROFILE",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)


def add_arguments(parser: Parser) -> None:
    """Add the profile's name, the command, and the flags that may stand for a profile."""
    parser.usage = "hwsigner exec NAME|<flags> -- COMMAND [ARGUMENT …]"
    parser.hint = "Write hwsigner exec NAME -- COMMAND, with the profile's name alone"
    parser.add_argument(
        "name",
        nargs=argparse.REMAINDER,
        action=_NameAndCommand,
        metavar="NAME -- COMMAND …",
        help="profile of config.toml (or give flags, and no name); program to run, and its arguments",
    )
    parser.add_flags(IDENTITY, SESSION, PROFILE)
    parser.takes_hidden = True


def run(arguments: Arguments) -> int:
    """Run the command with an endpoint that gives credentials and refreshes them. Without a session, it is not run."""
    from hwsigner._cli.child import run_program
    from hwsigner._cli.process import report_shorter_session, report_thread_failures
    from hwsigner._cli.server_run import close_in_time
    from hwsigner._config.monitoring import read_monitoring
    from hwsigner._monitoring.audit import open_audit
    from hwsigner._pins.terminal import release_terminal
    from hwsigner._system.processes import inheritable_descriptors

    inherited = inheritable_descriptors()
    gc.enable()  # Unlike other commands, this one keeps running.
    if not arguments.command:
        chosen = arguments.profile or arguments.config_profile
        by_flag = f"--profile {chosen}" if chosen else "NAME"
        raise UsageError("no command was given", f"Write hwsigner exec {by_flag} -- COMMAND")
    _warn_of_default_profile()
    log = Log()
    chosen = read_monitoring(os.environ)
    monitor = Monitor(log, open_audit(chosen.audit_log, chosen.audit, rate=chosen.audit_rate, log=log.note))
    values = _settings(arguments)
    profile = _profile(arguments, values)
    server, variables = _endpoint(profile, monitor, log.refused)
    # In this thread, so that Ctrl-C ends it; and first, as without credentials the command is not run.
    credentials = profile.credentials()
    if credentials is not profile.credentials.of_agent:
        report_shorter_session(credentials, values)
    release_terminal()
    report_thread_failures()
    serving = threading.Thread(target=server.run, name="hwsigner-server", daemon=True)

    def start() -> None:
        profile.start()
        serving.start()

    # A key that came in a variable or an open file has been read, and the command does not inherit it.
    environ = child_environment(os.environ, variables)
    status = run_program(arguments.command, environ, start, inherited=inherited)
    server.stop()
    # The server too: an interpreter that ends under a running event loop may crash.
    if not close_in_time([profile.close, serving.join]):
        os._exit(status)
    return status


class _NameAndCommand(argparse.Action):
    """Splits the arguments into the profile's name, None if they begin with the dashes, and the command."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, words: Any, *_: Any) -> None:
        namespace.name = words[0] if words and words[0] != "--" else None
        rest = words[1:] if namespace.name else words
        namespace.command = rest[1:] if rest[:1] == ["--"] else rest


def _settings(arguments: Arguments) -> Settings:
    """Return the settings of the profile that is named, or else of the flags."""
    from hwsigner._cli.served_profiles import read_profile

    others = _others(arguments)
    if arguments.name is None and not others:
        hint = "Write hwsigner exec NAME -- COMMAND, or give the flags of credential-process before the dashes"
        raise UsageError("no profile is named, and no flags are given", hint)
    if arguments.name is not None and others:
        hint = "Write hwsigner exec NAME -- COMMAND; with other flags, name the profile by --profile"
        raise UsageError(f"--{min(others)} can't be combined with a profile's name", hint)
    try:
        return arguments.settings if arguments.name is None else read_profile(arguments.name)
    except NoProfileError as error:
        if is_of_system_agent(arguments.name):
            arguments.hidden = error
            return arguments.settings
        if shutil.which(arguments.name):
            error.hint = f"Name the profile first: hwsigner exec NAME -- {arguments.name} …"
        raise


def _others(arguments: Arguments) -> set[str]:
    return {flag.name for flag, _ in arguments.given} - {"strict"}


def _profile(arguments: Arguments, values: Settings) -> ServedProfile:
    """Return the profile that is named, or else the one that the flags describe or name.

    Its sessions and failures are not logged, as lines would mix with the command's: the SDK gets the reason.
    """
    from hwsigner._cli.served_profiles import of_settings

    asks_agent = _others(arguments) <= {flag.name for flag in PROFILE}
    name = arguments.name or arguments.profile or arguments.config_profile
    profile = of_settings(values, name, asks_agent=asks_agent, hidden=arguments.hidden)
    if arguments.name is None and not (arguments.hidden and asks_agent):
        profile.credentials.own()  # Reports invalid flags now.
    return profile


def _endpoint(
    profile: ServedProfile, monitor: Monitor, log: Callable[[str], None]
) -> tuple[HTTPServer, dict[str, str]]:
    """Return a server on a free port, and the variables that lead SDKs to it."""
    from hwsigner._serving.application import Application, container_path
    from hwsigner._serving.listener import listen, names_of
    from hwsigner._serving.server import HTTPServer
    from hwsigner._serving.token_file import new_token

    token = new_token()
    listener = listen("127.0.0.1", 0, _HOP_LIMIT)
    application = Application(names_of(listener, []), log)
    # The command may become another user, and no one else has the token of a server that ends with it.
    is_token = partial(hmac.compare_digest, token)
    give = partial(monitor.given_to_peer, profile.name) if monitor.wants_given else None
    application.add_container(profile.name, profile.credentials, is_token, give=give)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}{container_path(profile.name)}"
    return HTTPServer(application, [listener], log=log), {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": url,
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": token.decode(),
    }


def child_environment(environ: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Return a command's environment: with the endpoint's variables, and without those that SDKs prefer."""
    return {**{name: value for name, value in environ.items() if name not in _REMOVED}, **variables}


def _warn_of_default_profile() -> None:
    found = find_default_credentials(os.environ)
    if found:
        problem = f"the command's SDK may prefer the credentials of {found} to those of hwsigner"
        warnings.warn(HwsignerWarning(problem, "Rename that profile"), stacklevel=1)
