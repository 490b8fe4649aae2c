"""`hwsigner serve`: credentials over HTTP for the AWS SDKs, by the container endpoint and IMDSv2."""

from __future__ import annotations

import gc
import os
import shlex
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hwsigner._cli.metrics import METRICS, metrics_output
from hwsigner._cli.monitoring import monitoring_values, open_log
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config.flags import IDENTITY, PROFILE, SESSION, Flag, boolean, switch, whole_number
from hwsigner._config.monitoring import MONITORING
from hwsigner._http.address import host_name
from hwsigner._system import notices
from hwsigner._version import __version__
from hwsigner.errors import UsageError, printable

if TYPE_CHECKING:
    from hwsigner._cli.served_profiles import ServedProfile
    from hwsigner._refresh.monitor import Monitor

HELP = "serve credentials over HTTP, as ECS, EC2 and EKS do"


def _path(text: str) -> str:
    """Convert a path. As an empty text it is not like no flag: `serve` would serve a profile instead."""
    if not text:
        raise ValueError("write the path of the policy")
    return text


_FLAGS = (
    Flag("port", "port to listen on; 0 for any free one", "PORT", whole_number(0, 65535), 9911),
    Flag("hop-limit", "IP TTL of the responses", "N", whole_number(1, 255), 64),
    Flag("address", "IP address to listen on; any other than loopback needs TLS", "IP", default="127.0.0.1"),
    Flag("imds", "serve IMDSv2 too; the default without NAMEs", convert=boolean),
    Flag("allow-user", "user (name or number) whose processes may have credentials too; repeatable", "USER", many=True),
    Flag("token-folder", "folder for the tokens of the container endpoint", "DIR"),
    Flag("tls-certificate", "serve HTTPS with this certificate and its chain (PEM)", "FILE"),
    Flag("tls-key", "private key of the certificate (PEM); default: in the same file", "FILE"),
    Flag("host-name", "name by which clients may call the server; repeatable", "NAME", host_name, many=True),
    Flag(
        "pods",
        "serve Pods on port 80 of 169.254.170.23; this policy says which service account has which profile",
        "FILE",
        _path,
    ),
    switch("check", "with --pods: print what is wrong with the policy and config.toml, and end; needs no cluster"),
    Flag("node-name", "name of this node, for --pods (default: the variable NODE_NAME)", "NAME"),
    *MONITORING,
    *METRICS,
)
# The flags that can be combined with NAMEs.
_COMMON = {flag.name for flag in _FLAGS} | {"strict"}
_NOT_WITH_PODS = {"imds", "allow-user", "token-folder"} | {flag.name for flag in IDENTITY + SESSION + PROFILE} - _COMMON


def add_arguments(parser: Parser) -> None:
    """Add the profiles' names and the flags."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="profiles of config.toml; or give the flags of one")
    parser.add_flags(_FLAGS, IDENTITY, SESSION, PROFILE)


def run(arguments: Arguments) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP. Raises if there are no credentials, and another attempt would not help."""
    if arguments.pods:
        from hwsigner._cli.serve_pods import run_pods

        return run_pods(arguments, _NOT_WITH_PODS)
    _check_without_pods(arguments)
    from hwsigner._cli.process import raise_descriptor_limit
    from hwsigner._cli.server_run import ServerRun
    from hwsigner._cli.serving_sockets import activated_sockets, base_url, server_tls
    from hwsigner._monitoring.audit import open_audit
    from hwsigner._monitoring.metrics import Metrics, ProfileHealth
    from hwsigner._refresh.monitor import Monitor
    from hwsigner._serving.admission import Users
    from hwsigner._serving.application import Application
    from hwsigner._serving.listener import hold_localhost, listen, names_of
    from hwsigner._serving.server import HTTPServer
    from hwsigner._serving.token_file import TokenFile, keep_imds_key, token_folder

    gc.enable()  # Unlike other commands, this one keeps running.
    chosen = monitoring_values(arguments)
    log = open_log(chosen)
    notices.set_notifier(log.note)
    has_imds, users, tls = _has_imds(arguments), Users(_uids(arguments), log.refused), server_tls(arguments)
    if tls is None:  # An unfinished handshake takes ten times the memory of an unfinished request.
        raise_descriptor_limit()
    activated = activated_sockets(arguments, tls, [arguments.address])
    monitor = Monitor(log, open_audit(chosen.audit_log, chosen.audit, rate=chosen.audit_rate, log=log.note))
    profiles = _profiles(arguments, monitor)
    sockets = activated or [listen(arguments.address, arguments.port, arguments.hop_limit)]
    # With TLS, clients know the server by its certificate.
    localhost = ["localhost"] if tls or hold_localhost(sockets, arguments.hop_limit) else []
    names = [name for one in sockets for name in names_of(one, [*arguments.host_name, *localhost])]
    application = Application(names, log.refused)
    # Once the port is held, but before requests are answered: clients that wait for the port must find their tokens.
    folder = Path(arguments.token_folder).absolute() if arguments.token_folder else token_folder(os.environ)
    tokens = {one.name: TokenFile(folder, one.name, is_new=not activated) for one in profiles}
    gives = {one.name: partial(monitor.given_to_peer, one.name) if monitor.wants_given else None for one in profiles}
    for one in profiles:
        application.add_container(one.name, one.credentials, tokens[one.name].matches, users, gives[one.name])
    if has_imds:
        first = profiles[0]
        application.add_imds(first.role, first.credentials, keep_imds_key(folder), users, gives[first.name])
    base = base_url(sockets[0], arguments.host_name, tls)
    monitor.metrics = Metrics(__version__, lambda: [ProfileHealth(one.name, *one.state()) for one in profiles])
    with metrics_output(arguments, monitor.metrics, log):
        if log.is_text:
            _announce(base, {name: token.path for name, token in tokens.items()}, has_imds)
        else:
            log.note(f"listening on {base}")
        ServerRun(profiles, HTTPServer(application, sockets, log=log.refused, tls=tls)).run()
    return 0


def _check_without_pods(arguments: Arguments) -> None:
    for name in ("node-name", "check"):
        if getattr(arguments, name.replace("-", "_")):
            raise UsageError(f"--{name} is given without --pods", "Give both flags")


def _has_imds(arguments: Arguments) -> bool:
    from hwsigner._system.loopback import KNOWS_OWNERS
    from hwsigner._system.support import require_linux

    if arguments.imds:
        require_linux("--imds", "Leave it out, and use the endpoint for containers, which has a token")
    has_tls = arguments.tls_certificate is not None
    if arguments.imds and has_tls:
        problem = "--imds can't be combined with --tls-certificate"
        raise UsageError(problem, "IMDS is only for this machine, and has no TLS")
    if arguments.imds and len(arguments.names) > 1:
        problem = f"--imds can't be combined with {len(arguments.names)} profiles"
        raise UsageError(problem, "IMDS has one role: name one profile")
    return KNOWS_OWNERS and not (arguments.names or has_tls) if arguments.imds is None else arguments.imds


def _profiles(arguments: Arguments, monitor: Monitor) -> list[ServedProfile]:
    from hwsigner._cli.served_profiles import of_flags, of_profile

    others = [flag.name for flag, _ in arguments.given if flag.name not in _COMMON]
    if arguments.names and others:
        raise UsageError(f"--{others[0]} can't be combined with profile names", "Add it to the profile instead")
    if arguments.names:
        found = [of_profile(name, monitor) for name in dict.fromkeys(arguments.names)]
    else:
        found = [of_flags(arguments, monitor, asks_agent={*others} <= {flag.name for flag in PROFILE})]
    for one in found:
        one.credentials.own()  # Reports invalid flags now.
    return found


def _uids(arguments: Arguments) -> set[int]:
    from hwsigner._system.users import find_uid

    users = {0, os.geteuid()}  # Root can read the token anyway.
    for user in arguments.allow_user:
        uid = find_uid(user)
        if uid is None:
            raise UsageError(f"--allow-user {user!r} is not a user of this machine", "Give a name or a number")
        users.add(uid)
    return users


def _announce(base: str, token_files: dict[str, Path], has_imds: bool) -> None:
    """Print what a shell needs, in the words of `aws_signing_helper serve` as far as it has them."""
    from hwsigner._serving.application import container_path

    lines = [f"Local server started on port: {base.rpartition(':')[2]}", "Make it available to the sdk by running:"]
    if has_imds:
        lines.append(f"export AWS_EC2_METADATA_SERVICE_ENDPOINT={base}/")
    for name, path in token_files.items():
        if len(token_files) > 1:
            lines.append(f"# {printable(name)}, one of {len(token_files)}")
        lines.append(f"export AWS_CONTAINER_CREDENTIALS_FULL_URI={base}{container_path(name)}")
        lines.append(f"export AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE={shlex.quote(str(path))}")
    if sys.stderr is not None:
        with suppress(OSError):  # A full or closed stderr does not stop the server.
            os.write(sys.stderr.fileno(), os.fsencode("".join(f"{line}\n" for line in lines)))
