"""Credentials of a profile: a running agent's, or else of a provider of this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from hwsigner._agent.client import find_credentials
from hwsigner._agent.protocol import LOCKED
from hwsigner._aws.credentials import Credentials, read_agent_credentials
from hwsigner._pins import AskPin, PinRequest
from hwsigner._refresh.outcome import Session
from hwsigner._system.clocks import Clocks
from hwsigner.errors import AgentError, HwsignerError, HwsignerWarning, PinError

# How old an answer of the agent may be when a client asks: `hwsigner agent lock` takes effect here within this time.
ASK_SECONDS = 1.0
# After waiting for an agent in vain, do not ask it again for this many times as long.
_RARELY = 10.0

_LONGEST_LIFE = 43200.0


class LiveCredentials(Protocol):
    """Gives credentials whenever it is called, as a provider does."""

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """The error of the last attempt, the same object until the next attempt; None if it succeeded."""

    def __call__(self) -> Credentials:
        """Return live credentials. May take long; raises a HwsignerError."""


class OwnProvider(LiveCredentials, Protocol):
    """A provider of this process, such as `Attempts` or a `Refresher`."""

    def at_once(self) -> Credentials | None:
        """Return live credentials without waiting; None if there are none."""

    def forget(self) -> None:
        """Forget the credentials and close the key. A later call opens it again."""


_Own = TypeVar("_Own", bound=OwnProvider)


class AgentOrOwn(Generic[_Own]):
    """Credentials of a profile: a running agent's, or else of a provider of this process. Thread-safe.

    An agent is asked before the provider, and again once its answer is a second old. Its last credentials are given out
    until the next are due, also if no agent runs any more; then the provider's.

    Args:
        name: the profile's name; None to ask no agent.
        make_own: makes the provider, once no agent has credentials. Of several that threads make at once, one is used.
        role_arn: the profile's role, which an agent's reply does not contain.
        ask_pin: asks the user for a PIN that the agent needs, if there is a terminal, until one is wrong; or None.
        clocks: what time it is.
    """

    # No lock: a child process could find it locked. What several threads use is replaced whole.

    def __init__(
        self,
        name: str | None,
        make_own: Callable[[], _Own],
        *,
        role_arn: str = "",
        ask_pin: AskPin | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        self._name = name
        self._make_own = make_own
        self._role_arn = role_arn
        self._ask_pin = ask_pin
        self._clocks = clocks or Clocks()
        self._made: list[_Own] = []  # The first is used. Several threads may make one at once.
        self._session: Session | None = None  # The agent's.
        # Once the provider has given credentials. Before, reading would make it create a session in the background.
        self._uses_own = False
        self._refusal: AgentError | None = None
        self._has_asked_own = False
        self._ask_after = 0.0

    def own(self) -> _Own:
        """Return the provider; make it if need be. Raises a HwsignerError for invalid settings."""
        if not self._made:
            self._made.append(self._make_own())
        return self._made[0]

    def own_if_made(self) -> _Own | None:
        """Return the provider, or None if it was not needed so far."""
        return self._made[0] if self._made else None

    @property
    def of_agent(self) -> Credentials | None:
        """The last credentials of an agent, or None if it gave none. The agent has written their audit line."""
        session = self._session
        return session.credentials if session else None

    @property
    def failure(self) -> HwsignerError | HwsignerWarning | None:
        """The agent's refusal, the same object while its reason is the same; or the failure of the provider's attempt.

        None if the last call had new credentials, or the agent's last ones were not due.
        """
        own = self.own_if_made()
        return self._refusal or (own.failure if own and self._has_asked_own else None)

    def at_once(self) -> Credentials | None:
        """Return live credentials, or None if a call may take long."""
        if self._name and self._clocks.monotonic() >= self._ask_after:
            return None
        session = self._session
        if session is None:
            return self._own_at_once()
        return None if session.is_due(self._clocks) else session.credentials

    def __call__(self) -> Credentials:
        """Return the agent's credentials, or the provider's, or the last ones while they are valid.

        After an AgentError for a profile that was locked, all credentials are forgotten.
        """
        try:
            self._ask()
            session, self._refusal = self._session, None
            self._has_asked_own = session is None or session.is_due(self._clocks)
            if session and not self._has_asked_own:
                return session.credentials
            own = self.own()
            credentials = own()
        except (HwsignerError, HwsignerWarning) as error:
            if isinstance(error, AgentError):
                self._note_refusal(error)
                if error.reason == LOCKED:
                    self._forget()
                    raise
            session = self._session
            is_live = session is not None and session.left(self._clocks) > 0
            found = session.credentials if session and is_live else self._own_at_once()
            if found is None:
                raise
            return found
        self._session, self._uses_own = None, True  # From now on the provider has the last ones.
        return credentials

    def _own_at_once(self) -> Credentials | None:
        return self.own().at_once() if self._uses_own else None

    def _note_refusal(self, error: AgentError) -> None:
        if str(error) != str(self._refusal):
            self._refusal = error

    def _forget(self) -> None:
        self._session, self._uses_own = None, False
        if own := self.own_if_made():  # Its key may be open though it gave no credentials so far.
            own.forget()

    def _ask(self) -> None:
        """Ask the agent, and keep its credentials if it has any."""
        if not self._name:
            return
        begin = self._clocks.monotonic()
        self._ask_after = begin + ASK_SECONDS
        ask_pin, asked = self._ask_pin, list[PinRequest]()

        def ask(request: PinRequest) -> str | None:
            asked.append(request)
            return ask_pin(request) if ask_pin else None

        try:
            body = find_credentials(self._name, ask_pin=ask if ask_pin else None)
        except (AgentError, PinError):
            if asked:
                self._ask_pin = None  # A user who cancelled, or was wrong, is not asked again and again.
            raise
        if body is None:  # If the agent hangs, only few requests must wait for it.
            now = self._clocks.monotonic()
            self._ask_after = now + max(ASK_SECONDS, _RARELY * (now - begin))
            return
        credentials = read_agent_credentials(body, role_arn=self._role_arn)
        self._session = Session.begin(credentials, begin, duration=_LONGEST_LIFE, clocks=self._clocks)
