"""The demo's servers with TPMs: one that the registrar's policy names gets a role, another one does not."""

from __future__ import annotations

import re
import shlex
import time

from softhsm.demo_ca import DemoCA
from softhsm.demo_service import Service
from softhsm.demo_stage import HWSIGNER, DemoError, Stage, assumed_role, require_refusal
from softhsm.tpm import SoftTPM
from softhsm.vendor import TPMVendor

_SUBJECT = "CN=bamboo-server,OU=devops"
_SECONDS = 30.0


def enroll_servers(stage: Stage, ca: DemoCA, service: Service) -> None:
    """Take a server from an empty TPM to its role, and have a server refused whose TPM is not in the policy.

    Raises:
        DemoError, ToolError: as `Demo.run`.
    """
    vendor = TPMVendor(stage.folder / "vendor")
    server, stranger = (_make_server(stage, vendor, name) for name in ("server", "stranger"))
    policy = stage.folder / "registrar.toml"
    chip = stage.hwsigner("attest", "--ek", f"--tcti={server.tcti}").strip()
    stage.hwsigner("registrar", "allow", chip, f"--subject={_SUBJECT}", f"--policy={policy}")
    stage.say("A server with an empty TPM; the registrar's policy names its chip", f"{chip} may have {_SUBJECT}")
    registrar = _start_registrar(stage, ca, vendor)
    stage.hwsigner(*_enroll("server", server, registrar, service))
    stage.say("hwsigner enroll on the server", f"its TPM's key has a certificate with {_SUBJECT}")
    done = stage.get_caller_identity(service.endpoint, "--profile=server")
    stage.say("aws sts get-caller-identity, on the server", assumed_role(done))
    refused = stage.run([HWSIGNER, *_enroll("stranger", stranger, registrar, service)])
    stage.say("hwsigner enroll on another server", f"refused: {require_refusal(refused, 'does not give this chip')}")


def _make_server(stage: Stage, vendor: TPMVendor, name: str) -> SoftTPM:
    tpm = vendor.make(stage.folder / name)
    stage.stack.callback(tpm.stop)
    tpm.start()
    return tpm


def _start_registrar(stage: Stage, ca: DemoCA, vendor: TPMVendor) -> str:
    """Start a registrar whose issuer is openssl with the CA's key, and return its URL."""
    keys = f"--keys={stage.folder / 'sealing-keys'}"
    stage.hwsigner("registrar", "rotate-keys", keys)
    authority = ["-CA", str(stage.folder / "ca.pem"), "-CAkey", str(stage.write("ca.key", ca.key_pem))]
    issue = shlex.join(["openssl", "x509", "-req", *authority, "-copy_extensions", "copy", "-days", "1"])
    flags = [f"--policy={stage.folder / 'registrar.toml'}", f"--roots={vendor.roots}", "--port=0", keys]
    process, log = stage.start("registrar", *flags, f"--issuer-command={issue}")
    deadline = time.monotonic() + _SECONDS
    while not (ready := re.search(r"registrar on (http://\S+)", log.read_text())):
        if process.poll() is not None or time.monotonic() > deadline:
            raise DemoError(f"hwsigner registrar did not start: {log.read_text().strip()}")
        time.sleep(0.02)
    stage.say("hwsigner registrar, which has openssl certify what a TPM has proven", ready[1])
    return ready[1]


def _enroll(name: str, tpm: SoftTPM, registrar: str, service: Service) -> list[str]:
    flags = [f"--private-key={tpm.uri(tpm.folder / 'key.tss2')}", f"--subject={_SUBJECT}"]
    return ["enroll", name, *flags, "--issuer=registrar", f"--issuer-url={registrar}", *service.flags]
