"""`hwsigner keygen`: make a key where it will stay."""

from __future__ import annotations

import json
import shlex
from typing import get_args

from hwsigner._cli.parser import Arguments, Parser
from hwsigner._cli.process import print_outcome, print_rows
from hwsigner._cli.show import key_data, key_rows
from hwsigner._config import settings
from hwsigner._config.flags import KEY, OUTPUT, Flag, boolean, one_of, switch
from hwsigner._uri import KeyURI
from hwsigner.key.management import KeyAlgorithm, KeyRequest, generate_key

HELP = "make a key in a token, a TPM or a file"

NEW_KEY = (
    Flag(
        "algorithm",
        "p256, p384, p521, rsa2048, rsa3072, rsa4096, mldsa44, mldsa65 or mldsa87",
        "NAME",
        one_of(*get_args(KeyAlgorithm)),
        "p256",
    ),
    switch("always-authenticate", "PKCS #11: require the PIN for each signature"),
    switch("accept-unproven", "PKCS #11: keep the key though the token denies having made it (CKA_LOCAL), as NSS does"),
    Flag(
        "pin-policy", "PIV: when to require the PIN: never, once or always", "WHEN", one_of("never", "once", "always")
    ),
    Flag(
        "touch-policy",
        "PIV: when to require a touch: never, always or cached (for 15 s)",
        "WHEN",
        one_of("never", "always", "cached"),
    ),
    Flag(
        "noda",
        "TPM: do not count wrong auth values of this key (default: true if it has no auth value)",
        convert=boolean,
    ),
    Flag("pcrs", "TPM: refuse to sign once these PCRs change, such as sha256:7,14", "PCRS"),
    switch("overwrite", "PIV: replace the key and certificate in the slot"),
)


def add_arguments(parser: Parser) -> None:
    """Add the key URI and the flags."""
    parser.add_argument("key", metavar="KEY-URI", help="key URI of the new key, or a path for a key file")
    parser.add_flags(NEW_KEY, OUTPUT, KEY)


def run(arguments: Arguments) -> int:
    """Make the key and print what is known of it."""
    KeyURI.of_new(arguments.key)
    uri = settings.argument_uri(arguments.settings, arguments.key)
    made = generate_key(uri, key_request(arguments), settings.pin_source(arguments.settings, uri), allow_modules=True)
    done = f"{made.uri} was made"
    if arguments.json:
        print_outcome(done, json.dumps(key_data(made), indent=2))
    else:
        print_rows(done, [*key_rows(made), ("Next", f"hwsigner csr {shlex.quote(made.uri)} --subject CN=NAME")])
    return 0


def key_request(arguments: Arguments) -> KeyRequest:
    """Return what a new key must be like, by the flags of NEW_KEY."""
    return KeyRequest(
        algorithm=arguments.algorithm,
        always_authenticate=arguments.always_authenticate,
        accept_unproven=arguments.accept_unproven,
        pin_policy=arguments.pin_policy or "",
        touch_policy=arguments.touch_policy or "",
        noda=arguments.noda,
        pcrs=arguments.pcrs or "",
        overwrite=arguments.overwrite,
    )
