"""A PKCS #11 module for tests, as pytest fixtures: SoftHSM whose tokens can be removed, wait and fail."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from backends.contract import ENVIRONMENT
from hwsigner._pins import PinRequest
from softhsm.token import SoftHSM

ROOT = Path(__file__).parents[1]
_SOURCE = Path(__file__).parent / "backends" / "pkcs11" / "shim.c"
# Indexes in CK_FUNCTION_LIST.
INITIALIZE, FINALIZE, LOGIN, LOGOUT, SIGN_INIT, SIGN = 0, 1, 18, 19, 42, 43
CREATE_OBJECT, COPY_OBJECT, DESTROY_OBJECT, GENERATE_KEY_PAIR = 20, 21, 22, 59
GET_ATTRIBUTE_VALUE, FIND_OBJECTS_INIT = 24, 26


def forget_refusals() -> None:
    """Forget the PINs that tokens refused in earlier tests."""
    shutil.rmtree(refusals_folder(), ignore_errors=True)


def refusals_folder() -> Path:
    """Return the folder with the records of refused PINs."""
    return Path(os.environ["XDG_STATE_HOME"], "hwsigner", "refused-pins")


class Shim:
    """The module and two tokens, each with keys P-256 and RSA-2048.

    Attributes:
        path: the module's file.
        env: variables for processes that load it.
        hsm: the tokens.
    """

    def __init__(self, path: Path, hsm: SoftHSM, env: dict[str, str]) -> None:
        self.path = path
        self.hsm = hsm
        self.env = env
        self.library = ctypes.CDLL(str(path))
        self.library.shim_count.restype = self.library.shim_context_logins.restype = ctypes.c_ulong

    def uri(self, key: str = "P-256", token: str = "one") -> str:
        """Return a key's URI, without its PIN."""
        return f"pkcs11:token={token};object={key}?module-path={quote(str(self.path))}"

    def reset(self) -> None:
        """Undo all changes, insert both tokens, and count from zero."""
        self.library.shim_reset()
        forget_refusals()

    def remove(self, token: str = "one") -> None:
        """Remove a token, even during a signature."""
        self.library.shim_remove(self._token(token))

    def insert(self, token: str = "one") -> None:
        """Insert a token again."""
        self.library.shim_insert(self._token(token))

    def hold(self, token: str = "one", *, held: bool = True) -> None:
        """Make a token's signatures wait, as for a touch, or let them continue."""
        self.library.shim_hold(self._token(token), held)

    def waiting(self, token: str = "one") -> int:
        """Return the number of waiting signatures."""
        return int(self.library.shim_waiting(self._token(token)))

    def flags(self, raised: int = 0, cleared: int = 0, token: str = "one") -> None:
        """Set and clear flags of CK_TOKEN_INFO."""
        self.library.shim_flags(self._token(token), ctypes.c_ulong(raised), ctypes.c_ulong(cleared))

    def serial(self, serial: bytes, token: str = "one") -> None:
        """Give a token another serial number, of 16 bytes."""
        self.library.shim_serial(self._token(token), serial)

    def fail(self, call: int, answer: int, *, after: int = 0, times: int = 0) -> None:
        """Make a function return this value, after some more calls, or its own value again if it is 0."""
        self.library.shim_fail(call, *map(ctypes.c_ulong, (answer, after, times)))

    def count(self, call: int) -> int:
        """Return the number of calls of a function."""
        return int(self.library.shim_count(call))

    def context_logins(self) -> int:
        """Return the number of calls of C_Login for a signature."""
        return int(self.library.shim_context_logins())

    def claim(self, attribute: int, *, value: bool) -> None:
        """Make the module return another value of a CK_BBOOL attribute."""
        self.library.shim_claim(ctypes.c_ulong(attribute), int(value))

    def hide(self, mechanism: int) -> None:
        """Do not offer a mechanism."""
        self.library.shim_hide(ctypes.c_ulong(mechanism))

    def offer(self, mechanism: int) -> None:
        """Offer CKM_ECDSA_SHA256, _SHA384 or _SHA512."""
        self.library.shim_offer(ctypes.c_ulong(mechanism))

    def become_mldsa(self, name: str, seed: bytes) -> None:
        """Make each EC key appear and sign as the ML-DSA key of a seed."""
        assert self.library.shim_mldsa(name.encode(), seed) == 1

    def _token(self, label: str) -> int:
        number = int(self.library.shim_token(label.encode().ljust(32)))
        assert number >= 0, f"the module has not listed token {label} yet"
        return number


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled module."""
    path = tmp_path_factory.mktemp("shim") / "shim.so"
    command = [
        "cc",
        "-shared",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
        str(path),
        str(_SOURCE),
        "-lcrypto",
        "-lpthread",
    ]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="module")
def loaded_shim(hardware: None, shim_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shim]:
    """The shim for this test module. It wraps its own copy of SoftHSM, which nothing else has initialised."""
    folder = tmp_path_factory.mktemp("shimmed")
    hsm = SoftHSM(folder / "hsm")
    hsm.make()
    for token in ("one", "two"):
        hsm.add_token(token)
        hsm.generate("P-256", b"\x01", "EC:prime256v1")
        hsm.generate("RSA-2048", b"\x02", "rsa:2048")
    path = Path(shutil.copy(shim_library, folder / "shim.so"))
    module = shutil.copy(os.path.realpath(hsm.module), folder / "softhsm.so")
    env = {"SHIM_MODULE": str(module), "SHIM_CONF": str(hsm.conf)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        yield Shim(path, hsm, env)


@pytest.fixture
def shim(loaded_shim: Shim) -> Iterator[Shim]:
    """The module in its initial state, with no calls counted."""
    loaded_shim.reset()
    yield loaded_shim
    loaded_shim.reset()


class Person:
    """A user who answers questions for a PIN, and records them."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[PinRequest] = []

    def __call__(self, request: PinRequest) -> str:
        self.asked.append(request)
        return self.answers.pop(0)


def run_alone(code: str, module: str | Path, env: dict[str, str], token: str, **more: str) -> str:
    """Run Python code in a separate process, in which only the backend initialises the module."""
    environment = {
        **ENVIRONMENT,
        **env,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "URI": f"pkcs11:token={token}",
        **more,
    }
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(module)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert not done.stderr, done.stderr
    assert done.returncode == 0
    return done.stdout
