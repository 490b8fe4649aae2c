"""Preparing a revocation by the flags of a command, for the commands that revoke certificates."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager

from hwsigner._aws.region import parse_arn
from hwsigner._cli.aws.arguments import AWS, read_all, service_clients
from hwsigner._cli.parser import Arguments
from hwsigner._cli.process import signals_handled
from hwsigner._cli.registrar import POLICY_FILE
from hwsigner._config import settings
from hwsigner._config.flags import KEY, Flag, one_of, whole_number
from hwsigner._control_plane.resources import TrustAnchor
from hwsigner._control_plane.revocation import Revocation
from hwsigner._control_plane.revoking import Prepared, prepare_list, prepare_private
from hwsigner._identity.certificate import Certificate
from hwsigner._identity.next_revocation_list import REASONS, Draft
from hwsigner._identity.revocation_list import RevocationList
from hwsigner.errors import AmbiguousCertificateError, UsageError
from hwsigner.key import open_key

CA = (Flag("ca-key", "the CA's key, as a key URI or a path", "KEY-URI"), Flag("ca", "the CA's certificate", "FILE"))
REVOCATION = (
    Flag("reason", f"why: {', '.join(REASONS)}", "REASON", one_of(*REASONS), "unspecified"),
    Flag(
        "days", "days until the new CRL expires (default: 365, or as before if longer)", "DAYS", whole_number(1, 36500)
    ),
    Flag("registrar-policy", f"your registrar's policy, to see what can renew (default: {POLICY_FILE})", "FILE"),
    *(flag for flag in AWS if flag.name != "region"),  # It is the trust anchor's.
    *KEY,
)


def prepare(
    arguments: Arguments,
    arn: str,
    certificates: Sequence[Certificate],
    serials: Sequence[int] = (),
    *,
    renews: bool = False,
) -> Prepared:
    """Read what the service has, and find out what must change. Nothing is changed.

    If `renews`, a new CRL is made even if nothing else is to be revoked.
    """
    aws = service_clients(arguments, region=parse_arn(arn, "--trust-anchor-arn").region)
    anchor = TrustAnchor.of(aws.rolesanywhere.call("get_trust_anchor", trustAnchorId=arn)["trustAnchor"])
    revocation = Revocation(certificates, serials, arguments.reason, arguments.days, renews)
    if anchor.private_ca:
        if arguments.ca_key or arguments.ca:
            hint = "Omit --ca-key and --ca"
            raise UsageError(f"trust anchor {anchor.name!r} has a CA in AWS Private CA, which keeps its key", hint)
        return prepare_private(aws.acm_pca, anchor, revocation)
    ca = _read_ca(arguments)

    def sign(draft: Draft) -> RevocationList:
        uri = settings.argument_uri(arguments.settings, arguments.ca_key)
        pins = settings.pin_source(arguments.settings, uri)
        with open_key(uri, pins, public_key=ca.public_key(), allow_modules=True) as key:
            return draft.sign(key)

    return prepare_list(aws.rolesanywhere, anchor, revocation, ca=ca, sign=sign)


def sigterm_like_interrupts() -> AbstractContextManager[None]:
    """Return a context manager in which SIGTERM acts like Ctrl-C, after which a revocation says what is in force."""
    return signals_handled({signal.SIGTERM: signal.default_int_handler})


def _read_ca(arguments: Arguments) -> Certificate:
    if not arguments.ca_key or not arguments.ca:
        missing = "--ca" if arguments.ca_key else "--ca-key"
        raise UsageError(f"{missing} is missing", "Give the CA's key with --ca-key and its certificate with --ca")
    found = read_all(arguments.settings, arguments.ca)
    if len(found) > 1:
        shown = ", ".join(one.subject for one in found)
        raise AmbiguousCertificateError(f"{arguments.ca} has {len(found)} certificates: {shown}", "Give one alone")
    return found[0]
