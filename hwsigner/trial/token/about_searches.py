"""Questions about searches for objects, without a login. None changes anything."""

from __future__ import annotations

from hwsigner.backends.pkcs11.functions import Attribute, ObjectClass
from hwsigner.trial.asking import numbered
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.token.calls import OK, named
from hwsigner.trial.token.subject import TriedToken
from hwsigner.trial.token.tables import TokenRow, spec, yes_or

_OBJECTS = "hwsigner/backends/pkcs11/objects.py"
_SESSION = "hwsigner/backends/pkcs11/functions.py: PKCS11Session"


def _searched(tried: TriedToken, session: int, most: int) -> list[int]:
    code, found = tried.calls.begin_search(session), list[int]()
    while code == OK:
        code, some = tried.calls.search(session, most)
        found += some
        if not some or len(found) > 5000:
            break
    tried.calls.end_search(session)
    return found


def _batches(tried: TriedToken) -> str:
    with tried.raw_session() as session:
        one, other = (sorted(_searched(tried, session, most)) for most in (1, 256))
    return yes_or("" if one == other else f"{len(one)} one by one, {len(other)} at once")


def _two_searches(tried: TriedToken) -> str:
    with tried.raw_session() as session:
        tried.calls.begin_search(session)
        code = tried.calls.begin_search(session)
        tried.calls.end_search(session)
    return named(code)


def _search_for_nothing(tried: TriedToken) -> str:
    found = tried.session.find(None, {Attribute.LABEL: b"hwsigner-trial: no object has this label"})
    return yes_or(f"it finds {numbered(len(found), 'object')}" if found else "")


def _prefix(tried: TriedToken) -> str:
    labels = {one.label for one in tried.before.everything if len(one.label) > 1}
    if not labels:
        raise NotAskedError("no object with a label is shown without a login")
    shortened = [one[:-1] for one in labels if one[:-1] not in labels]
    wrong = sum(bool(tried.session.find(None, {Attribute.LABEL: one})) for one in shortened)
    return yes_or(f"{numbered(wrong, 'shorter label')} found objects" if wrong else "")


def _class_and_label(tried: TriedToken) -> str:
    shown = [one for one in tried.before.publics if one.label]
    if not shown:
        raise NotAskedError("no public key with a label is shown without a login")
    lost = sum(
        one.handle not in tried.session.find(ObjectClass.PUBLIC_KEY, {Attribute.LABEL: one.label}) for one in shown
    )
    return yes_or(f"{lost} of {len(shown)} are not found" if lost else "")


QUESTIONS = (
    TokenRow("search.batches", "Does a search find the same objects one by one as at once?").expects(
        "yes", spec("5.7.8 (C_FindObjects)"), _batches, f"{_SESSION}.find"
    ),
    TokenRow("search.two", "What does a second C_FindObjectsInit in a session answer?").expects(
        "CKR_OPERATION_ACTIVE", spec("5.7.7 (C_FindObjectsInit)"), _two_searches, f"{_SESSION}.find"
    ),
    TokenRow("search.nothing", "Does a search for a label that no object has succeed without finding any?").expects(
        "yes", spec("5.7.8 (C_FindObjects)"), _search_for_nothing, f"{_OBJECTS}: Objects"
    ),
    TokenRow("search.whole-label", "Does a search for the beginning of a label find nothing?").expects(
        "yes", spec("5.7.7 (C_FindObjectsInit): each attribute matches exactly"), _prefix, f"{_OBJECTS}: Objects"
    ),
    TokenRow("search.label", "Does a search by class and label find each public key?").expects(
        "yes", spec("5.7.7 (C_FindObjectsInit)"), _class_and_label, f"{_OBJECTS}: Objects"
    ),
)
