"""`hwsigner emulator`: serve a local CreateSession and sts:GetCallerIdentity until interrupted."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import shlex
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from hwsigner.cli.process import report
from hwsigner.errors import CertificateError, HwsignerError, UsageError

if TYPE_CHECKING:
    from hwsigner.emulator import Emulator, Record, World

HELP = "serve a local, strict CreateSession for tests and demos"
REGION = "us-east-1"
ACCOUNT = "123456789012"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags, and the table of faults below them."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _faults()
    world = parser.add_argument_group("what the account holds")
    world.add_argument(
        "--trust-anchor",
        metavar="FILE",
        action="append",
        default=[],
        help="certificates (PEM or DER) of a trust anchor; give it once for each trust anchor",
    )
    world.add_argument("--config", metavar="FILE", help="a TOML file with trust anchors, profiles and roles")
    world.add_argument("--region", help=f"with --trust-anchor: where it is (default {REGION})")
    world.add_argument("--account", help=f"with --trust-anchor: whose it is (default {ACCOUNT})")
    server = parser.add_argument_group("how to serve it")
    server.add_argument("--port", type=int, default=0, help="the port; by default a free one")
    server.add_argument("--host", default="127.0.0.1", help="the loopback address to listen on (default 127.0.0.1)")
    server.add_argument("--tls", action="store_true", help="serve HTTPS with a CA made for this run")
    server.add_argument("--ca-file", metavar="PATH", help="with --tls: where to write that CA's certificate (PEM)")
    server.add_argument(
        "--host-name",
        metavar="NAME",
        action="append",
        default=[],
        help="with --tls: a further name that the server's certificate is for",
    )
    server.add_argument(
        "--fault",
        metavar="NAME*TIMES:KEY=VALUE",
        action="append",
        default=[],
        help="misbehave at the next CreateSession requests, as in throttle*2:retry-after=1; the names stand below",
    )
    server.add_argument("--log", metavar="FILE", help="append one line of JSON for each request, without secrets")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP.

    Returns:
        0, once interrupted.

    Raises:
        HwsignerError: a flag, a file or the address is of no use.
    """
    from hwsigner.emulator import Emulator, Fault

    gc.enable()  # Unlike other commands, this one stays.
    if (arguments.ca_file or arguments.host_name) and not arguments.tls:
        raise UsageError("--ca-file and --host-name are given without --tls", "Add --tls")
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port {arguments.port} is not a port", "Give 0 to 65535")
    emulator = Emulator(
        _world(arguments),
        tls=arguments.tls,
        host_names=arguments.host_name,
        address=(arguments.host, arguments.port),
    )
    emulator.misbehave(*map(Fault.parse, arguments.fault))
    with contextlib.ExitStack() as stack:
        interruptions = stack.enter_context(_interruptions_held())
        log = stack.enter_context(_open_log(arguments.log)) if arguments.log else None
        emulator.on_record = _Reporter(emulator.requests, log).report
        stack.enter_context(emulator)
        _announce(emulator, arguments.ca_file)
        signal.sigwait(interruptions)
    return 0


def _faults() -> str:
    from hwsigner.emulator.faults import KINDS

    rows = ["faults: what a client meets, and their keys with the default values", ""]
    for name, kind in KINDS.items():
        keys = ", ".join(f"{key.replace('_', '-')}={value}" for key, value in kind.parameters.items())
        rows.append(f"  {name:<16} {kind.summary}{f' ({keys})' if keys else ''}")
    return "\n".join(rows)


def _world(arguments: argparse.Namespace) -> World:
    from hwsigner.emulator import World, load_world

    if arguments.config:
        if arguments.trust_anchor or arguments.region or arguments.account:
            raise UsageError(
                "--config is given with --trust-anchor, --region or --account",
                "The file holds all three; drop the flags",
            )
        return load_world(Path(arguments.config))
    if not arguments.trust_anchor:
        raise UsageError("the emulator has no trust anchor", "Give --trust-anchor FILE or --config FILE")
    sources = [_read(path) for path in arguments.trust_anchor]
    return World.simple(sources, region=arguments.region or REGION, account=arguments.account or ACCOUNT)


def _read(path: str) -> bytes:
    """Return what a file of --trust-anchor holds, once it has been read as certificates."""
    from hwsigner.emulator.world import read_certificates

    hint = "Give a file with the CA's certificate"
    try:
        data = Path(path).read_bytes()
        read_certificates(data)
    except OSError as error:
        raise UsageError(f"--trust-anchor {path} can't be read: {error.strerror}", hint) from error
    except CertificateError as error:
        raise CertificateError(f"--trust-anchor {path} can't be read as PEM or DER certificates", hint) from error
    return data


def _announce(emulator: Emulator, ca_copy: str | None) -> None:
    """Print what a shell needs to use the emulator, one NAME=VALUE a line."""
    lines = [f"endpoint={emulator.url}"]
    if emulator.ca_file:
        lines.append(f"ca-file={shlex.quote(str(_copy_ca(emulator.ca_file, ca_copy)))}")
    lines += [f"trust-anchor-arn={arn}" for arn in emulator.world.trust_anchors]
    lines += [f"profile-arn={arn}" for arn in emulator.world.profiles]
    lines += [f"role-arn={arn}" for arn in emulator.world.roles]
    print(*lines, sep="\n", flush=True)


def _copy_ca(ca_file: Path, copy: str | None) -> Path:
    if copy is None:
        return ca_file
    try:
        Path(copy).write_bytes(ca_file.read_bytes())
    except OSError as error:
        raise HwsignerError(f"--ca-file {copy} can't be written: {error.strerror}", "Give a path that can") from error
    return Path(copy)


def _open_log(path: str) -> TextIO:
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8")
    except OSError as error:
        raise HwsignerError(f"--log {path} can't be written: {error.strerror}", "Give a path that can") from error


@contextlib.contextmanager
def _interruptions_held() -> Iterator[set[signal.Signals]]:
    """Let SIGINT, SIGTERM and, but under nohup, SIGHUP wait to be asked for, whichever thread they come to."""
    numbers = {signal.SIGINT, signal.SIGTERM}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.add(signal.SIGHUP)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield numbers
    finally:
        while signal.sigtimedwait(numbers, 0):  # One that came with the first.
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Reporter:
    """Writes each record: a line on stderr for the eye, a line of JSON in the log. It is not kept besides."""

    def __init__(self, records: list[Record], log: TextIO | None) -> None:
        self._records = records
        self._log = log
        self._lock = threading.Lock()

    def report(self, record: Record) -> None:
        """Write one record, without secrets."""
        parts = (str(record.status or "no answer"), record.fault and f"fault {record.fault}", record.reason)
        path = record.request.path
        with self._lock:
            report(f"{record.method} {path} {': '.join(filter(None, parts))}")
            if self._log:
                print(json.dumps(record.log_entry()), file=self._log, flush=True)
            self._records.clear()
