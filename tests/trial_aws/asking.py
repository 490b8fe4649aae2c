"""Questions that send one CreateSession request, and how its answer is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trial_aws.authority import CertificateShape, Issued, TrialCA
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession, SessionAnswer

SESSION = "session"
INSUFFICIENT = "403 AccessDeniedException: Untrusted certificate. Insufficient certificate"
UNTRUSTED = "403 AccessDeniedException: Untrusted signing certificate"
BAD_SIGNATURE = "403 AccessDeniedException: Invalid signature"
REVOKED = "403 AccessDeniedException: Certificate revoked"
INVALID = "400 ValidationException"
ACCEPTED = "accepted"

Ask = Callable[[AWSScene], str]
MakeLeaf = Callable[[TrialCA], Issued]


def outcome(answer: SessionAnswer) -> str:
    """Return "session", or the refusal with its words. A full stop at the end does not count."""
    return str(answer).rstrip(".")


def kind(answer: SessionAnswer) -> str:
    """Return "session", or the refusal without its words, such as "400 ValidationException"."""
    return SESSION if answer.ok else f"{answer.status} {answer.kind}"


def of_leaf(leaf: CertificateShape | MakeLeaf, **members: Any) -> Ask:
    """Return what asks for a session with a leaf.

    Args:
        leaf: what the leaf contains, or what makes it.
        members: those of AskedSession that are not the default.
    """
    return lambda scene: outcome(scene.session(_made(scene, leaf), AskedSession(**members)))


def of_root(shape: CertificateShape) -> MakeLeaf:
    """Return what makes a leaf of the root."""
    return lambda ca: ca.leaf(shape, ca.root)


def _made(scene: AWSScene, leaf: CertificateShape | MakeLeaf) -> Issued:
    return scene.leaf(leaf) if isinstance(leaf, CertificateShape) else leaf(scene.ca)
