"""Key files of every form, made by the openssl program. cryptography makes the ML-DSA keys that it reads."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

import certs
from backends.contract import ENVIRONMENT

PASSPHRASE = "correct horse ü"
WRONG_PASSPHRASE = "not-the-passphrase-4711"

EC = ("P-256", "P-384", "P-521")
RSA = {f"RSA-{bits}": str(bits) for bits in (2048, 3072, 4096)}
MLDSA: dict[str, Any] = {
    "ML-DSA-44": mldsa.MLDSA44PrivateKey,
    "ML-DSA-65": mldsa.MLDSA65PrivateKey,
    "ML-DSA-87": mldsa.MLDSA87PrivateKey,
}
KINDS = (*EC, *RSA, *MLDSA)

_TRADITIONAL = "pkey -in {key} -traditional"
_PKCS8 = "pkcs8 -in {key} -topk8"
_PKCS12 = "pkcs12 -export -in {certificate} -inkey {key}"
_MLDSA_FORMS = ("seed-only", "priv-only", "seed-priv", "oqskeypair", "bare-seed", "bare-priv")

# The forms of a key: a name, and the command of openssl that writes it.
PLAIN = {
    "traditional": _TRADITIONAL,
    "traditional DER": f"{_TRADITIONAL} -outform DER",
    "PKCS #8": "pkey -in {key}",
    "PKCS #8 DER": "pkey -in {key} -outform DER",
    "PKCS #12 with an empty passphrase": f"{_PKCS12} -passout pass:",
    "PKCS #12 legacy with an empty passphrase": f"{_PKCS12} -legacy -passout pass:",
    "PKCS #12 without encryption": f"{_PKCS12} -keypbe NONE -certpbe NONE -nomac -passout pass:",
}
ENCRYPTED = {
    **{f"PBES2 {cipher}": f"{_PKCS8} -v2 {cipher}" for cipher in ("aes-128-cbc", "aes-192-cbc", "aes-256-cbc", "des3")},
    **{
        f"PBES2 {prf}": f"{_PKCS8} -v2 aes-256-cbc -v2prf hmacWith{prf}"
        for prf in ("SHA1", "SHA224", "SHA256", "SHA384", "SHA512")
    },
    "PBES2 DER": f"{_PKCS8} -v2 aes-256-cbc -outform DER",
    "PBES1": f"{_PKCS8} -v1 PBE-SHA1-3DES",
    "scrypt": f"{_PKCS8} -scrypt",
    "scrypt DER": f"{_PKCS8} -scrypt -outform DER",
    **{f"legacy {cipher}": f"{_TRADITIONAL} -{cipher}" for cipher in ("aes128", "aes256", "des3")},
    "PKCS #12": _PKCS12,
    "PKCS #12 legacy": f"{_PKCS12} -legacy",
    "PKCS #12 3DES": f"{_PKCS12} -legacy -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-RC2-40",
    "PKCS #12 PBMAC1": f"{_PKCS12} -pbmac1_pbkdf2",
}
# Forms that cryptography does not read, and libcrypto does.
ONLY_OPENSSL = {
    **{f"PBES2 {prf}": f"{_PKCS8} -v2 aes-256-cbc -v2prf hmacWith{prf}" for prf in ("SHA512-256", "MD5")},
    "PBES2 camellia": f"{_PKCS8} -v2 camellia128",
    **{f"legacy {cipher}": f"{_TRADITIONAL} -{cipher}" for cipher in ("aes192", "camellia128")},
}
# For ML-DSA, which cryptography does not read in these forms, while libcrypto needs its legacy provider for the cipher.
UNREADABLE = {
    "PKCS #12 RC2": f"{_PKCS12} -legacy",
    "PBES1 RC2": f"{_PKCS8} -v1 PBE-SHA1-RC2-64 -provider legacy -provider default",
    "PBES2 RC2": f"{_PKCS8} -v2 rc2 -provider legacy -provider default",
}
MLDSA_PLAIN = {
    **{form: f"pkey -in {{key}} -provparam ml-dsa.output_formats={form}" for form in _MLDSA_FORMS},
    **{
        f"{form} DER": f"pkey -in {{key}} -outform DER -provparam ml-dsa.output_formats={form}" for form in _MLDSA_FORMS
    },
}
MLDSA_ENCRYPTED = {
    **{
        f"{form} PBES2": f"{_PKCS8} -v2 aes-256-cbc -provparam ml-dsa.output_formats={form}"
        for form in _MLDSA_FORMS[:3]
    },
    **{f"{form} scrypt": f"{_PKCS8} -scrypt -provparam ml-dsa.output_formats={form}" for form in _MLDSA_FORMS[:3]},
    **{f"{form} PKCS #12": f"{_PKCS12} -provparam ml-dsa.output_formats={form}" for form in _MLDSA_FORMS[:3]},
    "seed-priv PBES2 DER": f"{_PKCS8} -v2 aes-256-cbc -outform DER",
}


def openssl(*arguments: str, data: bytes = b"") -> bytes:
    """Run openssl and return what it writes."""
    ran = subprocess.run(["openssl", *arguments], input=data, env=ENVIRONMENT, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout


@dataclass
class KeyFiles:
    """A folder with one key of each kind, each with a certificate, from which the other forms are made.

    Their files have mode 0600.
    """

    folder: Path
    public_keys: dict[str, bytes] = field(default_factory=dict)

    def key(self, kind: str) -> Path:
        """Return the path of the PKCS #8 key of a kind, making it at the first call."""
        path = self.folder / f"{kind}.pem"
        if path.exists():
            return path
        if kind in MLDSA:
            return certs.write_key(path, MLDSA[kind].generate())
        words = ["EC", f"ec_paramgen_curve:{kind}"] if kind in EC else ["RSA", f"rsa_keygen_bits:{RSA[kind]}"]
        return self.write(path.name, openssl("genpkey", "-algorithm", words[0], "-pkeyopt", words[1]))

    def public_key(self, kind: str) -> bytes:
        """Return the DER SubjectPublicKeyInfo of the key of a kind."""
        if kind not in self.public_keys and kind in MLDSA:
            public: Any = self._mldsa(kind).public_key()
            self.public_keys[kind] = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        elif kind not in self.public_keys:
            self.public_keys[kind] = openssl("pkey", "-in", str(self.key(kind)), "-pubout", "-outform", "DER")
        return self.public_keys[kind]

    def certificate(self, kind: str) -> Path:
        """Return the path of a self-signed PEM certificate of the key of a kind."""
        path = self.folder / f"{kind}.crt"
        if path.exists():
            return path
        if kind in MLDSA:
            return self.write(path.name, certs.make_ca(kind, key=self._mldsa(kind)).pem)
        return self.write(path.name, openssl("req", "-x509", "-key", str(self.key(kind)), "-subj", f"/CN={kind}"))

    def form(self, kind: str, command: str, passphrase: str | None = None) -> Path:
        """Return the path of a key in another form, which a command of openssl writes."""
        paths = {"key": self.key(kind), "certificate": self.certificate(kind), "folder": self.folder}
        arguments = [word.format(**paths) for word in command.split()]
        if passphrase is not None:
            arguments += ["-passout", f"pass:{passphrase}"]
        return self.write("form", openssl(*arguments))

    def _mldsa(self, kind: str) -> Any:
        return load_pem_private_key(self.key(kind).read_bytes(), None)

    def write(self, name: str, data: bytes) -> Path:
        """Write a file of mode 0600 and return its path."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(data)
        return path
