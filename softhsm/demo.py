"""`make demo`: AWS credentials from keys in a file, a token and a server's TPM, and four refusals, all emulated."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from softhsm.command import ToolError
from softhsm.demo_ca import DemoCA
from softhsm.demo_server import enroll_servers
from softhsm.demo_service import TRUST_ANCHOR_ARN, DemoKey, Service, read_service
from softhsm.demo_stage import HWSIGNER, REGION, DemoError, Stage, assumed_role, last_line, require_refusal
from softhsm.token import PIN, SoftHSM

_AWS_CLI_REFUSED = 254
_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(stage: Stage) -> None:
    """Run every step.

    Raises:
        DemoError: a call failed, or was not refused for the expected reason.
        ToolError: a program is missing or failed.
    """
    print("AWS credentials from a key in a file, in a PKCS #11 token and in a server's TPM, all emulated here\n")
    ca = DemoCA("Demo CA")
    keys = [
        _make_key(stage, ca, "file", "a file", str(stage.folder / "key.pem")),
        _make_key(stage, ca, "token", "a PKCS #11 token (SoftHSM)", _make_token(stage)),
    ]
    service = _start_emulator(stage, stage.write("ca.pem", ca.pem), _write_trust_policy(stage, keys))
    # The AWS CLI and the hwsigner that it starts both inherit it.
    stage.env["AWS_CA_BUNDLE"] = service.ca_file
    _write_config(stage, keys, service)
    for key in keys:
        done = stage.get_caller_identity(service.endpoint, f"--profile={key.profile}")
        stage.say(f"aws sts get-caller-identity, with the key in {key.title}", assumed_role(done))
    enroll_servers(stage, ca, service)
    _refuse_changed_secret(stage, keys[0], service)
    _refuse_other_ca(stage, service)
    _refuse_other_unit(stage, ca, service)


def _make_token(stage: Stage) -> str:
    """Return the URI of a key that is to be made in a new token."""
    token = SoftHSM(stage.folder / "token")
    token.make()
    token.add_token("demo")
    stage.env |= token.env
    return token.uri("bamboo", stage.write("pin", f"{PIN}\n".encode()))


def _make_key(stage: Stage, ca: DemoCA, profile: str, title: str, uri: str, *, unit: str = "devops") -> DemoKey:
    """Make a key, have the CA certify it, and put the certificate beside it."""
    stage.hwsigner("keygen", uri)
    request = stage.folder / f"{profile}.csr"
    stage.hwsigner("csr", uri, f"--subject=CN=bamboo-{profile},OU={unit}", f"--out={request}")
    issued = stage.write(f"{profile}.pem", ca.issue(request.read_bytes()))
    installed = json.loads(stage.hwsigner("install-certificate", str(issued), uri, "--json"))
    stage.say(f"A key made in {title}, and its certificate", uri)
    return DemoKey(profile, title, installed["privateKey"], installed["certificate"])


def _write_trust_policy(stage: Stage, keys: list[DemoKey]) -> Path:
    """Write the role's trust policy, which lets in the certificates of the keys, and others of their OU."""
    certificates = [str(stage.folder / f"{key.profile}.pem") for key in keys]
    flags = ["--match=CN=bamboo-*,OU", f"--trust-anchor-arn={TRUST_ANCHOR_ARN}"]
    policy = stage.hwsigner("aws", "trust-policy", *certificates, *flags)
    [statement] = json.loads(policy)["Statement"]
    stage.say("A trust policy for such certificates requires", json.dumps(statement["Condition"]))
    return stage.write("trust-policy.json", policy.encode())


def _start_emulator(stage: Stage, anchor: Path, policy: Path) -> Service:
    flags = ["--trust-anchor", str(anchor), "--port=0", "--tls", "--ca-file", str(stage.folder / "emulator-ca.pem")]
    process, log = stage.start("emulator", *flags, "--region", REGION, "--trust-policy", str(policy))
    service = read_service(process)
    if service is None:
        raise DemoError(f"hwsigner emulator did not start: {log.read_text().strip()}")
    stage.say("hwsigner emulator, a local service that trusts the demo CA alone", service.endpoint)
    return service


def _write_config(stage: Stage, keys: list[DemoKey], service: Service) -> None:
    lines = []
    for key in keys:
        command = shlex.join(_command(key, service))
        lines += [f"[profile {key.profile}]", f"region = {REGION}", f"credential_process = {command}", ""]
    path = stage.write("config", "\n".join(lines).encode())
    stage.say("An AWS config file with two profiles whose credential_process is hwsigner", str(path))


def _refuse_changed_secret(stage: Stage, key: DemoKey, service: Service) -> None:
    credentials = json.loads(stage.hwsigner("credential-process", *key.flags, *service.flags))
    env = {
        "AWS_ACCESS_KEY_ID": credentials["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": credentials["SecretAccessKey"],
        "AWS_SESSION_TOKEN": credentials["SessionToken"],
        "AWS_REGION": REGION,
    }
    assumed_role(stage.get_caller_identity(service.endpoint, env=env))
    secret = env["AWS_SECRET_ACCESS_KEY"]
    env["AWS_SECRET_ACCESS_KEY"] = ("B" if secret[0] == "A" else "A") + secret[1:]
    done = stage.get_caller_identity(service.endpoint, env=env)
    refused = require_refusal(done, "SignatureDoesNotMatch", status=_AWS_CLI_REFUSED)
    stage.say("The same call with one byte of the vended secret changed", f"refused: {refused}")


def _refuse_other_ca(stage: Stage, service: Service) -> None:
    key = _make_key(stage, DemoCA("Another CA"), "other", "a file", str(stage.folder / "other-key.pem"))
    refused = require_refusal(stage.run(_command(key, service)), "Untrusted signing certificate")
    stage.say("CreateSession with its certificate, which is another CA's", f"refused: {refused}")


def _refuse_other_unit(stage: Stage, ca: DemoCA, service: Service) -> None:
    key = _make_key(stage, ca, "ops", "a file", str(stage.folder / "ops-key.pem"), unit="ops")
    require_refusal(stage.run(_command(key, service)), "Unable to assume role")
    reason = last_line((stage.folder / "emulator.log").read_text()).partition("the trust policy")[2]
    if "x509Subject/OU" not in reason:
        raise DemoError(f"the emulator refused {key.profile} for another reason: {reason}")
    stage.say("CreateSession with a certificate of the OU 'ops'", f"refused: the trust policy{reason}")


def _command(key: DemoKey, service: Service) -> list[str]:
    """Return the command that gets credentials with a key."""
    return [HWSIGNER, "credential-process", *key.flags, *service.flags]


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _end_children() -> None:
    """End each program that was just being started when an interruption came, so that nothing else would end it."""
    for children in Path("/proc/self/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def main() -> int:
    """Run the demo, then remove everything it made, even if it was interrupted."""
    for number in _INTERRUPTIONS:
        signal.signal(number, _interrupt)
    try:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hwsigner-demo-"))
            stack.callback(_end_children)
            try:
                run(Stage(Path(folder), stack))
            finally:
                # A second Ctrl-C during the cleanup would leave files behind.
                for number in _INTERRUPTIONS:
                    signal.signal(number, signal.SIG_IGN)
        print("\nEverything worked, and everything is cleaned up. Next:")
        print(f"  {sys.executable} -m softhsm make DIR   makes keys on emulated hardware to try out")
        print("  README.md shows the same with your own certificate, key and trust anchor", flush=True)
    except KeyboardInterrupt:
        print("\nInterrupted; everything is cleaned up.", file=sys.stderr)
        return 130
    except (DemoError, ToolError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Otherwise the interpreter flushes stdout at exit and prints an error of its own.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
