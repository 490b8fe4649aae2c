"""`python -m softhsm make DIR` makes a token and a TPM with keys. `python -m softhsm stop DIR` stops the TPM."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from softhsm.command import ToolError
from softhsm.token import PIN, SoftHSM
from softhsm.tpm import SoftTPM

TOKEN_LABEL = "hwsigner"
HANDLE = 0x81000100


def make(folder: Path) -> None:
    """Make a token and a TPM in a new or empty folder and print the URIs of their keys."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(folder.iterdir()):
        raise ToolError(f"{folder} is not empty; run `python -m softhsm stop {folder}`, then remove it")
    pin_file = folder / "pin"
    pin_file.touch(mode=0o600)
    pin_file.write_text(f"{PIN}\n")
    token = SoftHSM(folder / "token")
    token.make()
    token.add_token(TOKEN_LABEL)
    token.generate("ec", b"\x01", "EC:prime256v1")
    token.generate("rsa", b"\x02", "rsa:2048")
    tpm = SoftTPM(folder / "tpm")
    files = {kind: folder / f"tpm-{kind.partition(':')[0].lower()}.pem" for kind in ("EC:P-256", "RSA:2048")}
    try:
        tpm.start(detached=True)
        for kind, path in files.items():
            tpm.create_key_file(path, kind)
        tpm.persist(HANDLE, "ecc256")
    except BaseException:
        tpm.stop()
        raise
    print("# Key URIs")
    for uri in (token.uri("ec", pin_file), token.uri("rsa", pin_file), *map(tpm.uri, files.values()), tpm.uri(HANDLE)):
        print(uri)
    print("# Environment")
    for name, value in (token.env | tpm.env).items():
        print(f"export {name}={shlex.quote(value)}")


def stop(folder: Path) -> None:
    """Stop the TPM in a folder. The files stay."""
    SoftTPM(folder / "tpm").stop()


def main() -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(prog="python -m softhsm", description=__doc__)
    parser.add_argument("command", choices=("make", "stop"))
    parser.add_argument("folder", type=Path, help="the folder for the token and the TPM")
    arguments = parser.parse_args()
    try:
        {"make": make, "stop": stop}[arguments.command](arguments.folder.absolute())
    except ToolError as error:
        print(f"softhsm: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
