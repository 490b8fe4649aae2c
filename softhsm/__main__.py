"""`python -m softhsm make DIR` makes a token and a TPM with keys, `tpm DIR` an empty TPM. `stop DIR` stops the TPM."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from softhsm.command import ToolError, run
from softhsm.token import PIN, SoftHSM
from softhsm.tpm import SoftTPM

HWSIGNER = str(Path(sys.executable).with_name("hwsigner"))
TOKEN_LABEL = "hwsigner"
HANDLE = 0x81000100


def make(folder: Path) -> None:
    """Make a token and a TPM in a new or empty folder and print the URIs of their keys."""
    _make_folder(folder)
    pin_file = folder / "pin"
    pin_file.touch(mode=0o600)
    pin_file.write_text(f"{PIN}\n")
    tpm = SoftTPM(folder / "tpm")
    try:
        tpm.start(detached=True)
        token = SoftHSM(folder / "token")
        token.make()
        token.add_token(TOKEN_LABEL)
        uris = {
            token.uri("ec", pin_file): "p256",
            token.uri("rsa", pin_file): "rsa2048",
            tpm.uri(folder / "tpm-ec.pem"): "p256",
            tpm.uri(folder / "tpm-rsa.pem"): "rsa2048",
            tpm.uri(HANDLE): "p256",
        }
        for uri, algorithm in uris.items():
            run([HWSIGNER, "keygen", uri, "--algorithm", algorithm], token.env | {"XDG_STATE_HOME": str(folder)})
    except BaseException:
        tpm.stop()
        raise
    print("# Key URIs")
    for uri in uris:
        print(uri)
    print("# Environment")
    for name, value in (token.env | tpm.env).items():
        print(f"export {name}={shlex.quote(value)}")


def make_tpm(folder: Path) -> None:
    """Make a TPM without keys in a new or empty folder and print the variable that names it."""
    _make_folder(folder)
    tpm = SoftTPM(folder / "tpm")
    tpm.start(detached=True)
    print(f"export TPM2_TCTI={shlex.quote(tpm.tcti)}")


def _make_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(folder.iterdir()):
        raise ToolError(f"{folder} is not empty; run `python -m softhsm stop {folder}`, then remove it")


def stop(folder: Path) -> None:
    """Stop the TPM in a folder. The files stay."""
    if not (folder / "tpm" / "swtpm.pid").exists():
        raise ToolError(f"no emulated TPM runs in {folder}")
    SoftTPM(folder / "tpm").stop()


def main() -> int:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(prog="python -m softhsm", description=__doc__)
    parser.add_argument("command", choices=("make", "tpm", "stop"))
    parser.add_argument("folder", type=Path, help="the folder for the token and the TPM")
    arguments = parser.parse_args()
    try:
        {"make": make, "tpm": make_tpm, "stop": stop}[arguments.command](arguments.folder.absolute())
    except ToolError as error:
        print(f"softhsm: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
