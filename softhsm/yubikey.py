"""An emulated YubiKey in a virtual card reader. It can be inserted, touched and removed."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import socket
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from softhsm import piv_keys, tlv
from softhsm.apdu import Exchange
from softhsm.command import ToolError
from softhsm.pcsc import SoftPcsc
from softhsm.piv import PivApplet
from softhsm.piv_attestation import attest, provision, wrap_certificate
from softhsm.piv_state import PIN, PUK, PrivateKey, State, algorithm_of
from softhsm.touch import TouchSensor

YKCS11 = "libykcs11.so"
OPENSC = "opensc-pkcs11.so"

# The ATR of a YubiKey 5: T=1, historical bytes with "YubiKey".
ATR = bytes.fromhex("3BFD1300008131FE158073C021C057597562694B657940")
_OFF, _ON, _RESET, _ATR = 0, 1, 2, 4
_JOIN_SECONDS = 5.0
_CHUID = 0x5FC102
# For issuers outside the federal government: agency 9999 and no person's number, as Yubico's tools write it.
_FASC_N = bytes.fromhex("d4e739da739ced39ce739d836858210842108421c84210c3eb")
# Data objects of the certificates (SP 800-73-4, part 1, table 3).
_CERTIFICATES = {0x9A: 0x5FC105, 0x9C: 0x5FC10A, 0x9D: 0x5FC10B, 0x9E: 0x5FC101} | {
    0x82 + number: 0x5FC10D + number for number in range(20)
}
# The CKA_ID in either module.
_IDS = {0x9A: 1, 0x9C: 2, 0x9D: 3, 0x9E: 4} | {0x82 + number: 5 + number for number in range(20)}
# Before 5.7, a YubiKey can't move or delete keys, and has no RSA keys over 2048 bits.
FIRMWARE_5_4, FIRMWARE_5_7 = (5, 4, 3), (5, 7, 4)
KINDS = {"EC:P-256": 0x11, "EC:P-384": 0x14, "RSA:1024": 0x06, "RSA:2048": 0x07, "RSA:3072": 0x05, "RSA:4096": 0x16}


def find_module(name: str) -> str:
    """Return the path of a PKCS #11 module, `YKCS11` or `OPENSC`.

    Raises:
        ToolError: it is not installed.
    """
    paths = glob.glob(f"/usr/lib/*/{name}") + glob.glob(f"/usr/lib*/{name}")
    if not paths:
        raise ToolError(f"{name} is not installed; `make setup` installs what is needed")
    return paths[0]


class YubiKey:
    """A YubiKey 5 that stores its state in a file.

    To prepare tests, `generate`, `import_key` and the like work directly on the card, without PIN, management key or
    counters.

    Attributes:
        serial: the serial number.
        sensor: the touch sensor.
        pin, puk: the factory values.
    """

    pin = PIN
    puk = PUK

    def __init__(self, path: Path, serial: int = 10000001, firmware: tuple[int, int, int] = FIRMWARE_5_4) -> None:
        """Open the card in a file, or create a new one there with this serial number and firmware version."""
        if path.exists():
            self.state = State.load(path)
        else:
            self.state = State(path, serial, firmware)
            provision(self.state)
            self.state.save()
        self.serial = self.state.serial
        self.sensor = TouchSensor()
        self._applet = PivApplet(self.state, self.sensor)
        self._exchange = Exchange(self._applet.process)
        self._lock = threading.Lock()
        self._reader: tuple[SoftPcsc, int] | None = None
        self._connection: socket.socket | None = None
        self._thread: threading.Thread | None = None

    @property
    def pin_tries(self) -> list[int]:
        """The status word of each PIN received, in order: 9000 right, 63Cx wrong with x tries left, 6983 blocked."""
        return self._applet.pins.tries

    @property
    def reader(self) -> int | None:
        """The number of the card's reader, or None."""
        return None if self._reader is None else self._reader[1]

    @property
    def log(self) -> list[str]:
        """Each command received, with its status word but without PINs and keys."""
        return self._exchange.log

    @property
    def attestation_root(self) -> str:
        """The PEM root certificate of the card's attestation certificates, made for this card."""
        return self.state.attestation_root

    def insert(self, pcsc: SoftPcsc, reader: int = 0) -> None:
        """Insert the card, unless it is in a reader already, and wait until pcscd sees it. It replaces another card."""
        if self._reader is not None:
            return
        if reader in pcsc.ejections:
            pcsc.ejections[reader]()
        count = pcsc.insertions()
        self._connection = pcsc.insert(reader)
        self.sensor.set_power(on=True)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = pcsc, reader
        pcsc.ejections[reader] = self.remove
        self._thread = threading.Thread(target=self._serve, args=(self._connection,), name="yubikey", daemon=True)
        self._thread.start()
        pcsc.wait(pcsc.insertions, count + 1)

    def remove(self) -> None:
        """Remove the card, even in the middle of a command, and wait until pcscd sees it."""
        if self._reader is None or self._connection is None or self._thread is None:
            return
        pcsc, reader = self._reader
        pcsc.ejections.pop(reader, None)
        removals = partial(pcsc.removals, reader)
        count = removals()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self.sensor.set_power(on=False)
        self._thread.join(_JOIN_SECONDS)
        self._connection.close()
        self._reader = self._connection = self._thread = None
        pcsc.wait(removals, count + 1)

    def factory_reset(self) -> None:
        """Restore the state of a new card and clear the logs."""
        with self._lock:
            self._applet.reset()
            self.state.reset()
            self.state.save()
            self.sensor.reset()
            self.log.clear()
            self.pin_tries.clear()

    def touch(self) -> None:
        """Touch the card. This has no effect unless the card is waiting."""
        self.sensor.touch()

    def generate(self, slot: int, kind: str = "EC:P-256", *, pin_policy: int = 0, touch_policy: int = 0) -> bytes:
        """Generate a key in a slot and return its public key as a DER SubjectPublicKeyInfo (RFC 5280, 4.1).

        Args:
            slot: such as 0x9A.
            kind: one of `KINDS`.
            pin_policy: 1 never, 2 once, 3 always, or 0 for the slot's default.
            touch_policy: 1 never, 2 always, 3 cached for 15 seconds, or 0 for never.
        """
        key = piv_keys.generate(KINDS[kind])
        with self._lock:
            self._applet.slots.store(slot, key, (pin_policy, touch_policy), generated=True)
        return self.public_key(slot)

    def import_key(self, slot: int, key: PrivateKey, *, pin_policy: int = 0, touch_policy: int = 0) -> None:
        """Store a key in a slot. It can't be attested."""
        algorithm_of(key)
        with self._lock:
            self._applet.slots.store(slot, key, (pin_policy, touch_policy), generated=False)

    def public_key(self, slot: int) -> bytes:
        """Return the public key in a slot as a DER SubjectPublicKeyInfo."""
        public_key = self.state.keys[slot].private_key.public_key()
        return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def write_certificate(self, slot: int, der: bytes) -> None:
        """Write the certificate of a slot. An empty one removes it."""
        with self._lock:
            self._applet.write(_CERTIFICATES[slot], wrap_certificate(der) if der else b"")

    def write_object(self, tag: int, content: bytes) -> None:
        """Write a data object, such as 0x5FC102, the CHUID."""
        with self._lock:
            self._applet.write(tag, content)

    def write_chuid(self) -> None:
        """Write a card holder unique identifier with the card's own GUID, as Yubico's tools do for a new card.

        OpenSC shows the second half of the GUID as the serial number, or 00000000 if there is none.
        """
        guid, expiry = hashlib.sha256(self.serial.to_bytes(4)).digest()[:16], b"20991231"
        values = {0x30: _FASC_N, 0x34: guid, 0x35: expiry, 0x3E: b"", 0xFE: b""}
        self.write_object(_CHUID, b"".join(tlv.encode(tag, value) for tag, value in values.items()))

    def self_sign(self, slot: int, name: str) -> bytes:
        """Write a self-signed certificate of the slot's key, without PIN or touch, and return its DER."""
        key = self.state.keys[slot].private_key
        common_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder(common_name, common_name, key.public_key(), x509.random_serial_number())
        now = datetime.now(UTC)
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=365))
        der = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
        self.write_certificate(slot, der)
        return der

    def attest(self, slot: int) -> bytes:
        """Return the DER attestation certificate of a generated key."""
        return attest(self.state, slot)

    def uri(self, slot: int, module: str, token: str = "") -> str:
        """Return the key URI (RFC 7512) of a slot's key with a module, `YKCS11` or `OPENSC`.

        Args:
            slot: such as 0x9A.
            module: the module's file name.
            token: the token's label. Default: libykcs11's label. OpenSC's label is the subject of the certificate in
                9A; give it if several cards are inserted.
        """
        if not token and module == YKCS11:
            token = f"YubiKey PIV #{self.serial}"
        label = f"token={quote(token, safe='')};" if token else ""
        return f"pkcs11:{label}id=%{_IDS[slot]:02x};type=private?module-path={quote(find_module(module))}"

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while message := _receive(connection):
                response = self._respond(message)
                if response is not None:
                    connection.sendall(len(response).to_bytes(2) + response)
        with self._lock:
            self._lose_power()

    def _respond(self, message: bytes) -> bytes | None:
        """Return the response to a message from vpcd: a control byte, or an APDU."""
        if len(message) > 1:
            with self._lock:
                return self._exchange.respond(message)
        if message[0] == _ATR:
            return ATR
        if message[0] in (_OFF, _ON, _RESET):
            with self._lock:
                self._lose_power()
        return None

    def _lose_power(self) -> None:
        self._applet.reset()
        self._exchange.reset()


def _receive(connection: socket.socket) -> bytes:
    """Return the next message without its length, or no bytes at the end."""
    length = _receive_exactly(connection, 2)
    return _receive_exactly(connection, int.from_bytes(length)) if length else b""


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        # Set it each time, because Linux turns it off again. Without it, vpcd's next write waits 40 ms for an ACK.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        piece = connection.recv(size - len(data))
        if not piece:
            return b""
        data += piece
    return data
