"""The setting of revocations: an emulated account with a trust anchor, a CA with its key in a file, and machines."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

import certs
from emulator import planes
from hwsigner.emulator import Emulator, World
from scene import Outcome


@dataclass(frozen=True)
class Machine:
    """A machine: its certificate and the files of it and its key."""

    certificate: x509.Certificate
    path: Path
    key: Path

    @property
    def serial(self) -> int:
        return self.certificate.serial_number


@dataclass(frozen=True)
class Account:
    """An emulated account whose trust anchor has a CA.

    Attributes:
        emulator: the service.
        ca: the CA.
        folder: a folder for files; ca.pem and ca.key are there.
        call: a function that runs a command in this process.
    """

    emulator: Emulator
    ca: certs.Authority
    folder: Path
    call: Callable[..., Outcome]

    def machine(self, name: str = "bamboo-01", ca: certs.Authority | None = None) -> Machine:
        """Issue a certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = certs.issue(ca or self.ca, key.public_key(), certs.Shape(name))
        path = self.folder / f"{name}.pem"
        path.write_bytes(certs.pem(certificate))
        return Machine(certificate, path, certs.write_key(self.folder / f"{name}.key", key))

    def flags(self, machine: Machine) -> list[str]:
        """Return the flags of credential-process."""
        one = self.emulator
        arns = f"--trust-anchor-arn={one.trust_anchor_arn} --profile-arn={one.profile_arn} --role-arn={one.role_arn}"
        return [*arns.split(), f"--certificate={machine.path}", f"--private-key={machine.key}", f"--endpoint={one.url}"]

    def credentials(self, machine: Machine) -> Outcome:
        """Ask for credentials as a machine."""
        return self.call("credential-process", *self.flags(machine))

    def revoke(self, *arguments: str | Path, answer: str = "--yes", **instead: str | Path | None) -> Outcome:
        """Run `aws revoke` with the flags it needs and more. `instead` replaces flags; None drops one."""
        return self.call(*self.command(*arguments, answer=answer, **instead))

    def command(self, *arguments: str | Path, answer: str = "--yes", **instead: str | Path | None) -> list[str]:
        """Return the arguments of `revoke`."""
        values: dict[str, Any] = {
            "trust_anchor_arn": self.emulator.trust_anchor_arn,
            "endpoint": self.emulator.url,
            "ca_key": self.folder / "ca.key",
            "ca": self.folder / "ca.pem",
        }
        flags = [f"--{k.replace('_', '-')}={v}" for k, v in (values | instead).items() if v is not None]
        return ["aws", "revoke", *map(str, arguments), *flags, *([answer] if answer else [])]

    @property
    def api(self) -> Any:
        """boto3's client of the emulated service."""
        return planes.client(self.emulator)

    def lists(self) -> list[Any]:
        """Return the CRLs as boto3 has them."""
        found: list[Any] = self.api.list_crls()["crls"]
        return found

    def only_list(self) -> x509.CertificateRevocationList:
        """Return the one CRL, which is enabled and which openssl accepts."""
        [found] = self.lists()
        assert found["enabled"]
        path = self.folder / "only.crl"
        path.write_bytes(found["crlData"])
        command = ["openssl", "crl", "-verify", "-CAfile", str(self.folder / "ca.pem"), "-in", str(path), "-noout"]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.stderr.strip() == "verify OK"
        return x509.load_pem_x509_crl(found["crlData"])

    def revoked(self) -> set[int]:
        """Return the serial numbers of the one CRL."""
        return {entry.serial_number for entry in self.only_list()}


def number_of(found: x509.CertificateRevocationList) -> int:
    return found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


@pytest.fixture
def account(tmp_path: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """An account with a trust anchor and no CRL. The environment has an administrator's credentials."""
    ca = certs.make_ca()
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    certs.write_key(tmp_path / "ca.key", ca.key)
    with Emulator(World.simple(ca.certificate)) as emulator:
        emulator.add_credentials(*planes.KEY)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", planes.KEY[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", planes.KEY[1])
        yield Account(emulator, ca, tmp_path, call)


@contextmanager
def interrupted(operation: str, error: BaseException, *, after: bool = False, skip: int = 0) -> Iterator[None]:
    """Raise an error instead of an API call, such as `ImportCrl`, or after it; but skip the first such calls."""
    original, calls = BaseClient._make_api_call, count()

    def make(self: Any, name: str, parameters: Any) -> Any:
        fails = name == operation and next(calls) >= skip
        if fails and not after:
            raise error
        answer = original(self, name, parameters)
        if fails:
            raise error
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", make)
        yield


def denied(operation: str) -> ClientError:
    """Return the error of a call without permission."""
    message = f"User: arn:aws:iam::123456789012:user/ann is not authorized to perform: rolesanywhere:{operation}"
    answer: Any = {"Error": {"Code": "AccessDeniedException", "Message": message}, "ResponseMetadata": {}}
    return ClientError(answer, operation)
