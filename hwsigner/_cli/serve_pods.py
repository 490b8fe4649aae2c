"""`hwsigner serve --pods`: the credentials of each Pod's service account."""

from __future__ import annotations

import errno
import gc
import os
import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from hwsigner._cli.metrics import metrics_output
from hwsigner._cli.monitoring import monitoring_values, open_log
from hwsigner._cli.parser import Arguments
from hwsigner._cli.process import raise_descriptor_limit
from hwsigner._cli.server_run import ServerRun
from hwsigner._cli.serving_sockets import activated_sockets, base_url, server_tls
from hwsigner._config.profiles import SYSTEM_FILE, user_file
from hwsigner._monitoring.audit import open_audit
from hwsigner._monitoring.metrics import Metrics, PodMetrics, ProfileHealth
from hwsigner._refresh.monitor import Monitor
from hwsigner._serving.application import Application
from hwsigner._serving.credentials import LOOK_SECONDS
from hwsigner._serving.listener import hold_localhost, listen, names_of
from hwsigner._serving.pods.endpoint import ADDRESSES, PATH, PodEndpoint
from hwsigner._serving.pods.pod_policy import is_name, read_pod_policy
from hwsigner._serving.pods.profiles import PodProfiles
from hwsigner._serving.pods.sessions import PodRules
from hwsigner._serving.pods.verification import Verification
from hwsigner._serving.pods.watch import CAUSES, Watch, problem_of
from hwsigner._serving.pods.watch import PATH as PROBE_PATH
from hwsigner._serving.responses import NO_CONTENT
from hwsigner._serving.server import HTTPServer
from hwsigner._system import notices
from hwsigner._system.reloading import ReloadedFile
from hwsigner._version import __version__
from hwsigner.errors import ConfigError, HwsignerError, HwsignerWarning, UsageError

if TYPE_CHECKING:
    from hwsigner._aws.credentials import Credentials
    from hwsigner._monitoring.log import Log
    from hwsigner._serving.pods.token import PodIdentity

_PORT = 80
_IPV4, _IPV6 = ADDRESSES
_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def run_pods(arguments: Arguments, others: set[str]) -> int:
    """Serve Pods until SIGINT, SIGTERM or SIGHUP.

    `others` are the names of the flags that can't be combined with --pods.
    """
    _check(arguments, others)
    if arguments.check:
        from hwsigner._cli.pods_check import check_pods

        return check_pods(arguments.pods)
    gc.enable()  # Unlike other commands, this one keeps running.
    chosen = monitoring_values(arguments)
    log = open_log(chosen)
    notices.set_notifier(log.note)
    monitor = Monitor(log, open_audit(chosen.audit_log, chosen.audit, rate=chosen.audit_rate, log=log.note))
    node, tls = _node(arguments), server_tls(arguments)
    if tls is None:  # An unfinished handshake takes ten times the memory of an unfinished request.
        raise_descriptor_limit()
    given = {flag.name for flag, _ in arguments.given}
    addresses = [arguments.address] if "address" in given else list(ADDRESSES)
    port = arguments.port if "port" in given else _PORT
    sockets = activated_sockets(arguments, tls, addresses, ADDRESSES)
    profiles = PodProfiles(monitor, log.note)
    counts = PodMetrics()
    watch = Watch(counts.reviewed, log.note)
    rules = _Rules(arguments.pods, node, profiles, log, counts, watch)
    sockets = sockets or _listen(addresses, port, arguments.hop_limit, is_default="address" not in given)
    localhost = ["localhost"] if tls or hold_localhost(sockets, arguments.hop_limit) else []
    names = [name for one in sockets for name in names_of(one, [*arguments.host_name, *localhost])]
    application = Application(names, log.refused)
    give = partial(_give, monitor) if monitor.wants_given else None
    application.add_handler(PATH, PodEndpoint(rules.now, file=arguments.pods, give=give).respond)
    application.add(PROBE_PATH, lambda: NO_CONTENT)
    monitor.metrics = Metrics(
        __version__,
        lambda: [ProfileHealth(*one) for one in profiles.states()],
        lambda: counts.lines(application.sent, CAUSES, watch.problems()),
    )
    server = HTTPServer(application, sockets, log=log.refused, tls=tls)
    watch.start(partial(problem_of, server, sockets, has_tls=tls is not None), rules.try_out)
    with metrics_output(arguments, monitor.metrics, log, {"/live": watch.live, "/ready": watch.ready}):
        for one in sockets:
            log.note(f"serving the Pods of {node} on {base_url(one, arguments.host_name, tls)}{PATH}")
        ServerRun([], server, [profiles.close]).run()
    return 0


def _check(arguments: Arguments, others: set[str]) -> None:
    if arguments.names:
        problem = "--pods can't be combined with profile names"
        raise UsageError(problem, f"Map service accounts to them in {arguments.pods}")
    for flag, _ in arguments.given:
        if flag.name in others:
            problem = f"--{flag.name} can't be combined with --pods"
            raise UsageError(problem, "Leave it out: the policy says which profile a Pod gets")


def _node(arguments: Arguments) -> str:
    node: str = arguments.node_name or os.environ.get("NODE_NAME", "")
    if not node:
        problem = "--pods needs the name of this node"
        raise UsageError(problem, "Give --node-name, or set NODE_NAME from spec.nodeName in the DaemonSet")
    if not is_name(node):
        raise UsageError(f"{node[:300]!r} can't be the name of a node", "Give it as kubectl get nodes shows it")
    return node


class _Rules:
    """The rules as they are now: read again when the policy or config.toml has changed."""

    def __init__(self, path: str, node: str, profiles: PodProfiles, log: Log, counts: PodMetrics, watch: Watch) -> None:
        self._node = node
        self._counts = counts
        self._reviews = watch.reviews
        self._profiles = profiles
        self._log = log
        self._verification: Verification | None = None
        config = [SYSTEM_FILE, user_file(os.environ)]
        self._file = ReloadedFile(path, self._read, self._report, others=config)
        self._last, self._next_look = self._file.content(), 0.0

    def now(self) -> PodRules:
        """Return them. A change counts within a tenth of a second."""
        now = time.monotonic()
        if now >= self._next_look:
            self._last, self._next_look = self._file.content(), now + LOOK_SECONDS
        return self._last

    def try_out(self) -> None:
        """Find out whether tokens can be verified. May take seconds; for any thread."""
        if self._verification:
            self._verification.try_out()

    def _read(self, path: str) -> PodRules:
        policy = read_pod_policy(path, self._node)
        try:
            profiles = self._profiles.read(policy.accounts.values())
        except HwsignerWarning as warning:  # With --strict.
            raise ConfigError(warning.message, warning.hint) from None
        if self._verification is None:
            self._verification = Verification(
                policy.verification, self._log.refused, environ=os.environ, reviews=self._reviews
            )
        else:
            self._verification.configure(policy.verification)
            self._log.note(f"the policy was read again. Entries: {len(policy.accounts)}, profiles: {len(profiles)}")
        if not policy.accounts:
            self._log.note(f"warning: {path} names no service account, so no Pod gets credentials")
        self._profiles.use(profiles)
        self._counts.read_policy(is_good=True)
        return PodRules(policy, profiles, self._verification.check)

    def _report(self, error: HwsignerError) -> None:
        self._counts.read_policy(is_good=False)
        self._log.note(f"error: the policy did not change, as the new file is bad: {error}")


def _listen(addresses: Sequence[str], port: int, hop_limit: int, *, is_default: bool) -> list[socket.socket]:
    """Return the listening sockets. The machine may lack the IPv6 one of the default addresses."""
    found = []
    for address in addresses:
        try:
            found.append(listen(address, port, hop_limit, is_shared=True))
        except HwsignerError as error:
            number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
            if is_default and address == _IPV6 and number in _NO_IPV6:
                continue
            if number == errno.EADDRNOTAVAIL and address in ADDRESSES:
                prefix = 32 if address == _IPV4 else 128
                add = f"ip link add hwsigner type dummy && ip address add {address}/{prefix} dev hwsigner"
                error = HwsignerError(error.message, f"Run {add} && ip link set hwsigner up")
            elif number in (errno.EACCES, errno.EPERM):
                error = HwsignerError(error.message, "Give the process CAP_NET_BIND_SERVICE, or give another --port")
            raise error from None
    return found


def _give(monitor: Monitor, pod: PodIdentity, profile: str, credentials: Credentials, address: tuple[str, int]) -> None:
    fields = {name: getattr(pod, name) for name in ("namespace", "service_account", "pod", "node")}
    monitor.given_to_peer(profile, credentials, None, address, pod=fields)
