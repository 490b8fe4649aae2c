"""The TPM of a trial: the connection to it, what it can do, and what the user allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from tpm2_pytss import ESYS_TR, TPM2_ALG

from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.attestation import Trust
from hwsigner.backends.tpm2.auth import guarded_hierarchy
from hwsigner.backends.tpm2.connection import TPMConnection, connect
from hwsigner.backends.tpm2.encode import write_tss2_pem
from hwsigner.backends.tpm2.endorsement import Endorsement
from hwsigner.backends.tpm2.key_file import HIERARCHIES, TSS2Key
from hwsigner.backends.tpm2.objects import ParentAuth
from hwsigner.backends.tpm2.tpm import TPM, SessionSettings, is_managed
from hwsigner.backends.tpm2.uris import tcti_of
from hwsigner.errors import BackendUnavailableError
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.tpm.capabilities import Capabilities, read_capabilities
from hwsigner.trial.tpm.making import TrialKey, make, require, template

_T = TypeVar("_T")
_Options = ParamSpec("_Options")
_SUBJECT = "of the trial"
# The attributes of the URI's query for the hierarchies' auth values.
SOURCES = ("owner-pin-source", "endorsement-pin-source")
# Sessions have questions of their own. Without an auth value, there is nothing to protect.
_PLAIN = SessionSettings(plain=True)


class StoppedError(BaseException):
    """The user or the system ended the trial."""


class TrialChip:
    """The TPM of a trial.

    `failures` counts how often work was repeated or failed because an answer may have been lost: what it had loaded
    then is not known. `has_written` is whether something may be at a handle or index that the trial put there.

    Args:
        uri: a `tpm2:` URI whose query has the TCTI and the places of the hierarchies' auth values.
        pins: gives them.
        folder: an empty folder for key files.
        trust: the vendors' roots, or None.
        ranges: the handles and indices that may be written.

    Raises:
        BackendUnavailableError: the TPM can't be reached.
    """

    def __init__(
        self, uri: KeyURI, pins: PinSource, *, folder: Path, trust: Trust | None = None, ranges: Sequence[range] = ()
    ) -> None:
        self.uri = uri
        self.pins = pins
        self.folder = folder
        self.trust = trust
        self.ranges = tuple(ranges)
        self.tcti = tcti_of(uri)
        self.is_managed = is_managed(self.tcti)
        self.auth = ParentAuth(uri, pins)
        self.endorsement = Endorsement(self.auth)
        is_given = any(uri.text(source) is not None for source in SOURCES)
        self._settings = SessionSettings() if is_given else _PLAIN
        self.failures = 0
        self.has_written = False
        self._keys: dict[str, TrialKey] = {}
        self._is_stopped = False
        self._connection: TPMConnection = connect(self.tcti, self)
        try:
            self.capabilities: Capabilities = self.use(read_capabilities)
        except BaseException:
            self.close()
            raise

    def use(self, work: Callable[[TPM], _T]) -> _T:
        """Return what some work returns that takes no hierarchy's auth value, unless the trial is to end."""
        self.check_signal()
        return self._run(work, _PLAIN)

    def use_hierarchy(self, work: Callable[[TPM], _T]) -> _T:
        """Return the same of work that may take a hierarchy's auth value. A given one is not sent as it is."""
        self.check_signal()
        return self.finish(work)

    def finish(self, work: Callable[[TPM], _T]) -> _T:
        """Do work as `use_hierarchy`, even if the trial is to end."""
        return self._run(work, self._settings)

    def _run(self, work: Callable[[TPM], _T], settings: SessionSettings) -> _T:
        begun = 0

        def counted(tpm: TPM) -> _T:
            nonlocal begun
            begun += 1
            return work(tpm)

        try:
            return self._connection.run(counted, _SUBJECT, settings)
        except BackendUnavailableError:
            self.failures += 1
            raise
        finally:
            self.failures += begun > 1

    def reconnect(self) -> None:
        """Close the connection, and begin another one with the next use."""
        self.close()
        self._connection = connect(self.tcti, self)

    def close(self) -> None:
        """Give the connection back."""
        self._connection.release(self)

    def stop(self, *_: object) -> None:
        """End the trial between two pieces of work, as the handler of a signal."""
        self._is_stopped = True

    def check_signal(self) -> None:
        """Raise a StoppedError if a signal has come."""
        if self._is_stopped:
            raise StoppedError

    def key(self, tpm: TPM, kind: str) -> TrialKey:
        """Return the trial's key of a kind, which is made at its first use."""
        if kind not in self._keys:
            require(tpm, kind)
            self._keys[kind] = make(tpm, template(kind))
        return self._keys[kind]

    def key_file(self, key: TrialKey, hierarchy: str = "null") -> KeyURI:
        """Write a key file with a key of a hierarchy's storage key, and return its URI."""
        parent = next(handle for handle, name in HIERARCHIES.items() if name == hierarchy)
        path = self.folder / f"{hierarchy}.tss2"
        path.write_text(write_tss2_pem(TSS2Key(True, parent, key.public.marshal(), key.private.marshal())))
        path.chmod(0o600)
        query = {**self.uri.query, "tcti": self.tcti.encode()}
        if self._settings.plain:
            query["session"] = b"plain"
        return self.uri.changed(path={"path": str(path).encode()}, query=query)

    def require(self, name: str) -> None:
        """Raise a NotAskedError if a hierarchy, `owner` or `endorsement`, has an auth value and none is given.

        A wrong one is a PinError. It is sent once, and does not count.
        """
        source = f"{name}-pin-source"
        if name in self.capabilities.auths and self.uri.text(source) is None:
            raise NotAskedError(f"the {name} hierarchy has an auth value: give --{source} file:/path")
        handle = {"owner": ESYS_TR.RH_OWNER, "endorsement": ESYS_TR.RH_ENDORSEMENT}[name]

        def prove(tpm: TPM) -> None:
            with tpm.policy_session(TPM2_ALG.SHA256) as session:
                self.auth.prove(
                    tpm,
                    handle,
                    guarded_hierarchy(name),
                    lambda proof: tpm.esys.policy_secret(handle, session, expiration=0, session1=proof),
                )

        self.use_hierarchy(prove)


def with_tpm(
    work: Callable[Concatenate[TrialChip, TPM, _Options], str],
) -> Callable[Concatenate[TrialChip, _Options], str]:
    """Give a question its TPM, without a hierarchy's auth value."""

    @wraps(work)
    def ask(chip: TrialChip, /, *options: _Options.args, **more: _Options.kwargs) -> str:
        return chip.use(lambda tpm: work(chip, tpm, *options, **more))

    return ask
