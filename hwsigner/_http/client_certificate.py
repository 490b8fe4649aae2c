"""One POST with a client certificate whose key is a TSS2 key file of a TPM, in a child process.

Python's TLS takes keys in files alone. OpenSSL's provider `tpm2` (Debian: tpm2-openssl) reads TSS2 key files as if they
were such keys, but a process loads its providers when it starts. So this module is also a program, which runs with an
OPENSSL_CONF of its own. It takes the request on stdin and writes the response to stdout, both in JSON.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import sys
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import Any

from hwsigner._http.address import Endpoint
from hwsigner._http.connection import RETRY_HINT, Deadline, Proxy
from hwsigner._http.tls import TrustedCAs
from hwsigner._http.transport import Headers, Response, TransportOptions, post
from hwsigner._system.descriptors import path_of
from hwsigner._system.new_files import anonymous_file
from hwsigner._system.processes import python_command
from hwsigner.errors import ConfigError, HwsignerError, ServiceUnreachableError

# The provider is for this key alone: it also offers to verify signatures and to agree on keys, but not for all curves.
_CONFIG = """
openssl_conf = hwsigner
[hwsigner]
providers = providers
alg_section = algorithms
[providers]
default = active
tpm2 = active
[active]
activate = 1
[algorithms]
default_properties = ?provider=default
"""
_GRACE_SECONDS = 2.0  # For the child, to report its own time-out.


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate with a key in a TPM: the paths of the chain in PEM, and of the TSS2 key file, without auth value.

    If `tcti` is empty, the TSS chooses how to reach the TPM.
    """

    certificate: str
    key: str
    tcti: str = ""

    def post(
        self,
        endpoint: Endpoint,
        target: str,
        headers: Headers,
        body: bytes,
        *,
        options: TransportOptions,
        deadline: Deadline,
    ) -> Response:
        """Send a POST request, as `hwsigner._http.transport.post` does, with this certificate."""
        request = {
            "certificate": [self.certificate, self.key],
            "endpoint": endpoint,
            "target": target,
            "headers": list(headers),
            "body": base64.b64encode(body).decode(),
            "limits": [options.connect_timeout, options.read_timeout, deadline.remaining()],
            "cas": options.cas,
            "proxy": vars(options.proxy) if options.proxy else None,
        }
        answer = _run_child(self, json.dumps(request), deadline.remaining() + _GRACE_SECONDS, endpoint.host_header)
        if "error" in answer:
            error = ServiceUnreachableError if answer["error"] == "ServiceUnreachableError" else ConfigError
            raise error(answer["message"], answer["hint"])
        message = HTTPMessage()
        for name, value in answer["headers"]:
            message[name] = value
        return Response(answer["status"], message, base64.b64decode(answer["body"]))


def _run_child(client: ClientCertificate, request: str, seconds: float, peer: str) -> dict[str, Any]:
    with anonymous_file("openssl.cnf") as config:
        config.write(_CONFIG.encode())
        config.seek(0)
        variables = {"OPENSSL_CONF": path_of(config.fileno()), "TSS2_LOG": "all+NONE"}
        variables |= {"TPM2OPENSSL_TCTI": client.tcti} if client.tcti else {}
        try:
            ran = subprocess.run(
                python_command(__name__),
                input=request.encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **variables},
                timeout=seconds,
                pass_fds=[config.fileno()],
            )
            answer: dict[str, Any] = json.loads(ran.stdout)
        except subprocess.TimeoutExpired:
            # Not chained: the exception has the request.
            raise ServiceUnreachableError(f"{peer} or the TPM did not answer in time", RETRY_HINT) from None
        except ValueError:
            problem = f"the request to {peer} with the certificate {client.certificate} ended without an answer"
            raise ServiceUnreachableError(problem, "Check that OpenSSL's provider tpm2 works") from None
    return answer


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Send a request, in the child."""
    connect, read, whole = request["limits"]
    cas = TrustedCAs(*request["cas"]) if request["cas"] else None
    proxy = Proxy(**request["proxy"]) if request["proxy"] else None
    options = TransportOptions(connect, read, cas=cas, proxy=proxy)
    certificate, key = request["certificate"]
    try:
        options.present_certificate(certificate, key)
    except (OSError, ssl.SSLError):
        problem = f"the certificate {certificate} and its key {key} can't be used for TLS"
        hint = (
            "Install OpenSSL's provider tpm2 (Debian: tpm2-openssl) for the OpenSSL of this Python, and check the TPM"
        )
        raise ConfigError(problem, hint) from None
    headers, sent = [(name, value) for name, value in request["headers"]], base64.b64decode(request["body"])
    endpoint = Endpoint(*request["endpoint"])
    response = post(endpoint, request["target"], headers, sent, options=options, deadline=Deadline(whole))
    body = base64.b64encode(response.body).decode()
    return {"status": response.status, "headers": response.headers.items(), "body": body}


def _main() -> None:
    try:
        answer = _answer(json.load(sys.stdin))
    except HwsignerError as error:
        answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
