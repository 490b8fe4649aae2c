"""moto's AWS Private CA in a process of its own, made to behave like the real one, and to misbehave.

moto does not know the template for clients, ignores tokens of idempotency and has each certificate at once. As a
program, this file is the server: it reads its faults from a file before each call, and appends what it was asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import boto3

REGION = "eu-central-1"
_TEMPLATES = "arn:aws:acm-pca:::template"
_CLIENT_AUTH = f"{_TEMPLATES}/EndEntityClientAuthCertificate/V1"
_KNOWN = f"{_TEMPLATES}/EndEntityCertificate/V1"


class PrivateCAs:
    """The service, with one CA.

    Args:
        folder: a folder for its files.
    """

    def __init__(self, folder: Path) -> None:
        self._faults, self._calls = folder / "faults.json", folder / "calls"
        self.clear_faults()
        command = [sys.executable, __file__, str(self._faults), str(self._calls)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.url = self._process.stdout.readline().strip()
        keys = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "secret"}
        client = boto3.client("acm-pca", region_name=REGION, endpoint_url=self.url, **keys)
        self.arn = _made_ca(client)
        client.close()
        self.clear_faults()

    def misbehave(self, **faults: Any) -> None:
        """Set faults, how often each, by the names of `_Server._fault`; or `answer`, the ARN of the certificate."""
        self._faults.write_text(json.dumps(faults))

    def clear_faults(self) -> None:
        """Remove the faults, and forget the calls."""
        self._faults.write_text("{}")
        self._calls.write_text("")

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls that were answered: their names as `call`, their parameters, and the ARN as `answer`."""
        return [json.loads(line) for line in self._calls.read_text().splitlines()]

    def stop(self) -> None:
        self._process.communicate()


def _made_ca(client: Any) -> str:
    """Make a root CA and return its ARN."""
    configuration = {
        "KeyAlgorithm": "RSA_2048",
        "SigningAlgorithm": "SHA256WITHRSA",
        "Subject": {"CommonName": "Example Private CA"},
    }
    arn = client.create_certificate_authority(
        CertificateAuthorityConfiguration=configuration, CertificateAuthorityType="ROOT"
    )["CertificateAuthorityArn"]
    csr = client.get_certificate_authority_csr(CertificateAuthorityArn=arn)["Csr"]
    root = client.issue_certificate(
        CertificateAuthorityArn=arn,
        Csr=csr.encode(),
        SigningAlgorithm="SHA256WITHRSA",
        TemplateArn=f"{_TEMPLATES}/RootCACertificate/V1",
        Validity={"Value": 10, "Type": "YEARS"},
    )["CertificateArn"]
    certificate = client.get_certificate(CertificateAuthorityArn=arn, CertificateArn=root)["Certificate"]
    client.import_certificate_authority_certificate(CertificateAuthorityArn=arn, Certificate=certificate.encode())
    return str(arn)


class _Server:
    """What is put around moto's calls, in the server's process."""

    def __init__(self, faults: Path, calls: Path) -> None:
        self._faults, self._calls = faults, calls
        self._issued: dict[str, str] = {}

    def _fault(self, name: str) -> Any:
        faults = json.loads(self._faults.read_text())
        found = faults.get(name)
        if isinstance(found, int) and found:
            self._faults.write_text(json.dumps({**faults, name: found - 1}))
        return found

    def _record(self, call: str, parameters: dict[str, Any], answer: str) -> None:
        with self._calls.open("a") as file:
            print(json.dumps({"call": call, **parameters, "answer": answer}), file=file)

    def issue(self, original: Any, response: Any) -> str:
        from moto.core.exceptions import JsonRESTError

        parameters = json.loads(response.body)
        if self._fault("throttled"):
            raise JsonRESTError("ThrottlingException", "Rate exceeded")
        if self._fault("denied"):
            action = f"acm-pca:IssueCertificate on resource: {parameters['CertificateAuthorityArn']}"
            message = f"User: arn:aws:iam::123456789012:user/web is not authorized to perform: {action}"
            raise JsonRESTError("AccessDeniedException", f"{message} because no identity-based policy allows it")
        token = parameters.get("IdempotencyToken", "")
        if token not in self._issued:
            if parameters["TemplateArn"] == _CLIENT_AUTH:
                response.body = json.dumps({**parameters, "TemplateArn": _KNOWN})
            arn = json.loads(original(response))["CertificateArn"]
            self._issued[token or arn] = arn
            token = token or arn
        self._record("IssueCertificate", parameters, self._issued[token])
        return json.dumps({"CertificateArn": self._issued[token]})

    def get(self, original: Any, response: Any) -> str:
        from moto.acmpca.exceptions import RequestInProgressException

        parameters = json.loads(response.body)
        if self._fault("in_progress"):
            self._record("GetCertificate", parameters, "")
            raise RequestInProgressException("The certificate is not issued yet")
        other = self._fault("answer")
        if other:
            response.body = json.dumps({**parameters, "CertificateArn": other})
        self._record("GetCertificate", parameters, other or parameters["CertificateArn"])
        return str(original(response))


def _run(faults: Path, calls: Path) -> None:
    from moto.acmpca.responses import ACMPCAResponse
    from moto.server import ThreadedMotoServer

    around = _Server(faults, calls)
    for name, wrapper in (("issue_certificate", around.issue), ("get_certificate", around.get)):
        bound = partial(wrapper, getattr(ACMPCAResponse, name))
        setattr(ACMPCAResponse, name, lambda self, bound=bound: bound(self))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _run(Path(sys.argv[1]), Path(sys.argv[2]))
