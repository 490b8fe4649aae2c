"""10,000 signatures of a TPM while its commands fail: `python tests/bench/tpm2_faults.py [COUNT]`.

A proxy in front of swtpm answers with an error, cuts the connection, or drops or halves the answer, at any of the
commands. Only the answers that tell the handle of a loaded object are not lost: nobody could flush that. Prints the
results, and exits with 1 if anything is left in the TPM.
"""

from __future__ import annotations

import collections
import os
import random
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from backends.tpm2.tpms import NODA, PASSWORD, SIGNING, Tools, handles_in  # noqa: E402
from hwsigner.errors import HwsignerError  # noqa: E402
from hwsigner.key import open_key  # noqa: E402
from softhsm.tpm import SoftTPM  # noqa: E402
from tpm_proxy import FAULTS, TPMProxy  # noqa: E402

COMMANDS = 12  # A signature with a session takes that many.


def main(count: int) -> int:
    """Sign, print the results, and return the exit status."""
    with tempfile.TemporaryDirectory(prefix="hwsigner-faults-") as name:
        folder = Path(name)
        for variable in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
            os.environ[variable] = str(folder / variable)
            os.mkdir(folder / variable, 0o700)
        tpm = SoftTPM(folder)
        tpm.start()
        try:
            return _sign(tpm, count)
        finally:
            tpm.stop()


def _sign(tpm: SoftTPM, count: int) -> int:
    tools = Tools(tpm, tpm.folder)
    paths = {}
    for auth in ("", PASSWORD):
        made = tools.key_file(attributes=f"{SIGNING}|noda", primary=("-G", "ecc", *NODA), auth=auth)
        paths[auth] = made.rename(tpm.folder / f"{auth or 'free'}.pem")
    came_to: collections.Counter[str] = collections.Counter()
    began = time.monotonic()
    with TPMProxy(tpm, tpm.folder) as proxy:
        proxy.loses_handles = False
        keys = [open_key(f"tpm2:path={path}?tcti={proxy.tcti}", auth) for auth, path in paths.items()]
        # Random, but the same in each run: a fault decides which commands the next signature takes.
        chance = random.Random(count)
        for _ in range(count):
            key = chance.choice(keys)
            proxy.exchanges.clear()
            proxy.at(chance.randrange(COMMANDS), chance.choice(FAULTS))
            try:
                key.sign(b"message")
                came_to["a signature"] += 1
            except HwsignerError as error:
                came_to[type(error).__name__] += 1
        for key in keys:
            key.close()
    left = handles_in(tpm)
    print(f"{count} in {time.monotonic() - began:.1f} s: {dict(came_to)}; left in the TPM: {left or 'nothing'}")
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
