"""A key file whose TPM was cleared or replaced: its names go to a new key, and go back when its TPM returns.

Beside `node.tss2`, what belongs to another chip is `node.NAME.tss2`, `node.NAME.crt` and `node.NAME.chain.crt`. NAME is
the TPM Name of the key's parent, which only this chip has, and only until it is cleared. The key file changes its name
last of what is kept, and in one step: before that the next run begins again, and after that it goes on.
"""

from __future__ import annotations

import filecmp
import glob
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from hwsigner._config.settings import Settings
from hwsigner._system.files import sync_folder
from hwsigner.backends.key_files import certificate_files, check_replaceable, holds_certificates
from hwsigner.enrolment import steps
from hwsigner.enrolment.profile import issuer_of
from hwsigner.errors import OtherChipError, SigningKeyError
from hwsigner.key.management import KeyDescription

Confirm = Callable[[Sequence[str]], bool]


def change_chip(
    target: steps.KeyToCertify, old: KeyDescription, values: Settings, confirm: Confirm | None
) -> tuple[str, bool, bool] | None:
    """Give the names of a key of another chip to one of this chip, once that has a certificate.

    Returns the path under which the old key is kept, whether the new one was made now, and whether its certificate was
    issued now; None if the key is of this chip. What a killed change left to do is done first. `confirm` asks the user,
    and returns False without one: then only a registrar may certify the new key.
    """
    uri = target.access.uri.resolved()
    is_candidate = uri.scheme == "tpm2" and "path" in uri.path and not (uri.has_pin or target.nv_index)
    if not is_candidate or old.properties.get("pin"):
        return None
    path, old_public = os.path.realpath(uri.file), old.public_key or b""
    try:
        _finish(path, old_public)
        try:
            with target.access.open():
                return None
        except OtherChipError as other:
            _ask(other, values, confirm)
            return _change(target, path, old_public, other, values)
    except OSError as error:
        problem = f"can't change the name of {error.filename}: {error.strerror}"
        raise SigningKeyError(problem, "Check who may write its folder, then run this again") from error


def _ask(other: OtherChipError, values: Settings, confirm: Confirm | None) -> None:
    would = "It would be set aside for a new key, or for the one that this TPM had before"
    if not (confirm and confirm((other.message, would))) and values.issuer != "registrar":
        hint = "Run hwsigner enroll from a terminal, where it asks; without one, only a registrar can certify a new key"
        raise SigningKeyError(other.message, hint)


def _change(
    target: steps.KeyToCertify, path: str, old_public: bytes, other: OtherChipError, values: Settings
) -> tuple[str, bool, bool]:
    kept, new, certificates = _beside(path, other.key_chip), _beside(path, other.chip), certificate_files(path)[0]
    if os.path.lexists(kept) and not filecmp.cmp(path, kept, shallow=False):
        problem = f"{kept} is there already, and is another key than {path}"
        raise SigningKeyError(problem, "Move that file to another place")
    uri = target.access.uri.resolved().changed(path={"path": os.fsencode(new)})
    # The pin stays, whoever answers now. No auth value is sent.
    access = replace(target.access, uri=uri.with_query("srk-name", other.root), pins=target.access.pins.without_pin())
    beside = replace(target, access=access)
    key, made = steps.ensure_key(beside)
    if key.properties.get("extractable") or key.public_key is None:
        problem = f"the key in {new} was not made in the TPM, so it does not get the name of {path}"
        raise SigningKeyError(problem, "Find out who put it there, and remove it")
    if not holds_certificates(certificates, old_public):
        check_replaceable(certificates, key.public_key)
    with access.open() as opened:
        request = steps.sign_request(beside, opened)
    there = None if made else steps.installed_chain(beside, request, datetime.now(UTC))
    if there is None:
        issuer = issuer_of(values, access)
        chain = steps.request_certificate(request, issuer, lambda: datetime.now(UTC), wait=values.timeout)
        steps.install(access, chain)
    _keep(path, kept, with_certificates=holds_certificates(certificates, old_public))
    os.replace(new, path)
    sync_folder(os.path.dirname(path))
    _finish(path, key.public_key)
    return kept, made, there is None


def _beside(path: str, chip: str) -> str:
    root, suffix = os.path.splitext(path)
    return f"{root}.{chip}{suffix}"


def _keep(path: str, kept: str, *, with_certificates: bool) -> None:
    """Give the files of a key a second name."""
    certificates = zip(certificate_files(path), certificate_files(kept), strict=True) if with_certificates else ()
    for file, second in (*certificates, (path, kept)):
        temporary = f"{second}.hwsigner-new"
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        with suppress(FileNotFoundError):
            os.link(file, temporary)
            os.replace(temporary, second)
        with suppress(FileNotFoundError):  # Two names of one file stay as they are.
            os.unlink(temporary)
    sync_folder(os.path.dirname(path))


def _finish(path: str, public_key: bytes) -> None:
    """Give a key's certificates their names, if the key has its own and they do not have theirs yet."""
    root, suffix = os.path.splitext(path)
    own, own_chain = certificate_files(path)
    for new in glob.glob(f"{glob.escape(root)}.000*.crt"):
        beside = new.removesuffix(".crt") + suffix
        if os.path.lexists(beside) or not holds_certificates(new, public_key):
            continue
        new_chain = certificate_files(beside)[1]
        with suppress(FileNotFoundError):
            os.replace(new_chain, own_chain)
        if not holds_certificates(own, public_key):
            os.replace(new, own)
        for file in (new_chain, new):
            with suppress(FileNotFoundError):
                os.unlink(file)
        sync_folder(os.path.dirname(path))
