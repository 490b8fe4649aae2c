"""A stand-in for `step ca sign REQUEST CERTIFICATE`, which Debian does not have: it asks a real step-ca.

The file of --provisioner-password-file has the provisioner's key, which the real program decrypts with that password.
"""

from __future__ import annotations

import argparse
import base64
import json
import ssl
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import DNSName, NameOID, SubjectAlternativeName, UniformResourceIdentifier, load_pem_x509_csr

KEY_ID = "provisioner"


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def one_time_token(key: Any, claims: dict[str, Any]) -> str:
    """Return the claims as a JWT that the provisioner's key signs."""
    header = {"alg": "ES256", "kid": KEY_ID, "typ": "JWT"}
    signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
    numbers = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(SHA256())))
    return f"{signed}.{base64url(b''.join(number.to_bytes(32) for number in numbers))}"


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("ca", "sign", "request", "certificate"):
        parser.add_argument(name)
    for name in ("provisioner", "provisioner-password-file", "ca-url", "root"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    csr = Path(given.request).read_text()
    request = load_pem_x509_csr(csr.encode())
    [subject] = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    names = request.extensions.get_extension_for_class(SubjectAlternativeName).value
    url, now = f"{given.ca_url}/1.0/sign", int(time.time())
    claims = {"aud": url, "iat": now, "nbf": now, "exp": now + 300, "iss": given.provisioner, "jti": uuid.uuid4().hex}
    uris = names.get_values_for_type(UniformResourceIdentifier)
    claims |= {"sub": subject.value, "sans": [*names.get_values_for_type(DNSName), *uris]}
    key = load_pem_private_key(Path(given.provisioner_password_file).read_bytes(), None)
    data = json.dumps({"csr": csr, "ott": one_time_token(key, claims)}).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    context = ssl.create_default_context(cafile=given.root)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # The tests' CAs have no key identifiers.
    with urllib.request.urlopen(asked, timeout=30, context=context) as response:
        answer = json.load(response)
    Path(given.certificate).write_text("".join(answer["certChain"]))


if __name__ == "__main__":
    main()
