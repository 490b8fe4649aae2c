"""The rate of `hwsigner serve --pods` beside the container endpoint of `serve`: `python tests/bench/pods.py`.

wrk sends requests to both in turn, in one run, over connections that are kept and over a new one for each request. An
API server of the tests, with the answers of a real one, counts the TokenReviews. Then memory and threads: with a
session for each of many accounts, after many tokens and after many requests. Nothing passes or fails here.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

TESTS = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(TESTS), str(TESTS.parent)]  # Not this folder, whose serving.py hides tests/serving.

from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

import certs  # noqa: E402
from bench.measure import table, verdict  # noqa: E402
from bench.serving import CONNECTIONS, Target, announced, requests, resident, running, wrk  # noqa: E402
from hwsigner.emulator import Emulator, World  # noqa: E402
from serving.pods.api_server import RSA_ISSUER, ApiServer, api_server, bound  # noqa: E402

MOST_RATIO, MOST_MB = 1.3, 100
ACCOUNTS, TOKENS, REQUESTS = 500, 5000, 100_000
# `serve --pods` with the files of a Pod in another folder than a Pod has.
_SERVE = """
import sys
from hwsigner._serving.pods.verification import Verification
Verification.__init__.__kwdefaults__["folder"] = sys.argv[1]
from hwsigner._cli import main
sys.exit(main(sys.argv[2:]))
"""


@dataclass
class Servers:
    """The servers: `serve --pods` for account-0, account-1 and so on of team-a, and `serve`."""

    api: ApiServer
    pods: Target
    container: Target


def pod_token(number: int = 0, copy: int = 0) -> str:
    """Return a token of the Pod of an account; each copy is another one."""
    account, uid = f"account-{number}", f"00000000-0000-4000-8000-{number:012}"
    of = bound(pod={"name": f"pod-{number}", "uid": uid}, serviceaccount={"name": account, "uid": uid})
    changes = {"kubernetes.io": of, "sub": f"system:serviceaccount:team-a:{account}", "jti": f"{number}/{copy}"}
    return RSA_ISSUER.token(**changes)


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Start both, with a key in a file, and wait for their first sessions."""
    ca, key = certs.make_ca(), ec.generate_private_key(ec.SECP256R1())
    leaf = folder / "leaf.pem"
    leaf.write_bytes(certs.pem(certs.issue(ca, key.public_key())))
    with ExitStack() as stack:
        service = stack.enter_context(Emulator(World.simple(ca.certificate, accept_role_session_name=True)))
        api = stack.enter_context(api_server(folder / "serviceaccount"))
        values = {
            "certificate": str(leaf),
            "private-key": str(certs.write_key(folder / "leaf.key", key)),
            "trust-anchor-arn": service.trust_anchor_arn,
            "profile-arn": service.profile_arn,
            "role-arn": service.role_arn,
            "endpoint": service.url,
        }
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder), **api.environ}
        program = str(Path(sys.executable).parent / "hwsigner")
        flags = [f"--{name}={value}" for name, value in values.items()]
        command = [program, "serve", *flags, f"--token-folder={folder}", "--imds=false", "--port=0"]
        ours = stack.enter_context(running(command, stderr=subprocess.PIPE, env=environ))
        url = announced(ours)[0]
        token = next(folder.glob("*.token")).read_text()
        container = Target("container", ours.pid, url, (f"Authorization: {token}",))
        config = folder / ".config" / "hwsigner" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text("[profile.web]\n" + "".join(f'{name} = "{value}"\n' for name, value in values.items()))
        policy = folder / "pods.toml"
        policy.write_text('[accounts]\n"team-a/*" = "web"\n')
        command = [sys.executable, "-c", _SERVE, str(api.folder), "serve", f"--pods={policy}", "--node-name=node1"]
        command += ["--address=127.0.0.1", "--port=0"]
        pods = stack.enter_context(running(command, stderr=subprocess.PIPE, env=environ))
        assert pods.stderr
        url = next(line.split()[-1] for line in pods.stderr if "on http://127.0.0.1:" in line)
        yield Servers(api, Target("Pods", pods.pid, url, (f"Authorization: {pod_token()}",)), container)


def ask(url: str, number: int, copy: int = 0) -> None:
    """Ask as a Pod with an address of its own; end the program if it gets no credentials."""
    source = f"127.1.{number // 250}.{number % 250 + 1}"
    port = urlsplit(url).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(source, 0))
    connection.request("GET", "/v1/credentials", headers={"Authorization": pod_token(number, copy)})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"a Pod was answered with {answer.status}: {answer.read().decode()}")
    connection.close()


def memory_rows(found: Servers) -> Iterator[list[str]]:
    """Yield the memory and threads of `serve --pods` with more and more accounts, tokens and requests."""
    url, pid = found.pods.url, found.pods.pid

    def row(name: str) -> list[str]:
        size, threads = resident(pid) / 1024, len(list(Path(f"/proc/{pid}/task").iterdir()))
        bound = f"under {MOST_MB} MB: {verdict(size < MOST_MB)}"
        return [name, f"{size:.1f}", f"{threads}", f"{len(found.api.reviews):,}", bound]

    yield row("with 1 account")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: ask(url, number), range(ACCOUNTS)))
        yield row(f"with {ACCOUNTS} accounts, each with a session")
        list(pool.map(lambda number: ask(url, number % ACCOUNTS, 1 + number), range(TOKENS)))
    yield row(f"after {TOKENS:,} other tokens of theirs")
    sent = 0
    while sent < REQUESTS:
        sent += requests(wrk(url, found.pods.headers, 2))
    yield row(f"after {sent:,} requests")


def main() -> None:
    """Send requests to each server in turn, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hwsigner-bench-") as folder, servers(Path(folder)) as found:
        kept = [found.container, found.pods]
        new = [Target(f"{one.name}, new", one.pid, one.url, one.headers, is_new=True) for one in kept]
        for target in (*kept, *new):  # Once without counting.
            target.measure(1)
            target.forget()
        for _ in range(arguments.rounds):
            for target in (*kept, *new):
                target.measure(arguments.seconds)
        print(f"wrk, {CONNECTIONS} connections, {arguments.rounds} rounds of {arguments.seconds} s, medians\n")
        rows = []
        for container, pods in (kept, new):
            rows += [_row(container, container), _row(pods, container)]
        print(
            table(["response", "requests/s", "times the time", "processor time", "p50, ms", "p99, ms", "bound"], rows)
        )
        print(f"\nTokenReviews: {len(found.api.reviews)}\n", flush=True)
        head = ["memory of serve --pods", "RSS, MB", "threads", "TokenReviews", "bound"]
        print(table(head, memory_rows(found)))


def _row(target: Target, container: Target) -> list[str]:
    """Return a row, with how many times as long as the container endpoint's the answer takes."""
    ratio = statistics.median(b / a for a, b in zip(target.rates, container.rates, strict=True))
    by_processor = statistics.median(a / b for a, b in zip(target.costs, container.costs, strict=True))
    p50, p99 = statistics.median(target.medians), statistics.median(target.p99s)
    cells = [target.name, f"{statistics.median(target.rates):,.0f}", f"{ratio:.2f}", f"{by_processor:.2f}"]
    bound = "" if target is container else f"at most {MOST_RATIO:g} times: {verdict(by_processor <= MOST_RATIO)}"
    return [*cells, f"{p50:.2f}", f"{p99:.2f}", bound]


if __name__ == "__main__":
    main()
