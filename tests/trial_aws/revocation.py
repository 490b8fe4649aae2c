"""Questions about lists of revoked certificates (CRLs)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hwsigner.trial.questions import choice
from trial_aws.asking import ACCEPTED, REVOKED, SESSION, Ask, of_leaf, of_root, outcome, usage
from trial_aws.authority import LEAF, OF_CA, CertificateShape, TrialCA, TrialIssuer
from trial_aws.calls import CallAnswer
from trial_aws.plan import AWSRow
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.sources import CRL_API, QUOTAS, QUOTED
from trial_aws.wanted import OPEN, Wanted, WantedAnchor, WantedCrl

_CHECK = "hwsigner/emulator/certificates.py: check_revocation"
_IMPORT, _LIST = "hwsigner/emulator/control/crls.py: import_crl", "hwsigner/emulator/control/crls.py: _check_list"
_PLANE = "docs/how-to/emulator.md#the-control-plane"
_REVOKING = "docs/how-to/aws.md#revoking-and-retiring"
_HOUR = timedelta(hours=1)
_REVOKED, _REVOKED_CA, _HELD = 0x7E570001, 0x7E570002, 0x7E570003
_INVALID = "ValidationException"
_LEAF = of_root(replace(LEAF, serial=_REVOKED))
_UNTOLD = choice("AWS says that it checks a list, and not what it makes of one that has expired; the safe reading")
_ONE_LIST = choice("AWS speaks of a list of the CA; one that another CA signed can't be checked")


def _beside(ca: TrialCA) -> TrialIssuer:
    """Return the other CA of the trust anchor."""
    return ca.issuer("beside", CertificateShape((("CN", "CA beside the root"),), extensions=OF_CA))


def _revoked_ca(ca: TrialCA) -> TrialIssuer:
    return ca.issuer(
        "revoked", CertificateShape((("CN", "revoked CA"),), extensions=OF_CA, serial=_REVOKED_CA), ca.root
    )


def _list(ca: TrialCA) -> bytes:
    return ca.revocation_list([_REVOKED, _REVOKED_CA, _HELD], ca.root, held=[_HELD])


def _no_signer(ca: TrialCA) -> TrialIssuer:
    extensions = (OF_CA[0], usage("key_cert_sign"))
    return ca.issuer("no-crl-sign", CertificateShape((("CN", "CA without cRLSign"),), extensions=extensions))


REVOKING = WantedAnchor("revoking", lambda ca: [ca.root.certificate, _beside(ca).certificate])
STALE = WantedAnchor("stale")
LIST = WantedCrl("revoking", "revoking", _list)
STALE_LIST = WantedCrl("stale", "stale", lambda ca: ca.revocation_list([_REVOKED], ca.root, end=-_HOUR))
NO_SIGNER = WantedAnchor("no-crl-sign", lambda ca: [_no_signer(ca).certificate])
_CURRENT: tuple[Wanted, ...] = (REVOKING, LIST)
_EXPIRED: tuple[Wanted, ...] = (STALE, STALE_LIST)


def _row(name: str, text: str, needs: tuple[Wanted, ...] = _CURRENT) -> AWSRow:
    return AWSRow(f"revocation.{name}", text, (_PLANE,), (OPEN, *needs))


def _switched(scene: AWSScene) -> str:
    identifier = {"crlId": scene.arn("crl", "revoking").rpartition("/")[2]}
    leaf, request = _LEAF(scene.ca), AskedSession(anchor="revoking")
    with ExitStack() as stack:
        stack.callback(scene.calls.call, "rolesanywhere", "enable_crl", **identifier)
        scene.calls.call("rolesanywhere", "disable_crl", **identifier)
        disabled = scene.session(leaf, request)
    return f"disabled: {outcome(disabled)}; enabled: {outcome(scene.session(leaf, request))}"


def _running(scene: AWSScene) -> str:
    """Revoke a certificate that has a session, in a list of its own, and return what the session may do."""
    leaf = scene.leaf(LEAF, scene.ca.root)
    before = scene.session(leaf, AskedSession(anchor="revoking"))
    data = scene.ca.revocation_list([leaf.certificate.serial_number], scene.ca.root)
    if problem := _imported(scene, "later", data, "revoking", enabled=True):
        return problem
    running = scene.follow_up(before, "get_caller_identity").code or "valid"
    return f"running sessions: {running}; new ones: {outcome(scene.session(leaf, AskedSession(anchor='revoking')))}"


_SESSIONS = (
    _row("revoked", "What does CreateSession say to a revoked leaf?").expects(
        REVOKED, QUOTED, of_leaf(_LEAF, anchor="revoking"), _CHECK, _REVOKING, "docs/reference/errors.md#access-denied"
    ),
    _row("hold", "What does CreateSession say to a leaf that is revoked with the reason certificateHold?").expects(
        REVOKED,
        choice("RFC 5280: a certificate on hold is revoked until a later list lacks it"),
        of_leaf(of_root(replace(LEAF, serial=_HELD)), anchor="revoking"),
        _CHECK,
    ),
    _row("another-leaf", "Does a leaf get a session if a list revokes others?").expects(
        SESSION, CRL_API, of_leaf(of_root(LEAF), anchor="revoking"), _CHECK
    ),
    _row(
        "another-ca", "Does a leaf get a session if a list of another CA of the trust anchor has its serial number?"
    ).expects(
        SESSION,
        choice("RFC 5280: a serial number is one of the CA that signed the list"),
        of_leaf(lambda ca: ca.leaf(replace(LEAF, serial=_REVOKED), _beside(ca)), anchor="revoking"),
        _CHECK,
    ),
    _row("another-anchor", "Does a revoked leaf get a session by another trust anchor with the same CA?").expects(
        SESSION, QUOTED, of_leaf(_LEAF), _CHECK, _REVOKING
    ),
    _row("intermediate", "What does CreateSession say to a leaf below a revoked intermediate CA?").expects(
        REVOKED,
        choice("a certificate below a revoked one is not to be trusted; the list is of the CA that issued both"),
        of_leaf(lambda ca: ca.leaf(LEAF, _revoked_ca(ca)), anchor="revoking"),
        _CHECK,
    ),
    _row("expired-list", "What does CreateSession say to a leaf that an expired list revokes?", needs=_EXPIRED).expects(
        REVOKED, _UNTOLD, of_leaf(_LEAF, anchor="stale"), _CHECK, "docs/reference/aws-revoke.md"
    ),
    _row(
        "expired-list-another", "Does a leaf get a session if an expired list revokes others?", needs=_EXPIRED
    ).expects(
        SESSION,
        choice("a list that was not renewed should not stop every machine; aws check reports it"),
        of_leaf(of_root(LEAF), anchor="stale"),
        _CHECK,
        "docs/reference/aws-revoke.md",
    ),
    _row(
        "disabled-list",
        "What does CreateSession say to a revoked leaf if its list is disabled, and at once after it was enabled?",
    ).expects(f"disabled: {SESSION}; enabled: {REVOKED}", QUOTED, _switched, _CHECK),
    _row(
        "running", "What may the session of a leaf do after it was revoked, and is a new one refused at once?"
    ).expects(f"running sessions: valid; new ones: {REVOKED}", QUOTED, _running, _CHECK, _REVOKING),
)


def _imported(scene: AWSScene, name: str, data: bytes, anchor: str, **members: Any) -> str:
    """Import a list, and return the code of the refusal, or an empty string."""
    return _call(scene, name, data, anchor, **members).code


def _call(scene: AWSScene, name: str, data: bytes, anchor: str, **members: Any) -> CallAnswer:
    arn = scene.arn("anchor", anchor)
    given = {"name": scene.named(name), "crlData": data, "trustAnchorArn": arn, "enabled": False, **members}
    return scene.calls.call("rolesanywhere", "import_crl", **given)


def _import(name: str, data: Any) -> Ask:
    """Return what imports a list, and answers whether it was refused. `data` makes it. It is deleted at once."""

    def ask(scene: AWSScene) -> str:
        made = _call(scene, name, data(scene.ca), "main")
        if not made.code:
            scene.calls.call("rolesanywhere", "delete_crl", crlId=made.response["crl"]["crlId"])
        return made.code or ACCEPTED

    return ask


def _for_none(scene: AWSScene) -> str:
    arn = f"{scene.arn('anchor', 'main').rpartition('/')[0]}/00000000-0000-4000-8000-000000000000"
    call = {"crlData": scene.ca.revocation_list([1], scene.ca.root), "trustAnchorArn": arn}
    return scene.calls.call("rolesanywhere", "import_crl", name=scene.named("none"), **call).code or ACCEPTED


def _by_no_signer(scene: AWSScene) -> str:
    data = scene.ca.revocation_list([1], _no_signer(scene.ca))
    return _imported(scene, "no-crl-sign", data, "no-crl-sign") or ACCEPTED


def _many(count: int) -> Any:
    return lambda ca: ca.revocation_list(range(2**156, 2**156 + count), ca.root)


def _in_der(ca: TrialCA) -> bytes:
    return x509.load_pem_x509_crl(ca.revocation_list([1], ca.root)).public_bytes(Encoding.DER)


def _two_lists(ca: TrialCA) -> bytes:
    return ca.revocation_list([1], ca.root) + ca.revocation_list([2], ca.root)


def _third(scene: AWSScene) -> str:
    """Import two more lists for a trust anchor that has one."""
    lists: Sequence[bytes] = [scene.ca.revocation_list([number], scene.ca.root) for number in (1, 2)]
    second, third = (_imported(scene, f"more-{at}", data, "stale") or ACCEPTED for at, data in enumerate(lists))
    return f"the second: {second}; the third: {third}"


def _by_default(scene: AWSScene) -> str:
    data, anchor = scene.ca.revocation_list([1], scene.ca.root), scene.arn("anchor", "off-by-default")
    call = {"name": scene.named("default"), "crlData": data, "trustAnchorArn": anchor}
    made = scene.calls.call("rolesanywhere", "import_crl", **call)
    return made.code or ("enabled" if made.response["crl"]["enabled"] else "disabled")


_LISTS = (
    _row(
        "by-intermediate", "Is a list of the intermediate CA refused for a trust anchor with the root?", needs=()
    ).expects(_INVALID, _ONE_LIST, _import("by-intermediate", lambda ca: ca.revocation_list([1])), _LIST),
    _row("stranger", "Is a list of a CA that is not the trust anchor's refused?", needs=()).expects(
        _INVALID, _ONE_LIST, _import("stranger", lambda ca: ca.revocation_list([1], ca.issuer("stranger"))), _LIST
    ),
    _row("missing-anchor", "What does ImportCrl say if there is no such trust anchor?", needs=()).expects(
        "ResourceNotFoundException",
        choice("as other operations say it"),
        _for_none,
        "hwsigner/emulator/control/crls.py: _anchor",
    ),
    _row("no-crl-sign", "Is a list of a CA accepted whose key usage lacks cRLSign?", needs=(NO_SIGNER,)).expects(
        ACCEPTED,
        choice("AWS's rules say that a CA may include CRL Sign, and not that its lists need it"),
        _by_no_signer,
        _LIST,
    ),
    _row("in-der", "Is a list in DER refused?", needs=()).expects(_INVALID, CRL_API, _import("in-der", _in_der), _LIST),
    _row("two-lists", "Are two lists in one request refused?", needs=()).expects(
        _INVALID, choice("AWS speaks of one list"), _import("two-lists", _two_lists), _LIST
    ),
    _row("large", "Is a list of 4,500 certificates accepted?", needs=()).expects(
        ACCEPTED, CRL_API, _import("large", _many(4500)), "hwsigner/emulator/control/operations.py: CRL_DATA"
    ),
    _row("too-large", "Is a list of more than 300,000 bytes refused?", needs=()).expects(
        _INVALID, CRL_API, _import("too-large", _many(7000)), "hwsigner/emulator/control/operations.py: CRL_DATA"
    ),
    _row("third", "Are two lists for a trust anchor accepted, and a third one refused?", needs=_EXPIRED).expects(
        f"the second: {ACCEPTED}; the third: {_INVALID}", QUOTAS, _third, _IMPORT
    ),
    _row(
        "default", "Is a list enabled if the request does not say so?", needs=(WantedAnchor("off-by-default"),)
    ).expects(
        "disabled", choice("the API reference has no default; nothing is enabled by itself"), _by_default, _IMPORT
    ),
)

QUESTIONS = (*_SESSIONS, *_LISTS)
