"""Credentials for programs that answer others: refreshed before a caller must wait, with replies as finished bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Self

from hwsigner._aws.credentials import Credentials
from hwsigner._identity.certificate import Certificate
from hwsigner._refresh.outcome import Failure, Status
from hwsigner._refresh.provider import Provider, refresher_of
from hwsigner.errors import HwsignerError, HwsignerWarning


class BackgroundProvider:
    """A provider that is refreshed ahead of need by another thread, with finished replies. Thread-safe.

    Once warm, no caller waits for a signature: the next session is created while the last has 16 minutes or more left
    (of an hour, between 16 and 38; of 15 minutes, between 5 and 10), at a random moment. That happens only if a caller
    was given the last session, and never if the key needs a person: then the next session is created when a caller
    asks. After a failure the last credentials are given out, and attempts are repeated as a provider does. Once the
    credentials have expired, an attempt is made only if a caller has asked since the last one.

    Call `start()`, and `close()` at the end, or use a `with` statement. One thread waits for all background providers
    of a process; each refresh has a thread of its own. A child process starts without them and may call `start()`.

    Args:
        provider: closed with this.
        formats: by name, what makes a reply of credentials. It is called at each refresh by the thread that refreshes,
            and must not raise.
        attended: whether the key needs a person for each session: True, False, or None to judge by how long signatures
            take.
        on_try: called after each attempt with the credentials or the failure, in order, by the thread that made it. It
            may call and close this provider, and must not raise.
        on_notice: called with a notice when a refresh has begun to wait for the user, such as for a touch, and with
            None when that is over. It may be called from any thread, and must neither raise nor wait.
        guard: returns a context manager that is open while the key is opened, and while it signs; or None.

    Raises:
        UsageError: the provider has a background provider already.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        formats: Mapping[str, Callable[[Credentials], bytes | memoryview]] | None = None,
        attended: bool | None = None,
        on_try: Callable[[Credentials | Failure], None] | None = None,
        on_notice: Callable[[str | None], None] | None = None,
        guard: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        self._refresher = refresher_of(provider)
        self._refresher.configure(formats=formats, attended=attended, on_try=on_try, on_notice=on_notice, guard=guard)
        self._provider = provider

    def __repr__(self) -> str:
        return f"<BackgroundProvider of {self._provider!r}>"

    def start(self) -> None:
        """Refresh in the background from now on. Nothing is done before a caller asks for credentials."""
        self._refresher.start()

    def read(self, name: str) -> bytes | memoryview | None:
        """Return the finished reply of a format at once, or None if `reply` must be called, which may take long.

        While a refresh is in progress, and after one that failed, it is the last reply.

        Args:
            name: the format's name.

        Raises:
            UsageError: there is no such format, and the replies are there.
        """
        rendered = self._refresher.read(name)
        return None if rendered is None else rendered.reply

    def reply(self, name: str) -> bytes | memoryview:
        """Return the finished reply of a format; wait for a refresh if there are no live credentials.

        Args:
            name: the format's name.

        Raises:
            UsageError: there is no such format.
            HwsignerError: as a call of a provider does.
        """
        return self._refresher.reply(name).reply

    def __call__(self) -> Credentials:
        """Return live credentials; raises as a call of a provider does."""
        return self._refresher()

    def refresh(self, *, fixed: bool = False) -> Credentials:
        """Create a session now; see `Provider.refresh`."""
        return self._refresher.refresh(fixed=fixed)

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """The error of the last attempt, or None if it succeeded or there was none."""
        return self._refresher.failure

    @property
    def leaf(self) -> Certificate | None:
        """The certificate of the last session. None before the first, and after a failure of the key."""
        return self._refresher.leaf

    @property
    def request_seconds(self) -> float | None:
        """How long the last attempt's request took, with its signature and retries; None if it got no so far."""
        return self._refresher.request_seconds

    def notices(self) -> list[tuple[str, str]]:
        """Return the levels and texts of lines for the log: the certificate is near its end, the session is too short.

        The first about a certificate is due once a quarter of its life is left, and the next ones each time that a
        tenth of what was left has passed. That sessions are shorter than asked is said with the first. Call it in
        `on_try`, after a session was created.
        """
        return self._refresher.notices()

    def status(self) -> Status:
        """Return the state as it is now. Looks whether the key's files have changed."""
        return self._refresher.status()

    def close(self) -> None:
        """Stop refreshing, and close the provider after a refresh in progress. Closing twice is allowed."""
        self._refresher.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
