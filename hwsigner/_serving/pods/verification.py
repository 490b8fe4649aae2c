"""The checks of a Pod's token, from its form to the cluster's answer."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Literal, NamedTuple, TypeVar

from hwsigner._serving.credentials import in_thread
from hwsigner._serving.pods.cluster import FOLDER, Cluster
from hwsigner._serving.pods.limits import REFUSED_COST, ClientShare, ClientShares, Turns
from hwsigner._serving.pods.refusals import RefusalLog, VerifierRefusal, invalid, unverifiable
from hwsigner._serving.pods.review import TokenReviewer
from hwsigner._serving.pods.reviews import Reviews
from hwsigner._serving.pods.token import (
    PodIdentity,
    PodToken,
    TokenVerifier,
    check_audience,
    check_pod,
    read_token,
    shown,
)
from hwsigner._serving.responses import HTTPRefusal
from hwsigner.errors import HwsignerError, UsageError

# How long an answer is used. The API server itself uses a "yes" for 10 s.
CACHE_SECONDS = 30.0
# The cached answers about good tokens, and about bad ones: a flood of bad tokens drops no answer about a good one.
MAX_GOOD = 4096
MAX_BAD = 1024
# The longest time that a review waits for its turn: as long as boto3 asks, and some more.
QUEUE_SECONDS = 15.0
# A token that was good a short time ago is not verified anew for longer than this while its request waits, as the SDK
# for JavaScript waits for a second. Its next review comes this much later, if the last one has not said no by then.
KNOWN_SECONDS = 0.5
PAUSE_SECONDS = 5.0

# Of the form of a token. No cluster has signed it.
_INVALID = PodToken("hwsigner.try.out", "", "RS256", (), "", 0, PodIdentity("", "", "", "", "", 0))


_T = TypeVar("_T")


class VerificationSettings(NamedTuple):
    """Which tokens are valid here.

    A token must have one of the audiences, and its Pod be of this node. `verify` is `review` to ask the API server, or
    `keys` to use the cluster's: those (JWKS) in `keys_file`, else the API server's. `issuer` may be None for any, but
    not with `keys`. `allow_incomplete_ca` lets the cluster's CA lack key usage and key identifiers. `outage_seconds` is
    how long a good token still counts while it can't be verified again.
    """

    audiences: tuple[str, ...]
    node: str
    verify: Literal["review", "keys"] = "review"
    issuer: str | None = None
    keys_file: str | None = None
    allow_incomplete_ca: bool = False
    outage_seconds: float = 300.0


class Verification:
    """Finds the Pod of a request's token. For one thread: that of the event loop.

    `log` takes a line with what the API server said, which clients don't see, in any thread. `environ` has the API
    server's address; `folder`, the cluster's CA and this Pod's own token. `reviews` notes what comes of each review.
    """

    def __init__(
        self,
        settings: VerificationSettings,
        log: Callable[[str], None],
        *,
        environ: Mapping[str, str],
        folder: str = FOLDER,
        reviews: Reviews | None = None,
    ) -> None:
        self._log = log
        self._outcomes = reviews or Reviews()
        self._environ = environ
        self._folder = folder
        self._shares = ClientShares()
        self._turns = Turns()
        self._refusals = RefusalLog(log)
        self._cluster: Cluster | None = None
        self._use(settings)

    def configure(self, settings: VerificationSettings) -> None:
        """Use these settings from now on. If they are new, cached answers are forgotten.

        After an error, the old settings stay in use.
        """
        if settings != self._settings:
            self._use(settings)

    def check(self, token: bytes, address: str) -> PodIdentity | Awaitable[PodIdentity]:
        """Return the Pod of a token, which is the whole value of `Authorization`, or an awaitable for it.

        An HTTPRefusal comes now or when awaited: 401 if the token is not valid here; 403 if it is not of a Pod of this
        node; 429 if the client has sent too many; 503 if the token can't be verified now.
        """
        digest = hashlib.sha256(token).digest()
        if found := self._answers.find(digest):
            return found
        claimed = read_token(token)
        self._refuse_early(claimed)
        return self._find_out(claimed, digest, address)

    def try_out(self) -> None:
        """Note whether tokens can be verified, by one that is not valid. May take seconds; for any thread."""
        self._outcomes.ask(self._verifier, _INVALID)

    def close(self) -> None:
        """Close the idle connections to the API server."""
        if self._cluster:
            self._cluster.close()

    def _use(self, settings: VerificationSettings) -> None:
        cluster = None
        if settings.verify == "review" or not settings.keys_file:
            is_incomplete = settings.allow_incomplete_ca
            cluster = Cluster(self._environ, self._report, allow_incomplete_ca=is_incomplete, folder=self._folder)
        self._verifier = _verifier(settings, cluster, self._report)
        self.close()
        self._cluster = cluster
        self._settings = settings
        # Reviews in progress use the old ones.
        self._answers = Answers(keep=settings.outage_seconds)
        self._reviews: dict[bytes, asyncio.Task[PodIdentity | VerifierRefusal]] = {}

    def _refuse_early(self, token: PodToken) -> None:
        """Refuse a token that its own claims show to be bad, without asking the cluster."""
        if token.identity.expiration <= time.time():
            raise invalid("the token is expired")
        check_audience(token, self._settings.audiences)
        if self._settings.issuer is not None and token.issuer != self._settings.issuer:
            raise invalid(f"the token's issuer is {shown(token.issuer)}, not {self._settings.issuer}")
        check_pod(token.identity, self._settings.node)

    async def _find_out(self, token: PodToken, digest: bytes, address: str) -> PodIdentity:
        """Return the Pod of a token after a review. Requests with the same token share one, and may leave before."""
        answers = self._answers
        with self._shares.joined(address) as share:
            review = self._reviews.get(digest)
            if review is None:
                review = self._reviews[digest] = asyncio.ensure_future(self._noted(token, digest, share, address))
            await asyncio.wait([review], timeout=KNOWN_SECONDS if answers.outlasting(digest) else None)
        answer = review.result() if review.done() else unverifiable("the review takes long")
        if isinstance(answer, PodIdentity):
            return answer
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE and (known := answers.outlasting(digest, PAUSE_SECONDS)):
            return known
        raise answer.again()

    async def _noted(
        self, token: PodToken, digest: bytes, share: ClientShare, address: str
    ) -> PodIdentity | VerifierRefusal:
        """Return what a review says, and log a refusal."""
        reviews = self._reviews
        try:
            answer = await self._review(token, digest, share)
        finally:
            del reviews[digest]
        if isinstance(answer, VerifierRefusal):
            self._refusals.note(answer, token.identity.account, address)
        return answer

    async def _review(self, token: PodToken, digest: bytes, share: ClientShare) -> PodIdentity | VerifierRefusal:
        """Return what the verifier says, and remember it."""
        answers, verifier = self._answers, self._verifier
        try:
            async with self._turns.taken(share, QUEUE_SECONDS):
                share.charge()  # Now that it is known how bad this client's other tokens were.
                answer = await in_thread(partial(self._outcomes.ask, verifier, token))
        except TimeoutError:
            return unverifiable(f"too many tokens wait: this one did not get its turn in {QUEUE_SECONDS:g} s")
        except VerifierRefusal as refusal:
            return refusal.again()
        except HTTPRefusal as refusal:  # There can't be a thread.
            return unverifiable(refusal.reason)
        answers.add(digest, answer)
        if isinstance(answer, VerifierRefusal) and answer.is_final:
            share.fine(REFUSED_COST - 1)
        return answer

    def _report(self, error: HwsignerError) -> None:
        self._log(f"warning: {error}; what was read before stays in use")


class Answers:
    """The cached answers about tokens, by their SHA-256.

    Good ones are kept for some seconds more, in case that tokens can't be verified.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time, *, keep: float = 0.0
    ) -> None:
        self._clock = clock
        self._now = now
        self._keep = keep
        # With the times at which each ends, and at which the token is verified again. The oldest are first, as all last
        # for the same time.
        self._good: dict[bytes, tuple[float, PodIdentity, float]] = {}
        self._bad: dict[bytes, tuple[float, VerifierRefusal, float]] = {}

    def __len__(self) -> int:
        return len(self._good) + len(self._bad)

    def find(self, digest: bytes) -> PodIdentity | None:
        """Return the Pod of a token, or None without an answer.

        If the token is known to be bad, this is a VerifierRefusal.
        """
        if self.outlasting(digest) and self._clock() < self._good[digest][2]:
            return self._good[digest][1]
        if (bad := self._bad.get(digest)) and self._clock() < bad[0]:
            raise bad[1].again()
        return None

    def outlasting(self, digest: bytes, pause: float = 0.0) -> PodIdentity | None:
        """Return the Pod of a token that was good, if the answer may be used when the token can't be verified.

        Another attempt to verify it is made after a pause.
        """
        end, pod, again = self._good.get(digest, (0.0, None, 0.0))
        if pod is None or self._clock() >= end or self._now() >= pod.expiration:
            return None
        self._good[digest] = end, pod, min(self._clock() + pause, end) if pause else again
        return pod

    def add(self, digest: bytes, answer: PodIdentity | VerifierRefusal) -> None:
        """Remember an answer, unless it is that the token can't be verified now."""
        if isinstance(answer, VerifierRefusal) and not answer.is_final:
            return
        end = self._clock() + CACHE_SECONDS
        self._good.pop(digest, None)
        self._bad.pop(digest, None)
        if isinstance(answer, PodIdentity):
            self._make_room(self._good, MAX_GOOD)
            self._good[digest] = end + self._keep, answer, end
        else:
            self._make_room(self._bad, MAX_BAD)
            self._bad[digest] = end, answer, end

    def _make_room(self, answers: dict[bytes, tuple[float, _T, float]], most: int) -> None:
        """Forget the answers that have ended, and the oldest if there are too many."""
        now = self._clock()
        while answers:
            oldest = next(iter(answers))
            if now < answers[oldest][0] and len(answers) < most:
                return
            del answers[oldest]


def _verifier(
    settings: VerificationSettings, cluster: Cluster | None, report: Callable[[HwsignerError], None]
) -> TokenVerifier:
    if cluster and settings.verify == "review":
        return TokenReviewer(cluster, settings.audiences, settings.node)
    from hwsigner._serving.pods.keys import FetchedKeys, KeysFile, KeyVerifier

    if not settings.issuer:
        raise UsageError('verify = "keys" needs the issuer', 'Add issuer = "https://…", the iss of the Pods\' tokens')
    keys = FetchedKeys(cluster) if cluster else KeysFile(settings.keys_file or "", report)
    return KeyVerifier(keys, audiences=settings.audiences, issuer=settings.issuer, node=settings.node)
