"""Objects that no tool creates, and the output of other tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from backends.contract import ENVIRONMENT
from emulators import InProcessSoftHSM
from softhsm.token import SoftHSM

# Values are bytes in hexadecimal, whole numbers or booleans.
_CREATE = """
import json, sys
import pkcs11
from pkcs11.attributes import AttributeMapper, handle_bool, handle_bytes, handle_ulong
handlers = {bool: handle_bool, int: handle_ulong, bytes: handle_bytes}
with pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2]).open(rw=True, user_pin="1234") as session:
    for values in json.loads(sys.argv[3]):
        values = {pkcs11.Attribute[n]: bytes.fromhex(v) if isinstance(v, str) else v for n, v in values.items()}
        mapper = AttributeMapper()
        for name, value in values.items():
            mapper.register_handler(name, *handlers[type(value)])
        with session.token.open(rw=True, attribute_mapper=mapper) as writing:
            writing.create_object(values)
"""
DATA, CERTIFICATE, PUBLIC_KEY, PRIVATE_KEY = range(4)
EC = 3
P256 = bytes.fromhex("06082a8648ce3d030107")


def create(hsm: SoftHSM, token: str, *objects: dict[str, Any]) -> None:
    """Create objects in a separate process. Attributes are named without CKA_."""
    shown = [
        {name: v.hex() if isinstance(v, bytes) else v for name, v in {**one, "TOKEN": True}.items()} for one in objects
    ]
    run([sys.executable, "-c", _CREATE, hsm.module, token, json.dumps(shown)], hsm)


def key_uri(module: str, attributes: str = "", *, token: str | None = None, query: str = "") -> str:
    """Return a URI with a module, and a token if one is given."""
    path = ";".join(filter(None, (f"token={token}" if token else "", attributes)))
    return f"pkcs11:{path}?module-path={module}{query}"


def remove_tokens(hsm: InProcessSoftHSM, *labels: str) -> None:
    """Remove tokens, so that test modules that list all tokens do not find odd objects."""
    # Not by softhsm2-util, which overlooks a token while another process logs in to it.
    for label in labels:
        [folder] = (
            one.parent for one in hsm.folder.rglob("token.object") if label.encode().ljust(32) in one.read_bytes()
        )
        shutil.rmtree(folder)
    hsm.reload()


def certificate_object(der: bytes, label: bytes, id: bytes, **more: Any) -> dict[str, Any]:
    values = {"CLASS": CERTIFICATE, "CERTIFICATE_TYPE": 0, "VALUE": der, "SUBJECT": b"\x30\x00", "PRIVATE": False}
    return {**values, "LABEL": label, "ID": id, **more}


def self_made(public_key: bytes, name: str, *extensions: x509.ExtensionType) -> bytes:
    """Return a DER certificate whose issuer has the same name and another key."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    public: Any = load_der_public_key(public_key)
    builder = x509.CertificateBuilder(subject, subject, public, x509.random_serial_number(), now, now + timedelta(1))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


def tool(hsm: SoftHSM, token: str, *arguments: str) -> str:
    """Return the output of pkcs11-tool, logged in."""
    login = ["--token-label", token, "--login", "--pin", "1234"]
    return run(["pkcs11-tool", "--module", hsm.module, *login, *arguments], hsm)


def plain_ids(listed: str) -> str:
    """Return what pkcs11-tool lists with IDs as 0102. 0.27 writes 01:02:03:04:05, and 258 (0x01:02) up to four."""
    pattern = r"^( +ID: +)(?:\d+ \(0x)?([0-9a-f:]+)\)?$"
    return re.sub(pattern, lambda found: found[1] + found[2].replace(":", ""), listed, flags=re.MULTILINE)


def p11tool(hsm: InProcessSoftHSM, *arguments: str) -> str:
    """Return the output of p11tool, with the PIN in its environment."""
    return run(["p11tool", "--provider", hsm.module, *arguments], hsm)


def run(command: list[str], hsm: SoftHSM) -> str:
    environment = {**ENVIRONMENT, **hsm.env, "GNUTLS_PIN": "1234"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout
