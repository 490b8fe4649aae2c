"""What comes of the reviews of tokens: whether tokens can be verified, as far as it is known."""

from __future__ import annotations

import time
from collections.abc import Callable

from hwsigner._serving.pods.refusals import VerifierRefusal, unverifiable
from hwsigner._serving.pods.token import PodIdentity, PodToken, TokenVerifier

# What an operator has to fix. Any other failure may pass: it counts after this many seconds without a good review.
_LASTING = ("own-token", "forbidden")
PATIENCE_SECONDS = 30.0


class Reviews:
    """The last results. Thread-safe, as each is set whole.

    `count` takes the result and the duration in seconds of each review. `clock` returns seconds.
    """

    def __init__(
        self, count: Callable[[str, float], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = count
        self._clock = clock
        self._good = float("-inf")  # When a review had an answer last.
        self._failure: VerifierRefusal | None = unverifiable("no token was reviewed yet", cause="unreachable")

    def ask(self, verifier: TokenVerifier, token: PodToken) -> PodIdentity | VerifierRefusal:
        """Return the verifier's answer, or a refusal instead of an exception, whose frames may hold a token."""
        begin = self._clock()
        try:
            answer: PodIdentity | VerifierRefusal = verifier(token)
        except VerifierRefusal as refusal:
            answer = refusal.again()
        except Exception as error:
            answer = unverifiable(f"internal error: {type(error).__name__}. Please report it")
        end = self._clock()
        result = (answer.cause or "refused") if isinstance(answer, VerifierRefusal) else "valid"
        if isinstance(answer, VerifierRefusal) and not answer.is_final:
            self._failure = answer
        else:
            self._good, self._failure = end, None
        if self._count:
            self._count(result, end - begin)
        return answer

    @property
    def age(self) -> float:
        """The seconds since a review had an answer last."""
        return self._clock() - self._good

    def problem(self) -> tuple[str, str] | None:
        """Return why tokens can't be verified, as its cause and in words for the log; None if they can."""
        failure, age = self._failure, self.age
        if age <= PATIENCE_SECONDS and (failure is None or failure.cause not in _LASTING):
            return None
        failure = failure or unverifiable(f"the API server has answered nothing for {age:.0f} s", cause="unreachable")
        return failure.cause, failure.detail
