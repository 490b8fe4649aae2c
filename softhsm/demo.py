"""`make demo`: AWS credentials from keys in a file, a PKCS #11 token and a TPM, and three refusals, all emulated."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from softhsm.command import ToolError
from softhsm.demo_ca import DemoCA
from softhsm.demo_service import TRUST_ANCHOR_ARN, DemoError, DemoKey, Service, read_service
from softhsm.token import PIN, SoftHSM
from softhsm.tpm import SoftTPM

HWSIGNER = str(Path(sys.executable).with_name("hwsigner"))
AWS = "/usr/bin/aws"
REGION = "us-east-1"
_EXIT_SERVICE_REFUSED = 5
_SECONDS = 60
_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Demo:
    """The steps of the demo. Their files are in one folder."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(folder),
            "XDG_STATE_HOME": str(folder),
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
        }
        self._step = 0

    def run(self) -> None:
        """Run every step.

        Raises:
            DemoError: a call failed, or was not refused for the expected reason.
            ToolError: a program is missing or failed.
        """
        print("AWS credentials from a key in a file, in a PKCS #11 token and in a TPM, all emulated on this machine\n")
        ca = DemoCA("Demo CA")
        keys = [
            self._make_key(ca, "file", "a file", str(self._folder / "key.pem")),
            self._make_key(ca, "token", "a PKCS #11 token (SoftHSM)", self._make_token()),
            self._make_key(ca, "tpm", "a TPM 2.0 (swtpm)", self._make_tpm()),
        ]
        service = self._start_emulator(self._write("ca.pem", ca.pem), self._write_trust_policy(keys))
        # The AWS CLI and the hwsigner that it starts both inherit it.
        self._env["AWS_CA_BUNDLE"] = service.ca_file
        self._write_config(keys, service)
        for key in keys:
            done = self._get_caller_identity(service, f"--profile={key.profile}")
            self._say(f"aws sts get-caller-identity, with the key in {key.title}", _assumed_role(done))
        self._refuse_changed_secret(keys[0], service)
        self._refuse_other_ca(service)
        self._refuse_other_unit(ca, service)

    def _make_token(self) -> str:
        """Return the URI of a key that is to be made in a new token."""
        token = SoftHSM(self._folder / "token")
        token.make()
        token.add_token("demo")
        self._env |= token.env
        return token.uri("bamboo", self._write("pin", f"{PIN}\n".encode()))

    def _make_tpm(self) -> str:
        """Return the URI of a key that is to be made in a new TPM."""
        tpm = SoftTPM(self._folder / "tpm")
        self._stack.callback(tpm.stop)
        tpm.start()
        return tpm.uri(self._folder / "tpm-key.pem")

    def _make_key(self, ca: DemoCA, profile: str, title: str, uri: str, *, unit: str = "devops") -> DemoKey:
        """Make a key, have the CA certify it, and put the certificate beside it."""
        self._hwsigner("keygen", uri)
        request = self._folder / f"{profile}.csr"
        self._hwsigner("csr", uri, f"--subject=CN=bamboo-{profile},OU={unit}", f"--out={request}")
        issued = self._write(f"{profile}.pem", ca.issue(request.read_bytes()))
        installed = json.loads(self._hwsigner("install-certificate", str(issued), uri, "--json"))
        self._say(f"A key made in {title}, and its certificate", uri)
        return DemoKey(profile, title, installed["privateKey"], installed["certificate"])

    def _write_trust_policy(self, keys: list[DemoKey]) -> Path:
        """Write the role's trust policy, which lets in the certificates of the keys."""
        certificates = [str(self._folder / f"{key.profile}.pem") for key in keys]
        flags = ["--match=CN=bamboo-*,OU", f"--trust-anchor-arn={TRUST_ANCHOR_ARN}"]
        policy = self._hwsigner("aws", "trust-policy", *certificates, *flags)
        [statement] = json.loads(policy)["Statement"]
        self._say("A trust policy for these certificates requires", json.dumps(statement["Condition"]))
        return self._write("trust-policy.json", policy.encode())

    def _start_emulator(self, anchor: Path, policy: Path) -> Service:
        ca_file, log = self._folder / "emulator-ca.pem", self._folder / "emulator.log"
        command = [HWSIGNER, "emulator", "--trust-anchor", str(anchor), "--port=0", "--tls", "--ca-file", str(ca_file)]
        errors = self._stack.enter_context(log.open("w"))
        command += ["--region", REGION, "--trust-policy", str(policy)]
        process = self._stack.enter_context(
            subprocess.Popen(command, env=self._env, stdout=subprocess.PIPE, stderr=errors, text=True)
        )
        self._stack.callback(process.terminate)
        service = read_service(process)
        if service is None:
            raise DemoError(f"hwsigner emulator did not start: {log.read_text().strip()}")
        self._say("hwsigner emulator, a local service that trusts the demo CA alone", service.endpoint)
        return service

    def _write_config(self, keys: list[DemoKey], service: Service) -> None:
        lines = []
        for key in keys:
            command = shlex.join(self._command(service, key))
            lines += [f"[profile {key.profile}]", f"region = {REGION}", f"credential_process = {command}", ""]
        path = self._write("config", "\n".join(lines).encode())
        self._say("An AWS config file with three profiles whose credential_process is hwsigner", str(path))

    def _refuse_changed_secret(self, key: DemoKey, service: Service) -> None:
        done = self._run(self._command(service, key))
        if done.returncode != 0:
            raise DemoError(f"hwsigner credential-process failed: {done.stderr.strip()}")
        credentials = json.loads(done.stdout)
        env = {
            "AWS_ACCESS_KEY_ID": credentials["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": credentials["SecretAccessKey"],
            "AWS_SESSION_TOKEN": credentials["SessionToken"],
            "AWS_REGION": REGION,
        }
        _assumed_role(self._get_caller_identity(service, env=env))
        secret = env["AWS_SECRET_ACCESS_KEY"]
        env["AWS_SECRET_ACCESS_KEY"] = ("B" if secret[0] == "A" else "A") + secret[1:]
        refused = self._get_caller_identity(service, env=env)
        _require_refusal(refused, "SignatureDoesNotMatch")
        self._say("The same call with one byte of the vended secret changed", f"refused: {_last_line(refused.stderr)}")

    def _refuse_other_ca(self, service: Service) -> None:
        key = self._make_key(DemoCA("Another CA"), "other", "a file", str(self._folder / "other-key.pem"))
        refused = self._run(self._command(service, key))
        _require_refusal(refused, "Untrusted Signing Certificate", status=_EXIT_SERVICE_REFUSED)
        self._say("CreateSession with its certificate, which is another CA's", f"refused: {_last_line(refused.stderr)}")

    def _refuse_other_unit(self, ca: DemoCA, service: Service) -> None:
        key = self._make_key(ca, "ops", "a file", str(self._folder / "ops-key.pem"), unit="ops")
        refused = self._run(self._command(service, key))
        _require_refusal(refused, "Unable to assume role", status=_EXIT_SERVICE_REFUSED)
        reason = _last_line((self._folder / "emulator.log").read_text()).partition("the trust policy")[2]
        if "x509Subject/OU" not in reason:
            raise DemoError(f"the emulator refused {key.profile} for another reason: {reason}")
        self._say("CreateSession with a certificate of the OU 'ops'", f"refused: the trust policy{reason}")

    def _command(self, service: Service, key: DemoKey) -> list[str]:
        """Return the command that gets credentials with a key."""
        return [HWSIGNER, "credential-process", *service.flags(key)]

    def _hwsigner(self, *arguments: str) -> str:
        done = self._run([HWSIGNER, *arguments])
        if done.returncode != 0:
            raise DemoError(f"hwsigner {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def _get_caller_identity(
        self, service: Service, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        endpoint = f"--endpoint-url={service.endpoint}"
        return self._run([AWS, "sts", "get-caller-identity", "--output=json", endpoint, *arguments], env or {})

    def _run(self, command: list[str], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command,
                env={**self._env, **(env or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise DemoError(f"{command[0]} is not installed; `make setup` installs what is needed") from None
        except subprocess.TimeoutExpired:
            raise DemoError(f"{' '.join(command[:3])} did not exit within {_SECONDS:g} seconds") from None

    def _write(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_bytes(data)
        return path

    def _say(self, step: str, result: str) -> None:
        self._step += 1
        print(f"{self._step:2}. {step}: {result}", flush=True)


def _assumed_role(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode != 0:
        raise DemoError(f"{AWS} sts get-caller-identity failed: {done.stderr.strip()}")
    arn = str(json.loads(done.stdout)["Arn"])
    if ":assumed-role/" not in arn:
        raise DemoError(f"the caller is {arn}, which is not an assumed role")
    return arn


def _require_refusal(done: subprocess.CompletedProcess[str], reason: str, status: int | None = None) -> None:
    if done.returncode == 0 or (status is not None and done.returncode != status) or reason not in done.stderr:
        result = f"exited with status {done.returncode}: {done.stderr.strip()}"
        raise DemoError(f"a call that should be refused ({reason}) {result}")


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo, then remove everything it made, even if it was interrupted."""
    for number in _INTERRUPTIONS:
        signal.signal(number, _interrupt)
    try:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hwsigner-demo-"))
            try:
                Demo(Path(folder), stack).run()
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
