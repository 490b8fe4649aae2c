"""`hwsigner list`: the tokens, and the keys and certificates on them, with the URIs that name them."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import report
from hwsigner._config import settings
from hwsigner._config.flags import IDENTITY, OUTPUT, switch
from hwsigner._identity.certificate import Certificate, load
from hwsigner._system import pcsc
from hwsigner._uri import KeyURI
from hwsigner.errors import (
    BackendUnavailableError,
    CertificateError,
    HwsignerWarning,
    SigningKeyError,
    UsageError,
    printable,
)
from hwsigner.key import FoundCertificate
from hwsigner.key.listing import ListedObject, ListedToken, list_tokens
from hwsigner.key.public_key import kind_of

HELP = "list tokens, keys and certificates, with their URIs"

_SHARED_FLAGS = ("pkcs11-lib", "tcti", "pinentry", "reuse-pin", "allow-final-pin-try", "strict", "debug")
_COLUMNS = ("KIND", "LABEL", "ALGORITHM", "ID", "EXPIRES", "LOGIN", "PIN", "URI")
# The slots of a PIV card (NIST SP 800-73-4, part 1, 5.1) by CKA_ID, in OpenSC's module and in Yubico's.
_PIV_SLOTS = {bytes([1 + n]): f"{slot:02x}" for n, slot in enumerate((0x9A, 0x9C, 0x9D, 0x9E, *range(0x82, 0x96)))}


def add_arguments(parser: Parser) -> None:
    """Add the URI that narrows the list, and the flags."""
    parser.add_argument(
        "uri",
        nargs="?",
        metavar="KEY-URI",
        help="pkcs11: or tpm2: URI of what to list (default: all tokens, and the TPM)",
    )
    parser.add_flags(
        [switch("login", "log in to the token, to list hidden keys too; the URI must name one token")],
        [flag for flag in IDENTITY if flag.name in _SHARED_FLAGS],
        OUTPUT,
    )


def run(arguments: Arguments) -> int:
    """Print JSON, a table on a terminal, or otherwise lines of fields separated by tabs."""
    uri = settings.key_uri(arguments.settings, arguments.uri or "pkcs11:")
    if uri.scheme in ("file", "env", "fd"):
        hint = "Write tpm2: for the TPM, pkcs11:token=NAME for a token, or use hwsigner show for a key file"
        raise UsageError(f"{uri.name} is neither a pkcs11: nor a tpm2: URI", hint)
    listed = list_tokens(uri, settings.pin_source(arguments.settings, uri), log_in=arguments.login, allow_modules=True)
    if arguments.uri or arguments.settings.pkcs11_lib or arguments.login:
        tokens = _each_once(listed)
    else:
        tokens = _all(listed, list_tokens(settings.key_uri(arguments.settings, "tpm2:"), allow_modules=True))
    _print(arguments, uri, tokens)
    return 0


def _all(tokens: Iterable[ListedToken], tpms: Iterable[ListedToken]) -> list[ListedToken]:
    """Return the tokens, and the TPM if there is one."""
    try:
        found = list(tpms)
    except SigningKeyError as error:
        if os.path.exists("/dev/tpmrm0"):
            warnings.warn(HwsignerWarning(error.message, error.hint), stacklevel=2)
        return _each_once(tokens)
    try:
        return _each_once([*tokens, *found])
    except BackendUnavailableError as error:  # There is no module, or the only one can't be used.
        warnings.warn(HwsignerWarning(error.message, error.hint), stacklevel=2)
        return found


def _each_once(tokens: Iterable[ListedToken]) -> list[ListedToken]:
    """Return the tokens without what an earlier module has shown: several may see one card."""
    modules: dict[object, str] = {}
    found = []
    for token in tokens:
        objects = []
        for one in token.objects:
            shown = one.certificate or one.public_key
            if shown is None or modules.setdefault((one.kind, shown), token.module) == token.module:
                objects.append(one)
        if objects or token.other_keys or not token.objects:
            found.append(token._replace(objects=tuple(objects)))
    return found


def _print(arguments: Arguments, uri: KeyURI, tokens: Sequence[ListedToken]) -> None:
    if arguments.json:
        print(json.dumps({"tokens": [_data(token) for token in tokens]}, indent=2))
    elif not tokens:
        absent = f"no token is present. {pcsc.hint('Insert one; for SoftHSM, check SOFTHSM2_CONF')}"
        report(f"no token matches {uri.name}. Without a URI, list shows all" if uri.path else absent)
    elif sys.stdout.isatty():
        _print_tables(tokens)
    else:
        for row in (_COLUMNS, *(row for token in tokens for row in _rows(token))):
            print("\t".join(map(printable, row)))


def _data(token: ListedToken) -> dict[str, Any]:
    return {
        "label": token.label,
        "manufacturer": token.manufacturer,
        "model": token.model,
        "serial": token.serial,
        "slotId": token.slot_id,
        "module": token.module,
        "uri": token.uri,
        "wantsLogin": token.wants_login,
        "pinPad": token.has_keypad,
        "pinState": token.pin_state,
        "keys": [_key_data(token, one) for one in token.objects if one.kind == "key"],
        "otherKeys": [_key_data(token, one) for one in token.other_keys],
        "certificates": [_certificate_data(token, one) for one in token.objects if one.kind == "certificate"],
    }


def _key_data(token: ListedToken, key: ListedObject) -> dict[str, Any]:
    return {
        "label": key.label,
        "id": key.id.hex(),
        "pivSlot": _piv_slot(token, key),
        "algorithm": _algorithm(key),
        "uri": key.uri,
        "hiddenUntilLogin": key.is_hidden,
        "pinForEachSignature": key.pin_for_each_signature,
        "notes": list(key.notes),
    }


def _certificate_data(token: ListedToken, found: ListedObject) -> dict[str, Any]:
    parsed = _parsed(found)
    return {
        "label": found.label,
        "id": found.id.hex(),
        "pivSlot": _piv_slot(token, found),
        "algorithm": _algorithm(found),
        "uri": found.uri,
        "subject": parsed and parsed.subject,
        "serialNumber": parsed and str(parsed.x509.serial_number),
        "notAfter": parsed and f"{parsed.x509.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
    }


def _rows(token: ListedToken) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a token, which is the first, in the order of the columns."""
    login = ("needed" if token.wants_login else "not needed") + (", PIN pad" if token.has_keypad else "")
    yield "token", token.label, "", "", "", login, token.pin_state, token.uri
    rows = [(one.kind, one) for one in token.objects] + [("other key", one) for one in token.other_keys]
    for kind, one in rows:
        parsed = _parsed(one)
        expires = f"{parsed.x509.not_valid_after_utc:%Y-%m-%d}" if parsed else ""
        slot = _piv_slot(token, one)
        label = one.label or (parsed.subject if parsed else "")
        label = f"{label} (slot {slot})" if slot else label
        yield kind, label, _algorithm(one), one.id.hex(), expires, _login(one), "", one.uri


def _piv_slot(token: ListedToken, found: ListedObject) -> str | None:
    """Return the slot of a PIV card that an object is in, such as `9a`; None on other tokens."""
    is_piv = "piv" in f"{token.label} {token.manufacturer}".lower()
    return _PIV_SLOTS.get(found.id) if is_piv else None


def _login(found: ListedObject) -> str:
    hidden = "needed" if found.is_hidden else ""
    always = "PIN for each signature" if found.pin_for_each_signature else ""
    return ", ".join(filter(None, (hidden, always, *found.notes)))


def _algorithm(found: ListedObject) -> str:
    parsed = None if found.public_key else _parsed(found)
    if parsed:
        return kind_of(parsed.public_key()) or "unknown"
    return (kind_of(found.public_key) if found.public_key else None) or found.algorithm or "unknown"


def _parsed(found: ListedObject) -> Certificate | None:
    if found.certificate is None:
        return None
    try:
        return load([FoundCertificate(found.certificate, found.uri)])[0]
    except CertificateError:
        return None


def _print_tables(tokens: Sequence[ListedToken]) -> None:
    """Print a table for each token, and below it each URI on a line of its own, to be copied."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for token in tokens:
        (_, label, *_, login, state, uri), *rows = _rows(token)
        notes = (token.model, token.serial and f"serial {token.serial}", f"login {login}", state and f"PIN {state}")
        title = " · ".join(filter(None, (label or "(no label)", *notes)))
        console.print(Text(printable(title), style="bold"), soft_wrap=True)
        used = [column for column in range(6) if any(row[column] for row in rows)]
        table = Table("", *(_COLUMNS[column].capitalize() for column in used))
        for number, row in enumerate(rows, 1):
            # Text and not str: square brackets in a label are not markup.
            table.add_row(str(number), *(Text(printable(row[column]), overflow="fold") for column in used))
        if rows:
            console.print(table)
        for name, one in (("token", uri), *((str(number), row[-1]) for number, row in enumerate(rows, 1))):
            console.print(Text(printable(f"{name:>5}  {one}")), soft_wrap=True)
        console.print()
