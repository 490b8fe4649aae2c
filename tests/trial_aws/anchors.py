"""Questions about trust anchors, profiles and roles of a session: two CAs, what is disabled, missing or of an alias."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

from hwsigner.trial.questions import choice
from trial_aws.asking import INVALID, SESSION, UNTRUSTED, Ask, kind, of_leaf, outcome
from trial_aws.authority import LEAF, OF_CA, CertificateShape, TrialCA, TrialIssuer, TrialLeaf
from trial_aws.making_anchors import code_of, made, source_of
from trial_aws.plan import AWSRow
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession, SessionAnswer
from trial_aws.sources import ALIASES, NOT_LISTED, QUOTAS, QUOTED, VENDORS_CLIENT
from trial_aws.wanted import OPEN, Wanted, WantedAnchor, WantedProfile, WantedRole

_FIND = "hwsigner/emulator/sessions.py: SessionService._find"
_CHECKS = "docs/how-to/emulator.md#what-it-checks"
_PLANE = "docs/how-to/emulator.md#the-control-plane"
_ERRORS = "docs/reference/errors.md#access-denied"
_NO_ID = "00000000-0000-4000-8000-000000000000"
_OTHER_ACCOUNT = "111111111111"
_ABSENT = "403 AccessDeniedException: Unable to assume role for (arn)"
_AT_ONCE = choice("as with lists of revoked certificates, which were seen to be obeyed at once")
_STAYS = choice("what was given out stays valid until it expires; a role's sessions end by a policy of the role")


def _second_ca(ca: TrialCA) -> TrialIssuer:
    return ca.issuer("second", CertificateShape((("CN", "second CA"),), extensions=OF_CA))


def _expired_ca(ca: TrialCA) -> TrialIssuer:
    shape = CertificateShape((("CN", "expired CA"),), extensions=OF_CA, end=-timedelta(hours=1))
    return ca.issuer("expired root", shape)


TWO = WantedAnchor("two", lambda ca: [ca.root.certificate, _second_ca(ca).certificate])
OFF_ANCHOR = WantedAnchor("off", then=(("disable_trust_anchor", {}),))
OFF_PROFILE = WantedProfile("off", then=(("disable_profile", {}),))
SWITCHED_ANCHOR, SWITCHED_PROFILE = WantedAnchor("switched"), WantedProfile("switched")
UNLISTED = WantedRole("unlisted", profile="")
EXPIRED = WantedAnchor("expired", lambda ca: [_expired_ca(ca).certificate])


def _row(name: str, text: str, needs: tuple[Wanted, ...] = ()) -> AWSRow:
    return AWSRow(f"anchors.{name}", text, (), (OPEN, *needs))


def _of_second(ca: TrialCA) -> TrialLeaf:
    return ca.leaf(LEAF, _second_ca(ca))


def with_arns(change: Callable[[AWSScene, list[str]], object], *, words: bool = True) -> Ask:
    """Return what asks for a session with other ARNs.

    Args:
        change: changes the ARNs of the profile, the role and the trust anchor.
        words: whether the answer has the words of a refusal.
    """

    def ask(scene: AWSScene) -> str:
        arns = [scene.arn("profile", "main"), scene.arn("role", "open"), scene.arn("anchor", "main")]
        change(scene, arns)
        answer = scene.send(scene.leaf(), AskedSession(), (arns[0], arns[1], arns[2]))
        return outcome(answer) if words else kind(answer)

    return ask


def _with_id(place: int) -> Callable[[AWSScene, list[str]], object]:
    def change(_: AWSScene, arns: list[str]) -> None:
        arns[place] = f"{arns[place].rpartition('/')[0]}/{_NO_ID}"

    return change


def _with_account(place: int) -> Callable[[AWSScene, list[str]], object]:
    def change(scene: AWSScene, arns: list[str]) -> None:
        arns[place] = arns[place].replace(scene.account, _OTHER_ACCOUNT)

    return change


def _with_region(scene: AWSScene, arns: list[str]) -> None:
    arns[2] = arns[2].replace(scene.region, "us-east-2" if scene.region != "us-east-2" else "us-east-1")


def _with_partition(_: AWSScene, arns: list[str]) -> None:
    arns[1] = arns[1].replace("arn:aws:", "arn:aws-cn:") if ":aws:" in arns[1] else f"arn:aws:{arns[1][8:]}"


def _with_missing_role(scene: AWSScene, arns: list[str]) -> None:
    """Name a profile that lists a role which does not exist."""
    role = f"{scene.arn('role', 'open').rpartition('/')[0]}/{scene.named('missing')}"
    made = scene.calls.call("rolesanywhere", "create_profile", name=scene.named("ghost"), roleArns=[role], enabled=True)
    arns[1] = role
    arns[0] = made.response["profile"]["profileArn"] if not made.code else arns[0]


_SESSIONS = (
    _row("two-first", "Does a leaf of the first CA in a bundle of two get a session?", needs=(TWO,)).expects(
        SESSION, QUOTAS, of_leaf(LEAF, anchor="two"), "hwsigner/emulator/certificates.py: _anchor_problem"
    ),
    _row("two-second", "Does a leaf of the second CA in a bundle of two get a session?", needs=(TWO,)).expects(
        SESSION, QUOTAS, of_leaf(_of_second, anchor="two"), "hwsigner/emulator/certificates.py: _anchor_problem"
    ),
    _row(
        "expired", "What does CreateSession say to a leaf of a trust anchor's CA that has expired?", needs=(EXPIRED,)
    ).expects(
        UNTRUSTED,
        choice("so RFC 5280 has it for the CAs of a chain; of trust anchors it says nothing"),
        of_leaf(lambda ca: ca.leaf(LEAF, _expired_ca(ca)), anchor="expired"),
        "hwsigner/emulator/certificates.py: _anchor_problem",
    ),
    _row("of-another", "What does CreateSession say to a leaf of another trust anchor's CA?", needs=(TWO,)).expects(
        UNTRUSTED, QUOTED, of_leaf(_of_second), "hwsigner/emulator/certificates.py: check_path", _ERRORS
    ),
    _row("disabled", "What does CreateSession say if the trust anchor is disabled?", needs=(OFF_ANCHOR,)).expects(
        UNTRUSTED, choice("as if there were no way to a trust anchor"), of_leaf(LEAF, anchor="off"), _FIND, _ERRORS
    ),
    _row("disabled-profile", "What does CreateSession say if the profile is disabled?", needs=(OFF_PROFILE,)).expects(
        "403 AccessDeniedException: Profile is disabled",
        choice("the plainest words; users' pages have them, but without an answer of AWS"),
        of_leaf(LEAF, profile="off"),
        _FIND,
        _ERRORS,
    ),
    _row(
        "unlisted-role", "What does CreateSession say if the profile does not list the role?", needs=(UNLISTED,)
    ).expects(
        "403 AccessDeniedException: Requested Role isn't one of those listed in the Profile",
        NOT_LISTED,
        of_leaf(LEAF, role="unlisted", profile="main"),
        _FIND,
        _ERRORS,
    ),
    _row("missing-role", "What does CreateSession say if the profile lists a role that does not exist?").expects(
        _ABSENT,
        choice("as if the role's trust policy did not let Roles Anywhere in"),
        with_arns(_with_missing_role),
        _FIND,
        _ERRORS,
    ),
    _row("missing-anchor", "What does CreateSession say if there is no such trust anchor?").expects(
        "403 AccessDeniedException: Specified Trust Anchor wasn't found", QUOTED, with_arns(_with_id(2)), _FIND, _ERRORS
    ),
    _row("missing-profile", "What does CreateSession say if there is no such profile?").expects(
        "403 AccessDeniedException: Invalid or empty profile provided", QUOTED, with_arns(_with_id(0)), _FIND, _ERRORS
    ),
    _row("other-region", "Is a request whose trust anchor and profile are of two regions invalid?").expects(
        INVALID,
        choice("both must be of the region that is asked"),
        with_arns(_with_region, words=False),
        "hwsigner/emulator/parameters.py: read_parameters",
    ),
    _row("other-partition", "Is a request whose role is of another partition than the profile invalid?").expects(
        INVALID,
        choice("nothing of one partition is known in another"),
        with_arns(_with_partition, words=False),
        "hwsigner/emulator/parameters.py: read_parameters",
    ),
    _row("wrong-kind", "Is a request whose trustAnchorArn is that of a profile invalid?").expects(
        INVALID,
        choice("it is not the ARN of a trust anchor"),
        with_arns(lambda _, arns: arns.__setitem__(2, arns[0]), words=False),
        "hwsigner/emulator/parameters.py: _read_arn",
    ),
    _row("role-of-other-account", "Is a request whose role is of another account than the profile invalid?").expects(
        INVALID,
        QUOTED,
        with_arns(_with_account(1), words=False),
        "hwsigner/emulator/parameters.py: read_parameters",
        "docs/how-to/aws.md#roles-of-other-accounts",
    ),
    _row("of-other-account", "Is a request whose trust anchor is of another account than the profile invalid?").expects(
        INVALID,
        choice("as with a role of another account"),
        with_arns(_with_account(2), words=False),
        "hwsigner/emulator/parameters.py: read_parameters",
    ),
    _row("session-name", "What does CreateSession say to a session name that the profile does not accept?").expects(
        "403 AccessDeniedException: Not authorized to set roleSessionName",
        QUOTED,
        of_leaf(LEAF, session_name="trial"),
        "hwsigner/emulator/sessions.py: SessionService._session_name",
        _ERRORS,
    ),
)


def _by_alias(of: str, operation: str, member: str, place: int) -> Ask:
    """Return what gives a trust anchor or profile an alias, and asks for a session by its alias ARN."""

    def ask(scene: AWSScene) -> str:
        identifier = scene.arn(of, "switched").rpartition("/")[2]
        alias = f"{scene.prefix}/switched"
        made = scene.calls.call("rolesanywhere", operation, **{f"{member}Id": identifier}, aliasName=alias)
        if made.code:
            return str(made)
        arns = [scene.arn("profile", "main"), scene.arn("role", "open"), scene.arn("anchor", "main")]
        arns[place] = made.response[member]["aliasArn"]
        return outcome(scene.send(scene.leaf(), AskedSession(), (arns[0], arns[1], arns[2])))

    return ask


def _alias_taken(scene: AWSScene) -> str:
    """Return what CreateTrustAnchor says to the alias of another trust anchor."""
    alias, identifier = f"{scene.prefix}/switched", scene.arn("anchor", "switched").rpartition("/")[2]
    given = scene.calls.call("rolesanywhere", "update_trust_anchor", trustAnchorId=identifier, aliasName=alias)
    if given.code:
        return str(given)
    return code_of(
        made(scene, "alias", "create_trust_anchor", source=source_of([scene.ca.root.certificate]), aliasName=alias)
    )


def _list_by_alias(scene: AWSScene) -> str:
    """Return what ImportCrl says to the alias ARN of a trust anchor."""
    alias, identifier = f"{scene.prefix}/switched", scene.arn("anchor", "switched").rpartition("/")[2]
    given = scene.calls.call("rolesanywhere", "update_trust_anchor", trustAnchorId=identifier, aliasName=alias)
    if given.code:
        return str(given)
    crl = {
        "crlData": scene.ca.revocation_list([1], scene.ca.root),
        "trustAnchorArn": given.response["trustAnchor"]["aliasArn"],
    }
    return code_of(scene.calls.call("rolesanywhere", "import_crl", name=scene.named("by-alias"), **crl))


def _switching(of: str, kind_of: str, member: str, **asked: Any) -> Ask:
    """Return what disables and enables something, and asks what its sessions, old and new, may do then."""

    def ask(scene: AWSScene) -> str:
        identifier = {f"{member}Id": scene.arn(of, "switched").rpartition("/")[2]}
        leaf, request = scene.leaf(), AskedSession(**asked)
        before = scene.session(leaf, request)
        if not before.ok:
            return outcome(before)
        with ExitStack() as stack:
            stack.callback(scene.calls.call, "rolesanywhere", f"enable_{kind_of}", **identifier)
            scene.calls.call("rolesanywhere", f"disable_{kind_of}", **identifier)
            running = scene.follow_up(before, "get_caller_identity").code or "valid"
            refused = scene.session(leaf, request)
        return f"running sessions: {running}; new ones: {_in_short(refused)}, {_in_short(scene.session(leaf, request))}"

    return ask


def _in_short(answer: SessionAnswer) -> str:
    return "given out" if answer.ok else f"refused with {answer.status}"


_SWITCHES = (
    _row(
        "alias", "Does a request that names the trust anchor by its alias ARN get a session?", needs=(SWITCHED_ANCHOR,)
    ).expects(SESSION, VENDORS_CLIENT, _by_alias("anchor", "update_trust_anchor", "trustAnchor", 2), _PLANE),
    _row(
        "profile-alias",
        "Does a request that names the profile by its alias ARN get a session?",
        needs=(SWITCHED_PROFILE,),
    ).expects(SESSION, VENDORS_CLIENT, _by_alias("profile", "update_profile", "profile", 0), _PLANE),
    _row("alias-taken", "Is an alias refused that another trust anchor has?", needs=(SWITCHED_ANCHOR,)).expects(
        "ValidationException", ALIASES, _alias_taken, "hwsigner/emulator/control/calls.py: Call.check_alias"
    ),
    _row(
        "list-by-alias", "What does ImportCrl say to the alias ARN of a trust anchor?", needs=(SWITCHED_ANCHOR,)
    ).expects("ResourceNotFoundException", ALIASES, _list_by_alias, "hwsigner/emulator/control/crls.py: _anchor"),
    _row(
        "switching",
        "What may sessions do after the trust anchor was disabled, and is a new one given out after it was enabled?",
        needs=(SWITCHED_ANCHOR,),
    ).expects(
        "running sessions: valid; new ones: refused with 403, given out",
        _STAYS,
        _switching("anchor", "trust_anchor", "trustAnchor", anchor="switched"),
        _PLANE,
    ),
    _row(
        "profile-switching",
        "What may sessions do after the profile was disabled, and is a new one given out after it was enabled?",
        needs=(SWITCHED_PROFILE,),
    ).expects(
        "running sessions: valid; new ones: refused with 403, given out",
        _STAYS,
        _switching("profile", "profile", "profile", profile="switched"),
        _PLANE,
    ),
)

QUESTIONS = (*_SESSIONS, *_SWITCHES)
