"""`hwsigner registrar`: certificates for keys that are proven to be in chips of the policy."""

from __future__ import annotations

import gc
import json
import os
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice

from hwsigner._cli.documents import read_trust
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import report_thread_failures
from hwsigner._cli.registrar import KEYS, POLICY
from hwsigner._config.flags import ISSUER, Flag, whole_number
from hwsigner._http.address import host_and_port, is_loopback
from hwsigner._monitoring.log import Log
from hwsigner._serving.listener import listen, tls_context
from hwsigner._system.reloading import ReloadedFile
from hwsigner._system.systemd import ERROR, INFO, WARNING, Notifier, is_journal
from hwsigner.attestation import Trust
from hwsigner.enrolment.profile import issuer_of
from hwsigner.enrolment.registrar.limits import RateLimit
from hwsigner.enrolment.registrar.policy import RegistrarPolicy, read_policy
from hwsigner.enrolment.registrar.registrar import Registrar
from hwsigner.enrolment.registrar.sealing import SealingKeys, read_keys
from hwsigner.enrolment.registrar.server import CONNECTIONS_OF_ADDRESS, MAX_CONNECTIONS, RegistrarServer
from hwsigner.errors import HwsignerError, UsageError

HELP = "certify keys that are proven to be in known chips"

_COUNT, _CONNECTIONS = whole_number(1, 10**6), whole_number(1, MAX_CONNECTIONS)
_FLAGS = (
    POLICY,
    KEYS,
    Flag(
        "roots",
        "folder of the chip vendors' root and intermediate certificates; none to trust no vendor",
        "DIR",
        default="/etc/hwsigner/roots",
    ),
    Flag("address", "IP address to listen on; any other than loopback needs TLS", "IP", default="127.0.0.1"),
    Flag("port", "port to listen on; 0 for any free one", "PORT", whole_number(0, 65535), 8443),
    Flag("tls-certificate", "serve HTTPS with this certificate and its chain, in PEM", "FILE"),
    Flag("tls-key", "private key of the certificate, in PEM (default: in the same file)", "FILE"),
    Flag("per-address", "requests per minute from one address; an enrolment takes two", "N", _COUNT, 60),
    Flag("per-minute", "requests per minute from all addresses", "N", _COUNT, 600),
    Flag("connections-per-address", "open connections of one address", "N", _CONNECTIONS, CONNECTIONS_OF_ADDRESS),
)
_NO_VENDOR = "none"
_HOP_LIMIT = 64
_LOOK_SECONDS = 2.0
_MOST_REMARKS = 20
_PRIORITIES = {
    "refused": WARNING,
    "limited": WARNING,
    "noted": WARNING,
    "not issued": ERROR,
    "failed": ERROR,
    "kept": ERROR,
}


def add_arguments(parser: Parser) -> None:
    """Add the flags, and name the other commands below them."""
    parser.epilog = (
        "registrar allow and remove change the policy, and list shows it.\n"
        "registrar rotate-keys makes a new sealing key."
    )
    parser.add_flags(_FLAGS, ISSUER)


def run(arguments: Arguments) -> int:
    """Serve until SIGINT or SIGTERM."""
    gc.enable()  # Unlike most commands, this one keeps running.
    report_thread_failures()
    tls = _tls(arguments)
    ended = threading.Event()
    server = _server(arguments, tls, ended)
    for number in (signal.SIGINT, signal.SIGTERM):
        # `shutdown` waits for the loop, which is in this thread.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    host, port = server.socket.getsockname()[:2]
    Log().note(f"registrar on {'https' if tls else 'http'}://{host_and_port(host, port)}")
    notifier = Notifier(os.environ)
    notifier.ready("answering")
    server.run()
    ended.set()
    notifier.stopping()
    return 0


def _write_audit(facts: Mapping[str, object]) -> None:
    """Write the facts of a decision to stderr, as a line of JSON in ASCII; raises an OSError if it can't."""
    descriptor = sys.__stderr__.fileno() if sys.__stderr__ else 2
    decision = str(facts.get("decision"))
    line = json.dumps({"time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "decision": decision, **facts})
    begin = f"<{_PRIORITIES.get(decision, INFO)}>" if is_journal(descriptor) else ""
    rest = f"{begin}{line}\n".encode("ascii")
    with _writing:
        while rest:
            rest = rest[os.write(descriptor, rest) :]


_writing = threading.Lock()


def _server(arguments: Arguments, tls: ssl.SSLContext | None, ended: threading.Event) -> RegistrarServer:
    policy = ReloadedFile(arguments.policy, _read_policy, _reporter("policy"))
    keys = ReloadedFile(arguments.keys, read_keys, _reporter("sealing keys"))
    registrar = Registrar(
        policy.content,
        keys.content,
        trust=read_trust(arguments.roots) if arguments.roots != _NO_VENDOR else Trust(()),
        issuer=issuer_of(arguments.settings),
        audit=_write_audit,
    )
    limit = RateLimit(arguments.per_address, arguments.per_minute)
    listener = listen(arguments.address, arguments.port, _HOP_LIMIT)
    server = RegistrarServer(registrar, listener, limit=limit, audit=_write_audit, tls=tls)
    server.connections_of_address = arguments.connections_per_address
    threading.Thread(target=_watch, args=(policy, keys, ended), daemon=True).start()
    return server


def _watch(policy: ReloadedFile[RegistrarPolicy], keys: ReloadedFile[SealingKeys], ended: threading.Event) -> None:
    """Read changed files soon after their change, and log it: a request that would do so may not come for hours."""
    known = policy.content()
    while not ended.wait(_LOOK_SECONDS):
        with suppress(OSError):  # The next look may be able to write the log.
            keys.content()
            if (new := policy.content()) is not known:
                _write_audit({"decision": "read", "policy": new.digest, "machines": len(new.machines)})
                known = new


def _read_policy(path: str) -> RegistrarPolicy:
    """Read the policy, and log what an operator may not have meant."""
    policy = read_policy(path)
    with suppress(OSError):  # The policy counts even if the log is full.
        for _, text in islice(policy.remarks(), _MOST_REMARKS):
            _write_audit({"decision": "noted", "reason": text})
    return policy


def _reporter(what: str) -> Callable[[HwsignerError], None]:
    """Return a function that logs that a changed file is bad, so that its old content stays in use."""

    def report(error: HwsignerError) -> None:
        _write_audit({"decision": "kept", "reason": f"the {what} did not change, as the new file is bad: {error}"})

    return report


def _tls(arguments: Arguments) -> ssl.SSLContext | None:
    if arguments.tls_certificate:
        return tls_context(arguments.tls_certificate, arguments.tls_key)
    if arguments.tls_key:
        raise UsageError("--tls-key is given without --tls-certificate", "Give both flags")
    if not is_loopback(arguments.address):
        raise UsageError("other machines can reach the address, and there is no TLS", "Give --tls-certificate")
    return None
