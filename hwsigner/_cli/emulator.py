"""`hwsigner emulator`: serve a local IAM Roles Anywhere, IAM and STS until stopped."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import secrets
import shlex
import signal
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import report, stop_signals
from hwsigner._config.flags import Flag, switch, whole_number
from hwsigner._http.address import host_name
from hwsigner.errors import CertificateError, HwsignerError, UsageError

if TYPE_CHECKING:
    from hwsigner.emulator import Emulator, Record, World

HELP = "run a strict local IAM Roles Anywhere for tests"
REGION = "us-east-1"
ACCOUNT = "123456789012"
ACCESS_KEY_ID = "AKIAHWSIGNEREMULATOR"
LOOPBACK = "127.0.0.1"

_FLAGS = (
    Flag("trust-anchor", "certificates of a trust anchor (PEM or DER); repeatable", "FILE", many=True),
    Flag("config", "TOML file of trust anchors, profiles and roles", "FILE"),
    switch("empty", "start without trust anchors, profiles and roles"),
    Flag("region", f"region of --trust-anchor (default: {REGION})", "REGION"),
    Flag("account", f"account of the resources and of the access key (default: {ACCOUNT})", "ACCOUNT"),
    Flag("trust-policy", "with --trust-anchor: the role's trust policy, in JSON (default: any certificate)", "FILE"),
    Flag("port", "port to listen on; 0 for any free one", "PORT", whole_number(0, 65535), 0),
    Flag("host", "loopback address to listen on", "HOST", default=LOOPBACK),
    switch("tls", "serve HTTPS with a CA created for this run"),
    Flag("ca-file", "with --tls: file to write the CA's certificate to (PEM)", "PATH"),
    Flag("host-name", "with --tls: another name in the server's certificate; repeatable", "NAME", host_name, many=True),
    Flag(
        "fault",
        "misbehave at the next CreateSession requests, as in throttle*2:retry-after=1; names are listed below",
        "NAME*TIMES:KEY=VALUE",
        many=True,
    ),
    Flag("differ", "answer otherwise than AWS is assumed to; repeatable; names are listed below", "NAME", many=True),
    Flag(
        "rate",
        "requests a second that the control plane takes for each kind of resource (AWS: 1)",
        "NUMBER",
        whole_number(1, 1000),
    ),
    Flag("log", "append a line of JSON for each request, without secrets", "FILE"),
)


def add_arguments(parser: Parser) -> None:
    """Add the flags, and lists of the faults and differences below them."""
    parser.epilog = f"{_faults()}\n\n{_differences()}"
    parser.add_flags(_FLAGS)


def run(arguments: Arguments) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP."""
    from hwsigner.emulator import Difference, Emulator, Fault

    gc.enable()  # Unlike most commands, this one keeps running.
    if (arguments.ca_file or arguments.host_name) and not arguments.tls:
        raise UsageError("--ca-file and --host-name require --tls", "Add --tls")
    world = _world(arguments)
    world.rate = arguments.rate or world.rate
    world.differing = set(map(Difference.named, arguments.differ))
    emulator = Emulator(
        world,
        tls=arguments.tls,
        host_names=arguments.host_name,
        address=(arguments.host or LOOPBACK, arguments.port),
    )
    emulator.misbehave(*map(Fault.parse, arguments.fault))
    secret = secrets.token_urlsafe(30)
    emulator.add_credentials(ACCESS_KEY_ID, secret, account=arguments.account)
    with contextlib.ExitStack() as stack:
        stop_signals = stack.enter_context(_stop_signals_blocked())
        log = stack.enter_context(_open_log(arguments.log)) if arguments.log else None
        emulator.on_record = _reporter(emulator.requests, log)
        stack.enter_context(emulator)
        _announce(emulator, arguments.ca_file, secret)
        signal.sigwait(stop_signals)
    return 0


def _faults() -> str:
    from hwsigner.emulator.faults import KINDS

    rows = {}
    for name, kind in KINDS.items():
        keys = ", ".join(f"{key.replace('_', '-')}={value}" for key, value in kind.parameters.items())
        rows[name] = f"{kind.summary}{f' ({keys})' if keys else ''}"
    return _table("Faults, each with its keys and their defaults:", rows)


def _differences() -> str:
    from hwsigner.emulator import Difference

    return _table("Names of --differ:", {str(each): each.summary for each in Difference})


def _table(title: str, rows: Mapping[str, str]) -> str:
    width = max(map(len, rows))
    lines = [title, ""]
    for name, text in rows.items():
        wrapped = textwrap.wrap(
            f"  {name:<{width}} {text}",
            80,
            subsequent_indent=" " * (width + 3),
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += wrapped
    return "\n".join(lines)


def _world(arguments: Arguments) -> World:
    from hwsigner.emulator import World, load_world
    from hwsigner.emulator.world_file import read_trust_policy

    if arguments.empty:
        if arguments.trust_anchor or arguments.config or arguments.settings.region or arguments.trust_policy:
            problem = "--empty can't be combined with --trust-anchor, --config, --region or --trust-policy"
            raise UsageError(problem, "Leave --empty out, or make the resources with the AWS CLI")
        return World()
    if arguments.config:
        if arguments.trust_anchor or arguments.settings.region or arguments.account or arguments.trust_policy:
            problem = "--config can't be combined with --trust-anchor, --region, --account or --trust-policy"
            raise UsageError(problem, "Set them in the file")
        return load_world(Path(arguments.config))
    if not arguments.trust_anchor:
        raise UsageError("the emulator has no trust anchor", "Give --trust-anchor FILE, --config FILE or --empty")
    sources = [_read(path) for path in arguments.trust_anchor]
    policy = read_trust_policy(Path(arguments.trust_policy)) if arguments.trust_policy else None
    region, account = arguments.settings.region or REGION, arguments.account or ACCOUNT
    return World.simple(sources, region=region, account=account, trust_policy=policy)


def _read(path: str) -> bytes:
    """Return the content of a --trust-anchor file, checked to be certificates of CAs that AWS accepts."""
    from hwsigner.emulator.certificates import anchor_problem
    from hwsigner.emulator.world import read_certificates

    hint = "Use a file with the CA's certificate"
    try:
        data = Path(path).read_bytes()
        certificates = read_certificates(data)
    except OSError as error:
        raise UsageError(f"--trust-anchor {path} can't be read: {error.strerror}", hint) from error
    except CertificateError as error:
        raise CertificateError(f"--trust-anchor {path} can't be read as PEM or DER certificates", hint) from error
    if problem := next(filter(None, map(anchor_problem, certificates)), ""):
        raise CertificateError(f"--trust-anchor {path}: {problem}", hint)
    return data


def _announce(emulator: Emulator, ca_copy: str | None, secret: str) -> None:
    """Print what a client needs, one NAME=VALUE per line. The secret is worth nothing outside of this emulator."""
    lines = [f"endpoint={emulator.url}"]
    if emulator.ca_file:
        lines.append(f"ca-file={shlex.quote(str(_copy_ca(emulator.ca_file, ca_copy)))}")
    lines += [f"access-key-id={ACCESS_KEY_ID}", f"secret-access-key={secret}"]
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
        raise HwsignerError(f"--ca-file {copy} can't be written: {error.strerror}", "Use another path") from error
    return Path(copy)


def _open_log(path: str) -> TextIO:
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8")
    except OSError as error:
        raise HwsignerError(f"--log {path} can't be written: {error.strerror}", "Use another path") from error


@contextlib.contextmanager
def _stop_signals_blocked() -> Iterator[set[signal.Signals]]:
    """Block the signals that stop a server, and yield them, for sigwait."""
    numbers = stop_signals()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield numbers
    finally:
        while pending := signal.sigpending() & numbers:  # Discard further signals.
            signal.sigwait(pending)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _reporter(records: list[Record], log: TextIO | None) -> Callable[[Record], None]:
    """Return a callable that writes a record to stderr and, as JSON, to the log, and then forgets it."""
    lock = threading.Lock()

    def write(record: Record) -> None:
        parts = (str(record.status or "no response"), record.fault and f"fault {record.fault}", record.reason)
        with lock:
            report(f"{record.method} {record.request.path} {': '.join(filter(None, parts))}")
            if log:
                print(json.dumps(record.log_entry()), file=log, flush=True)
            records.clear()

    return write
