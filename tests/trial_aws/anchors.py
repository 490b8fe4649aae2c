"""Trust anchors, profiles and roles of a session: two CAs, what is disabled, missing or of an alias."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from hwsigner.trial.questions import NotAskedError
from trial_aws.asking import Ask, kind, of_leaf, outcome
from trial_aws.authority import A_CA, LEAF, OF_CA, CertificateShape, Issued, TrialCA
from trial_aws.calls import NO_ID
from trial_aws.plan import needing
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession, SessionAnswer
from trial_aws.wanted import OPEN, WantedAnchor, WantedProfile, WantedRole

_OTHER_ACCOUNT = "111111111111"


def _second_ca(ca: TrialCA) -> Issued:
    return ca.issuer("second", CertificateShape((("CN", "second CA"),), extensions=OF_CA))


def _expired_ca(ca: TrialCA) -> Issued:
    shape = CertificateShape((("CN", "expired CA"),), extensions=OF_CA, end=-timedelta(hours=1))
    return ca.issuer("expired root", shape)


def _without_key_id(ca: TrialCA) -> Issued:
    return ca.issuer("no key ID", replace(A_CA, subject=(("CN", "CA without a key ID"),), identifiers=False))


TWO = WantedAnchor("two", lambda ca: [ca.root.certificate, _second_ca(ca).certificate])
OFF_ANCHOR = WantedAnchor("off", then=(("disable_trust_anchor", {}),))
OFF_PROFILE = WantedProfile("off", then=(("disable_profile", {}),))
SWITCHED_ANCHOR = WantedAnchor("switched")
UNLISTED = WantedRole("unlisted", profile="")
EXPIRED = WantedAnchor("expired", lambda ca: [_expired_ca(ca).certificate])
NO_KEY_ID = WantedAnchor("no-key-id", lambda ca: [_without_key_id(ca).certificate])


def _of_second(ca: TrialCA) -> Issued:
    return ca.leaf(LEAF, _second_ca(ca))


def _with_arns(change: Callable[[AWSScene, list[str]], object], *, words: bool = True) -> Ask:
    """Return what asks for a session after `change` of the ARNs of profile, role and trust anchor."""

    def ask(scene: AWSScene) -> str:
        arns = [scene.arn("profile", "main"), scene.arn("role", "open"), scene.arn("anchor", "main")]
        change(scene, arns)
        answer = scene.send(scene.leaf(), AskedSession(), (arns[0], arns[1], arns[2]))
        return outcome(answer) if words else kind(answer)

    return ask


def _with_id(place: int) -> Callable[[AWSScene, list[str]], object]:
    def change(_: AWSScene, arns: list[str]) -> None:
        arns[place] = f"{arns[place].rpartition('/')[0]}/{NO_ID}"

    return change


def _with_account(scene: AWSScene, arns: list[str]) -> None:
    arns[1] = arns[1].replace(scene.account, _OTHER_ACCOUNT)


def by_alias(scene: AWSScene, leaf: Issued, anchor: str, role: str = OPEN.name) -> SessionAnswer:
    """Give a trust anchor an alias, and ask for a session by its alias ARN.

    Raises:
        NotAskedError: it could not be given one.
    """
    alias = {"trustAnchorId": scene.arn("anchor", anchor).rpartition("/")[2], "aliasName": scene.named(f"{anchor}-a")}
    made = scene.calls.call("rolesanywhere", "update_trust_anchor", **alias)
    if made.code:
        raise NotAskedError(f"UpdateTrustAnchor was refused: {made.code}")
    arns = scene.arn("profile", "main"), scene.arn("role", role), made.response["trustAnchor"]["aliasArn"]
    return scene.send(leaf, AskedSession(role), arns)


ASKS: Mapping[str, Ask] = {
    "anchors.two-second": needing(of_leaf(_of_second, anchor="two"), TWO),
    "anchors.expired": needing(of_leaf(lambda ca: ca.leaf(LEAF, _expired_ca(ca)), anchor="expired"), EXPIRED),
    "anchors.no-key-identifier": needing(
        of_leaf(lambda ca: ca.leaf(LEAF, _without_key_id(ca)), anchor="no-key-id"), NO_KEY_ID
    ),
    "anchors.disabled": needing(of_leaf(LEAF, anchor="off"), OFF_ANCHOR),
    "anchors.disabled-profile": needing(of_leaf(LEAF, profile="off"), OFF_PROFILE),
    "anchors.unlisted-role": needing(of_leaf(LEAF, role="unlisted", profile="main"), UNLISTED),
    "anchors.missing-anchor": _with_arns(_with_id(2)),
    "anchors.missing-profile": _with_arns(_with_id(0)),
    "anchors.role-of-other-account": _with_arns(_with_account, words=False),
    "anchors.session-name": of_leaf(LEAF, session_name="trial"),
    "anchors.alias": needing(lambda scene: outcome(by_alias(scene, scene.leaf(), "switched")), SWITCHED_ANCHOR),
}
