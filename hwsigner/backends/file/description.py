"""What is known of a key that the process inherited. It can't make or delete such keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.file import open_key, private_key_block
from hwsigner.backends.file.inherited import read_inherited
from hwsigner.backends.pem import PKCS12
from hwsigner.errors import KeyNotFoundError
from hwsigner.key.management import KeyDescription

_CAN_BE_COPIED = "A program that can read the variable or open file can copy the key"


def describe_key(uri: KeyURI, pins: PinSource) -> KeyDescription:
    """Return what is known of the key in a variable or open file. An encrypted one is decrypted for its public key."""
    block = private_key_block(uri.name, read_inherited(uri, KeyNotFoundError))
    with open_key(uri, pins) as key:
        public_key = key.public_key()
    encrypted = None if block.label == PKCS12 else block.encrypted  # PKCS #12 does not say.
    guard = "It is encrypted with a passphrase" if encrypted else "It is not encrypted"
    return KeyDescription(
        str(uri.changed(query={})),
        uri.name,
        public_key,
        () if encrypted is None else (guard,),
        {"extractable": True, "encrypted": encrypted},
        (_CAN_BE_COPIED,),
    )


if TYPE_CHECKING:
    from hwsigner.backends.file import description
    from hwsigner.key.management import DescribesKeys

    _: DescribesKeys = description
