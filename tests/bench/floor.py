"""The floor: the same work with the bare libraries, without any checks.

It parses the same flags, reads the certificate, opens the key, signs once and sends one POST over TLS.
"""

import argparse
import http.client
import json
import os
import socket
import ssl
import urllib.parse
from typing import Any

from cryptography import x509

FLAGS = [
    "certificate",
    "private-key",
    "intermediates",
    "cert-selector",
    "system-store-name",
    "pkcs11-lib",
    "tpm-key-password",
    "pkcs8-password",
    "trust-anchor-arn",
    "profile-arn",
    "role-arn",
    "session-duration",
    "role-session-name",
    "region",
    "endpoint",
    "connect-timeout",
    "read-timeout",
    "timeout",
    "instance-property",
    "profile",
    "config-profile",
]
SWITCHES = [
    "use-latest-expiring-certificate",
    "reuse-pin",
    "no-tpm-key-password",
    "allow-final-pin-try",
    "no-preflight",
    "strict",
    "debug",
    "no-verify-ssl",
    "with-proxy",
]


def with_file(path: str, message: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    with open(path, "rb") as file:
        key = load_pem_private_key(file.read(), None)
    return key.sign(message, ec.ECDSA(SHA256()))  # type: ignore[call-arg, arg-type, union-attr]


def with_pkcs11(uri: str, message: bytes) -> bytes:
    import hashlib

    import pkcs11

    attributes = dict(item.split("=") for item in uri.removeprefix("pkcs11:").partition("?")[0].split(";"))
    query = dict(item.split("=") for item in uri.partition("?")[2].split("&"))
    token = pkcs11.lib(query["module-path"]).get_token(token_label=attributes["token"])
    with open(query["pin-source"].removeprefix("file:")) as file, token.open(user_pin=file.read()) as session:
        key: Any = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=attributes["object"])
        signature: bytes = key.sign(hashlib.sha256(message).digest(), mechanism=pkcs11.Mechanism.ECDSA)
        return signature


def with_tpm(path: str, message: bytes) -> bytes:
    os.environ.setdefault("TSS2_LOG", "all+NONE")
    import hashlib

    from tpm2_pytss import ESAPI
    from tpm2_pytss.constants import TPM2_ALG, TPM2_RH, TPM2_ST
    from tpm2_pytss.tsskey import TSSPrivKey
    from tpm2_pytss.types import TPM2B_DIGEST, TPMT_SIG_SCHEME, TPMT_TK_HASHCHECK

    with open(path, "rb") as file:
        key = TSSPrivKey.from_pem(file.read())
    with ESAPI(os.environ["TPM2_TCTI"]) as esys:
        handle = key.load(esys)
        digest = TPM2B_DIGEST(hashlib.sha256(message).digest())
        ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
        scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.ECDSA)
        scheme.details.any.hashAlg = TPM2_ALG.SHA256
        signature = esys.sign(handle, digest, scheme, ticket)
        esys.flush_context(handle)
        return bytes(signature.signature.ecdsa.signatureR) + bytes(signature.signature.ecdsa.signatureS)


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in FLAGS:
        parser.add_argument(f"--{flag}")
    for switch in SWITCHES:
        parser.add_argument(f"--{switch}", action="store_true")
    flags = parser.parse_args()
    with open(flags.certificate, "rb") as file:
        certificate = x509.load_pem_x509_certificate(file.read())
    message = certificate.fingerprint(certificate.signature_hash_algorithm)  # type: ignore[arg-type]
    if flags.private_key.startswith("pkcs11:"):
        signature = with_pkcs11(flags.private_key, message)
    elif "TPM2_TCTI" in os.environ:
        signature = with_tpm(flags.private_key, message)
    else:
        signature = with_file(flags.private_key, message)
    url = urllib.parse.urlsplit(flags.endpoint)
    context = ssl.create_default_context(cafile=os.environ["AWS_CA_BUNDLE"])
    connection = http.client.HTTPConnection(url.netloc)
    plain = socket.create_connection((url.hostname or "", url.port or 443), timeout=5)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A str would go through IDNA, whose import takes a millisecond.
    connection.sock = context.wrap_socket(plain, server_hostname=(url.hostname or "").encode())
    query = urllib.parse.urlencode({"roleArn": flags.role_arn})
    connection.request("POST", f"/sessions?{query}", b'{"durationSeconds":3600}', {"Authorization": signature.hex()})
    print(json.dumps(json.loads(connection.getresponse().read())["credentialSet"][0]["credentials"]))


if __name__ == "__main__":
    main()
