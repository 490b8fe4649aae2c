"""Questions about CAs with ML-DSA keys: as trust anchors, with leaves of their own and of another kind, and their CRLs.

Those about ML-DSA keys of leaves, and of CAs below a P-256 root, are with the other leaves and chains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hwsigner.trial.questions import choice
from trial_aws.asking import ACCEPTED, REVOKED, SESSION, Ask, of_leaf, outcome
from trial_aws.authority import A_CA, LEAF, TrialCA, TrialIssuer, TrialLeaf
from trial_aws.plan import AWSQuestion, needing
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.wanted import WantedAnchor

_STRONG, _LISTS = (f"hwsigner/emulator/certificates.py: {name}" for name in ("_is_strong_key", "is_signed_by"))
_PAGE = "docs/how-to/keys.md#post-quantum-keys"
_A_CA_TOO = choice("AWS documents ML-DSA for the keys of leaves; a CA may have what a leaf may have")


def _root(ca: TrialCA) -> TrialIssuer:
    return ca.issuer("ML-DSA root", replace(A_CA, key="ML-DSA-65"))


_ANCHOR = WantedAnchor("ml-dsa", lambda ca: [_root(ca).certificate])
_TWO_KINDS = WantedAnchor("two-kinds", lambda ca: [ca.root.certificate, _root(ca).certificate])


def _leaf(key: str) -> Callable[[TrialCA], TrialLeaf]:
    return lambda ca: ca.leaf(replace(LEAF, key=key), _root(ca))


def _revoked(scene: AWSScene) -> str:
    """Import a list that the ML-DSA CA has signed, and return what becomes of a leaf that it revokes."""
    leaf = scene.leaf(LEAF, _root(scene.ca))
    data = scene.ca.revocation_list([leaf.certificate.serial_number], _root(scene.ca))
    call = {"name": scene.named("ml-dsa"), "crlData": data, "trustAnchorArn": scene.arn("anchor", _ANCHOR.name)}
    code = scene.calls.call("rolesanywhere", "import_crl", **call, enabled=True).code
    return f"the list: {code or ACCEPTED}; the leaf: {outcome(scene.session(leaf, AskedSession(anchor=_ANCHOR.name)))}"


def _question(
    name: str, text: str, ask: Ask, anchor: WantedAnchor = _ANCHOR, *, expected: str = SESSION, rests_on: str = _STRONG
) -> AWSQuestion:
    return AWSQuestion(f"post-quantum.{name}", text, expected, _A_CA_TOO, (rests_on, _PAGE), needing(ask, anchor))


QUESTIONS = (
    _question(
        "p-256-leaf",
        "Does a P-256 leaf of a trust anchor's ML-DSA-65 CA get a session?",
        of_leaf(_leaf("P-256"), anchor=_ANCHOR.name),
    ),
    _question(
        "ml-dsa-leaf",
        "Does an ML-DSA-65 leaf of a trust anchor's ML-DSA-65 CA get a session?",
        of_leaf(_leaf("ML-DSA-65"), anchor=_ANCHOR.name),
    ),
    _question(
        "two-kinds",
        "Does a leaf of an ML-DSA-65 CA get a session if the bundle has a P-256 CA too?",
        of_leaf(_leaf("P-256"), anchor=_TWO_KINDS.name),
        _TWO_KINDS,
    ),
    _question(
        "list",
        "Is a list that an ML-DSA-65 CA has signed accepted, and a leaf refused that it revokes?",
        _revoked,
        expected=f"the list: {ACCEPTED}; the leaf: {REVOKED}",
        rests_on=_LISTS,
    ),
)
