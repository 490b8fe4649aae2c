"""Which modules a cold `credential-process` loads: each costs time with every AWS command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from emulators import InProcessSoftHSM
from scene import Scene
from softhsm.tpm import SoftTPM

# Its last line on stderr has the modules.
CODE = """
import sys
from hwsigner._cli import main
status = main()
of_dataclasses = [name for name, module in sys.modules.items() if hasattr(module, "dataclass")]
print(*sys.modules, *(f"dataclass:{name}" for name in of_dataclasses), file=sys.stderr)
sys.exit(status)
"""
NEEDED = {"hwsigner._aws.create_session", "http.client", "cryptography.x509"}
NEVER = {
    "argparse",
    "asyncio",
    "getpass",
    "gettext",
    "hwsigner.emulator",
    "hwsigner._identity.selector",
    "hwsigner._pins.terminal",
    "importlib.metadata",
    "pathlib",
    "pkcs11",
    "requests",
    "subprocess",
    "tomllib",
    "urllib.request",
}
OF_TOKENS = {"ctypes", "hwsigner.backends.pkcs11"}
OF_TPMS = {"asn1crypto", "hwsigner.backends.tpm2", "logging", "shutil", "tempfile", "tpm2_pytss"}


def loaded(scene: Scene, environ: Mapping[str, str], **instead: str | Path) -> set[str]:
    """Return the modules that a run in a process of its own loads; `dataclass:NAME` for one that uses `dataclass`."""
    return loaded_with(scene.flags(**instead), environ)


def loaded_with(flags: list[str], environ: Mapping[str, str]) -> set[str]:
    command = [sys.executable, "-c", CODE, "credential-process", *flags]
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = set(done.stderr.splitlines()[-1].split())
    assert found >= NEEDED
    return found


def ours_with_dataclasses(found: set[str]) -> list[str]:
    return [name for name in found if name.startswith("dataclass:hwsigner")]


def test_run_with_a_key_file_loads_only_what_it_uses(scene: Scene) -> None:
    found = loaded(scene, {})
    assert found & (NEVER | OF_TOKENS | OF_TPMS | {"hwsigner._system.users"}) == set()
    assert ours_with_dataclasses(found) == []


def test_run_with_a_profile_also_loads_what_reads_it_and_asks_an_agent(scene: Scene) -> None:
    lines = [flag.removeprefix("--").replace("=", ' = "', 1) + '"' for flag in scene.flags()]
    (scene.folder / "hwsigner").mkdir(mode=0o700)
    scene.write("hwsigner/config.toml", "\n".join(["[profile.web]", *lines]).encode()).chmod(0o600)
    found = loaded_with(["--profile=web"], {"XDG_CONFIG_HOME": str(scene.folder), "HWSIGNER_AGENT": ""})
    assert found & (NEVER | OF_TOKENS | OF_TPMS) == {"tomllib"}
    assert ours_with_dataclasses(found) == []


def test_run_with_a_token_loads_only_what_it_uses(scene: Scene, softhsm: InProcessSoftHSM) -> None:
    softhsm.generate("cold", b"\x01", "EC:prime256v1")
    leaf = scene.issue(softhsm.public_key(b"\x01"))
    pin = scene.write("pin", softhsm.pin.encode())
    found = loaded(scene, softhsm.env, certificate=leaf, private_key=f"{softhsm.uri('cold')}&pin-source=file:{pin}")
    assert found & (NEVER | OF_TPMS) == set()
    assert ours_with_dataclasses(found) == []


def test_run_with_a_tpm_loads_only_what_it_uses(scene: Scene, swtpm: SoftTPM) -> None:
    path = scene.folder / "key.tss2"
    swtpm.create_key_file(path, "EC:P-256")
    leaf = scene.issue(swtpm.public_key(path))
    found = loaded(scene, {"TPM2_TCTI": swtpm.tcti}, certificate=leaf, private_key=path)
    assert found & (NEVER | OF_TOKENS | {"hwsigner.backends.tpm2.key_policy"}) == set()
    assert ours_with_dataclasses(found) == []
