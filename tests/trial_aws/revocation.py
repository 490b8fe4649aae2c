"""Lists of revoked certificates (CRLs)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

from trial_aws.asking import ACCEPTED, Ask, of_leaf, of_root, outcome
from trial_aws.authority import LEAF, OF_CA, CertificateShape, Issued, TrialCA
from trial_aws.calls import CallAnswer
from trial_aws.plan import Needing, needing
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.wanted import WantedAnchor, WantedCrl

_HOUR = timedelta(hours=1)
_REVOKED, _REVOKED_CA = 0x7E570001, 0x7E570002
_LEAF = of_root(replace(LEAF, serial=_REVOKED))


def _beside(ca: TrialCA) -> Issued:
    """Return the other CA of the trust anchor."""
    return ca.issuer("beside", CertificateShape((("CN", "CA beside the root"),), extensions=OF_CA))


def _revoked_ca(ca: TrialCA) -> Issued:
    shape = CertificateShape((("CN", "revoked CA"),), extensions=OF_CA, serial=_REVOKED_CA)
    return ca.issuer("revoked", shape, ca.root)


def _list(ca: TrialCA) -> bytes:
    return ca.revocation_list([_REVOKED, _REVOKED_CA], ca.root)


REVOKING = WantedAnchor("revoking", lambda ca: [ca.root.certificate, _beside(ca).certificate])
STALE = WantedAnchor("stale")
LIST = WantedCrl("revoking", "revoking", _list)
STALE_LIST = WantedCrl("stale", "stale", lambda ca: ca.revocation_list([_REVOKED], ca.root, end=-_HOUR))


def _current(ask: Ask) -> Needing:
    return needing(ask, REVOKING, LIST)


def _expired(ask: Ask) -> Needing:
    return needing(ask, STALE, STALE_LIST)


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
    if problem := imported(scene, "later", data, "revoking", enabled=True).code:
        return problem
    running = scene.follow_up(before, "get_caller_identity").code or "valid"
    return f"running sessions: {running}; new ones: {outcome(scene.session(leaf, AskedSession(anchor='revoking')))}"


def imported(scene: AWSScene, name: str, data: bytes, anchor: str, *, enabled: bool = False) -> CallAnswer:
    """Import a list for a trust anchor."""
    given = {"name": scene.named(name), "crlData": data, "trustAnchorArn": scene.arn("anchor", anchor)}
    return scene.calls.call("rolesanywhere", "import_crl", **given, enabled=enabled)


def _import(name: str, data: Callable[[TrialCA], bytes]) -> Ask:
    """Return what imports a list, and answers whether it was refused. `data` makes it. It is deleted at once."""

    def ask(scene: AWSScene) -> str:
        made = imported(scene, name, data(scene.ca), "main")
        if not made.code:
            scene.calls.call("rolesanywhere", "delete_crl", crlId=made.response["crl"]["crlId"])
        return made.code or ACCEPTED

    return ask


def _third(scene: AWSScene) -> str:
    """Import two more lists for a trust anchor that has one."""
    lists = [scene.ca.revocation_list([number], scene.ca.root) for number in (1, 2)]
    codes = [imported(scene, f"more-{at}", data, "stale").code for at, data in enumerate(lists)]
    return f"the second: {codes[0] or ACCEPTED}; the third: {codes[1] or ACCEPTED}"


ASKS: Mapping[str, Ask] = {
    "revocation.revoked": _current(of_leaf(_LEAF, anchor="revoking")),
    "revocation.another-ca": _current(
        of_leaf(lambda ca: ca.leaf(replace(LEAF, serial=_REVOKED), _beside(ca)), anchor="revoking")
    ),
    "revocation.another-anchor": _current(of_leaf(_LEAF)),
    "revocation.intermediate": _current(of_leaf(lambda ca: ca.leaf(LEAF, _revoked_ca(ca)), anchor="revoking")),
    "revocation.expired-list": _expired(of_leaf(_LEAF, anchor="stale")),
    "revocation.expired-list-another": _expired(of_leaf(of_root(LEAF), anchor="stale")),
    "revocation.disabled-list": _current(_switched),
    "revocation.running": _current(_running),
    "revocation.by-intermediate": _import("by-intermediate", lambda ca: ca.revocation_list([1])),
    "revocation.too-large": _import("too-large", lambda ca: ca.revocation_list(range(2**156, 2**156 + 7000), ca.root)),
    "revocation.third": _expired(_third),
}
