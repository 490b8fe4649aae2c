"""`python -m softhsm.yubikey_shell DIR`: an emulated YubiKey to control by hand while this runs."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from softhsm.command import ToolError
from softhsm.pcsc import SoftPcsc
from softhsm.yubikey import FIRMWARE_5_4, FIRMWARE_5_7, OPENSC, YKCS11, YubiKey

_FIRMWARES = {"5.4": FIRMWARE_5_4, "5.7": FIRMWARE_5_7}
_SLOTS = {0x9A: "EC:P-256", 0x9C: "EC:P-256", 0x9E: "RSA:2048"}


def _open_card(path: Path, firmware: str, *, empty: bool) -> YubiKey:
    """Return the card in a folder. A new card gets this firmware and, unless `empty`, keys and certificates."""
    is_new = not path.exists()
    card = YubiKey(path, firmware=_FIRMWARES[firmware])
    if is_new and not empty:
        card.write_chuid()
        for slot, kind in _SLOTS.items():
            card.generate(slot, kind)
            card.self_sign(slot, f"slot {slot:02x}")
    return card


def _describe(card: YubiKey, pcsc: SoftPcsc) -> None:
    print(f"# PIN {card.pin}, PUK {card.puk}, unless changed. Key URIs")
    for module in (YKCS11, OPENSC):
        for slot in _SLOTS:
            print(card.uri(slot, module))
    print("# Environment for programs that use the card")
    for name, value in pcsc.env.items():
        print(f"export {name}={shlex.quote(value)}")
    print("# Commands: touch, remove, insert, log, quit", flush=True)


def _run_commands(card: YubiKey, pcsc: SoftPcsc) -> None:
    """Run commands from stdin, one per line, and say when each is done."""
    actions: dict[str, Callable[[], object]] = {
        "touch": card.touch,
        "remove": card.remove,
        "insert": lambda: card.insert(pcsc),
        "log": lambda: print("\n".join(card.log)),
        "quit": lambda: None,
    }
    for line in sys.stdin:
        word = line.strip()
        if word not in actions:
            print(f"one of: {', '.join(actions)}", file=sys.stderr)
            continue
        actions[word]()
        print(f"{word}: done", flush=True)
        if word == "quit":
            return


def main() -> int:
    """Insert the card in a folder and run commands until the input ends."""
    parser = argparse.ArgumentParser(prog="python -m softhsm.yubikey_shell", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder for the card's state and pcscd's socket")
    parser.add_argument("--firmware", choices=list(_FIRMWARES), default="5.4", help="of a new card (default: 5.4)")
    parser.add_argument("--empty", action="store_true", help="make a new card without keys")
    parser.add_argument("--touch-after", type=float, metavar="SECONDS", help="touch the card by itself when it waits")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    pcsc = SoftPcsc(folder)
    try:
        pcsc.start()
        card = _open_card(folder / "card.json", arguments.firmware, empty=arguments.empty)
        card.sensor.delay = arguments.touch_after
        card.insert(pcsc)
        _describe(card, pcsc)
        _run_commands(card, pcsc)
    except KeyboardInterrupt:
        pass
    except ToolError as error:
        print(f"softhsm: {error}", file=sys.stderr)
        return 1
    finally:
        pcsc.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
