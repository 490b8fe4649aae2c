"""The contracts of backends with modules that hwsigner was not written with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import judges
from backends.pkcs11.module_contracts import ModuleKeyContract, ModulePinContract, public_keys
from pkcs11_shim import ROOT
from real_modules import ModuleToken, nss_token, opencryptoki_token, remote_token, tpm2_token

__all__ = ["public_keys"]

pytestmark = [pytest.mark.slow, judges.needs_opensc]


@pytest.fixture(scope="module", params=[nss_token, remote_token, tpm2_token], ids=["NSS", "p11-kit", "libtpm2-pkcs11"])
def token(
    request: pytest.FixtureRequest, hardware: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModuleToken]:
    """A new token, with the variables for it in this process."""
    with request.param(tmp_path_factory.mktemp("module")) as token, token.in_process():
        yield token


class TestModuleKey(ModuleKeyContract):
    @pytest.fixture(autouse=True)
    def known_faults(self, token: ModuleToken, request: pytest.FixtureRequest) -> None:
        """Expect what docs/how-to/pkcs11-in-use.md says of forks."""
        if "libtpm2" in token.module and "fork" in request.node.name:
            reason = "libtpm2-pkcs11 does not notice a fork: the parent's next signature may fail"
            request.node.add_marker(pytest.mark.xfail(reason=reason, strict=False))


class TestModulePin(ModulePinContract):
    pass


@pytest.mark.root
def test_opencryptoki_passes_the_contracts(hardware: None, tmp_path: Path) -> None:
    """In another process, which has its daemon and files."""
    with opencryptoki_token(tmp_path) as token:
        module = Path(__file__).with_name("opencryptoki_contracts.py")
        command = [*token.prefix, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(module)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
