"""CAs with ML-DSA keys: as trust anchors, with leaves of their own and of another kind, and their CRLs.

Those about ML-DSA keys of leaves, and of CAs below a P-256 root, are with the other leaves and chains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from trial_aws.asking import ACCEPTED, Ask, of_leaf, outcome
from trial_aws.authority import A_CA, LEAF, Issued, TrialCA
from trial_aws.plan import needing
from trial_aws.revocation import imported
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.wanted import WantedAnchor


def _root(ca: TrialCA) -> Issued:
    return ca.issuer("ML-DSA root", replace(A_CA, key="ML-DSA-65"))


_ANCHOR = WantedAnchor("ml-dsa", lambda ca: [_root(ca).certificate])
_TWO_KINDS = WantedAnchor("two-kinds", lambda ca: [ca.root.certificate, _root(ca).certificate])


def _leaf(key: str) -> Callable[[TrialCA], Issued]:
    return lambda ca: ca.leaf(replace(LEAF, key=key), _root(ca))


def _revoked(scene: AWSScene) -> str:
    """Import a list that the ML-DSA CA has signed, and return what becomes of a leaf that it revokes."""
    leaf = scene.leaf(LEAF, _root(scene.ca))
    data = scene.ca.revocation_list([leaf.certificate.serial_number], _root(scene.ca))
    code = imported(scene, "ml-dsa", data, _ANCHOR.name, enabled=True).code
    return f"the list: {code or ACCEPTED}; the leaf: {outcome(scene.session(leaf, AskedSession(anchor=_ANCHOR.name)))}"


ASKS: Mapping[str, Ask] = {
    "post-quantum.p-256-leaf": needing(of_leaf(_leaf("P-256"), anchor=_ANCHOR.name), _ANCHOR),
    "post-quantum.ml-dsa-leaf": needing(of_leaf(_leaf("ML-DSA-65"), anchor=_ANCHOR.name), _ANCHOR),
    "post-quantum.two-kinds": needing(of_leaf(_leaf("P-256"), anchor=_TWO_KINDS.name), _TWO_KINDS),
    "post-quantum.list": needing(_revoked, _ANCHOR),
}
