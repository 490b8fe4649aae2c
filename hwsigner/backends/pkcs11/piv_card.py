"""A session that can change a PIV card. To libykcs11, the card's management key is the security officer's PIN."""

from __future__ import annotations

import string
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hwsigner._pins import PinRequest, PinSource
from hwsigner._system.notices import quiet, waiting
from hwsigner._uri import KeyURI
from hwsigner.backends.pkcs11.errors import PIN_INCORRECT, PKCS11Error
from hwsigner.backends.pkcs11.functions import Attribute, ObjectClass, TokenInfo, check
from hwsigner.backends.pkcs11.pins import token_name
from hwsigner.backends.pkcs11.search import FoundToken
from hwsigner.backends.pkcs11.token import OpenToken
from hwsigner.backends.pkcs11.writing import TRUE, WritingSession, changing
from hwsigner.errors import PinError, SigningKeyError, WrongPinError

# What every card has until its owner changes it.
DEFAULT_MANAGEMENT_KEY = "0102030405060708" * 3
# The bytes of the keys of AES-128, of Triple DES and AES-192, and of AES-256.
_MANAGEMENT_KEY_BYTES = (16, 24, 32)
_SECURITY_OFFICER = 0


class ManagedCard:
    """A card that is being changed, in a session without a user's login. Not to be used by two threads at once."""

    def __init__(self, token: OpenToken) -> None:
        self.token = token
        self.session = self._open()
        self._asked = ""

    def reopen(self) -> None:
        """End the session and the login, so that libykcs11 reads the card again."""
        self.close()
        self.session = self._open()

    def close(self) -> None:
        """End the session and the login."""
        with suppress(PKCS11Error):  # The card may be gone, and the session with it.
            self.session.close()

    def ask(self, uri: KeyURI, pins: PinSource) -> None:
        """Get the management key without sending it. The card is read again: it may have changed meanwhile."""
        if not self._asked:
            self._asked = _checked(self.token.name, pins.get(uri, _request(self.token.info)).strip())
            self.reopen()

    def log_in(self, uri: KeyURI, pins: PinSource) -> tuple[str, ...]:
        """Prove the management key. It is asked for once, and sent again only after it was right.

        Returns what the card's owner should know: whether it is the default, which is public.
        """
        self.ask(uri, pins)
        key = self._asked
        try:
            with waiting(f"touch {self.token.name} if it blinks"), quiet():
                self.session.log_in_as_officer(key)
        except PKCS11Error as error:
            self._asked = ""
            if error.code == PIN_INCORRECT:
                hint = "Check the key, then retry: a card does not lock after wrong management keys"
                raise WrongPinError(f"wrong management key for {self.token.name}", hint) from error
            raise
        if key.lower() != DEFAULT_MANAGEMENT_KEY:
            return ()
        return (
            "The card has the default management key, which is public: any user of the card can replace its keys. "
            "Change it with yubico-piv-tool -a set-mgm-key",
        )

    def _open(self) -> _OfficerSession:
        self.token.refresh()  # Another card may be in the reader.
        return _OfficerSession(self.token.module.functions, self.token.info.slot)


class _OfficerSession(WritingSession):
    """A session for the security officer. While a session is open that can only read, libykcs11 refuses this login."""

    def log_in_as_officer(self, key: str) -> None:
        check(self._functions.login(self._handle, _SECURITY_OFFICER, key.encode(), len(key)))


@contextmanager
def managing(found: FoundToken) -> Iterator[ManagedCard]:
    """Lock a card and open a session that can change it, unless one of its keys is open. No management key is sent."""
    with changing(found, "can't be changed") as token:
        if token.users > 1:
            problem = f"{token.name} can't be changed while one of its keys is open in this process"
            raise SigningKeyError(problem, "Close the key first")
        card = ManagedCard(token)
        try:
            yield card
        finally:
            card.close()


def delete_certificate(card: ManagedCard, key_id: bytes) -> None:
    """Delete the certificate in the slot with this CKA_ID, if there is one, after a login. The key stays."""
    for handle in card.session.find(ObjectClass.CERTIFICATE, {Attribute.ID: key_id, Attribute.TOKEN: TRUE}):
        card.session.destroy(handle)


def _request(info: TokenInfo) -> PinRequest:
    # Without the serial number: the systemd credential with that is the card's PIN.
    return PinRequest("management key", token_name(info), "in hexadecimal, or empty for the default")


def _checked(name: str, key: str) -> str:
    """Return a management key that can be sent. libykcs11 would send one of eight digits as the card's PIN."""
    key = key or DEFAULT_MANAGEMENT_KEY
    if len(key) not in [2 * size for size in _MANAGEMENT_KEY_BYTES] or not set(key) <= set(string.hexdigits):
        raise PinError(
            f"what was given as the management key of {name} is not one, so it was not sent",
            "Give 32, 48 or 64 hexadecimal digits. The PIN is another secret",
        )
    return key
