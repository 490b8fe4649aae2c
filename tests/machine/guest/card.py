"""An emulated YubiKey in the reader of the machine's own pcscd, for as long as this runs: `card.py FOLDER`.

It writes FOLDER/public.der, the public key of slot 9e, which needs no PIN.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from softhsm.yubikey import YKCS11, YubiKey

_VPCD = ("127.0.0.1", 35963)
_READY_SECONDS = 3.0


class SystemPcsc:
    """The pcscd that the system runs, with vsmartcard's virtual reader."""

    def __init__(self) -> None:
        self.ejections: dict[int, Callable[[], None]] = {}

    def insert(self, reader: int) -> socket.socket:
        return socket.create_connection((_VPCD[0], _VPCD[1] + reader))

    def insertions(self) -> int:
        return 0

    def removals(self, reader: int) -> int:
        return 0

    def wait(self, count: Callable[[], int], least: int) -> None:
        time.sleep(_READY_SECONDS)


folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
card = YubiKey(folder / "card.json")
card.write_chuid()
card.generate(0x9E, "EC:P-256")
card.self_sign(0x9E, "slot 9e")
card.insert(SystemPcsc())  # type: ignore[arg-type]
(folder / "uri").write_text(card.uri(0x9E, YKCS11))
(folder / "public.der").write_bytes(card.public_key(0x9E))
signal.pause()
