"""The checks of a token: one review for all who wait for it, limits for clients, and cached answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from http import HTTPStatus

import pytest

from hwsigner._serving.pods import verification
from hwsigner._serving.pods.limits import MAX_REVIEWS, MAX_WAITING, OTHERS_TURNS
from hwsigner._serving.pods.refusals import MAX_KINDS, VerifierRefusal, invalid, unverifiable
from hwsigner._serving.pods.token import PodIdentity, PodToken
from hwsigner._serving.pods.verification import (
    CACHE_SECONDS,
    MAX_BAD,
    MAX_GOOD,
    PAUSE_SECONDS,
    Answers,
)
from hwsigner._serving.responses import HTTPRefusal
from serving.pods.api_server import RSA_ISSUER, ApiServer, claims, encode
from serving.pods.verifying import KEYS, REVIEW, Pods, Ticking

HEADER = encode({"alg": "RS256", "kid": "k"})


@cache
def token(number: int) -> str:
    """Return a token of the right form, which nobody signed. It is the same each time, and lasts for an hour."""
    return f"{HEADER}.{encode(claims(jti=str(number)))}.{encode(b'x')}"


class Verifier:
    """Says what a test wants of tokens, when it wants."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refusal: VerifierRefusal | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.running = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, token: PodToken) -> PodIdentity:
        with self._lock:
            self.asked.append(token.text)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            assert self.may_answer.wait(30)
        finally:
            with self._lock:
                self.running -= 1
        if self.refusal:
            raise self.refusal
        return PodIdentity("team-a", "web", "web-1", "uid", "node1", time.time() + 600)

    async def until(self, number: int) -> None:
        """Wait until a number of tokens was asked about."""
        while len(self.asked) < number:
            await asyncio.sleep(0.005)


@pytest.fixture
def verifier(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> Iterator[Verifier]:
    fake = Verifier()
    monkeypatch.setattr(pods.verification, "_verifier", fake)
    yield fake
    fake.may_answer.set()


@pytest.fixture
def still(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes, however busy the machine is: shares don't refill, and answers stay in use."""
    now = time.monotonic()
    for counting in (pods.verification._shares, pods.verification._answers):
        monkeypatch.setattr(counting, "_clock", lambda: now)


def statuses(answers: list[PodIdentity | HTTPRefusal]) -> list[int]:
    return [200 if isinstance(answer, PodIdentity) else int(answer.status) for answer in answers]


def test_all_who_wait_with_the_same_token_cause_one_review(pods: Pods, verifier: Verifier) -> None:
    verifier.may_answer.clear()

    async def run() -> list[PodIdentity | HTTPRefusal]:
        asking = [asyncio.ensure_future(pods.ask(token(1))) for _ in range(50)]
        await verifier.until(1)
        verifier.may_answer.set()
        return list(await asyncio.gather(*asking))

    assert statuses(asyncio.run(run())) == [200] * 50
    assert len(verifier.asked) == 1


def test_client_that_leaves_takes_no_answer_from_others(pods: Pods, verifier: Verifier) -> None:
    verifier.may_answer.clear()

    async def run() -> PodIdentity | HTTPRefusal:
        first = asyncio.ensure_future(pods.ask(token(1)))
        await verifier.until(1)
        second = asyncio.ensure_future(pods.ask(token(1)))
        await asyncio.sleep(0)
        first.cancel()
        verifier.may_answer.set()
        return await second

    assert statuses([asyncio.run(run())]) == [200]
    assert len(verifier.asked) == 1


def test_bad_token_is_reviewed_once_in_30_s(pods: Pods, verifier: Verifier) -> None:
    verifier.refusal = invalid("no")
    assert [pods.status(token(1)) for _ in range(100)] == [401] * 100
    assert len(verifier.asked) == 1


def test_token_that_could_not_be_verified_is_asked_about_again(pods: Pods, verifier: Verifier) -> None:
    verifier.refusal = unverifiable("the API server is gone")
    assert [pods.status(token(1)) for _ in range(3)] == [503] * 3
    verifier.refusal = None
    assert pods.status(token(1)) == 200
    assert len(verifier.asked) == 4
    assert len(pods.log) == 1


@pytest.mark.usefixtures("still")
def test_flood_of_bad_tokens_is_stopped_and_others_are_not(pods: Pods, verifier: Verifier) -> None:
    verifier.refusal = invalid("no", "the API server says no")
    answers = [pods.get(token(number), "10.0.0.66") for number in range(200)]
    assert statuses(answers)[:10] == [401] * 10
    assert set(statuses(answers)) == {401, 429}
    assert len(verifier.asked) < 30
    refused = [answer for answer in answers if isinstance(answer, HTTPRefusal) and answer.status == 429]
    assert {answer.headers[b"retry-after"] for answer in refused} == {b"1"}
    assert len(pods.log) == 1
    verifier.refusal = None
    assert pods.status(token(1000), "10.0.0.1") == 200


@pytest.mark.usefixtures("still")
def test_flood_of_bad_tokens_does_not_stop_a_known_token_of_the_same_address(pods: Pods, verifier: Verifier) -> None:
    assert pods.status(token(1)) == 200
    verifier.refusal = invalid("no")
    while pods.status(token(len(verifier.asked) + 10)) != 429:
        pass
    assert pods.status(token(1)) == 200


def test_100_pods_behind_one_address_start_at_once(pods: Pods, verifier: Verifier) -> None:
    async def run() -> list[PodIdentity | HTTPRefusal]:
        answers: list[PodIdentity | HTTPRefusal] = []
        for begin in (0, 50):
            answers += await asyncio.gather(*(pods.ask(token(begin + number)) for number in range(50)))
        return answers

    assert statuses(asyncio.run(run())) == [200] * 100


def test_hanging_reviews_of_one_address_leave_turns_to_others(pods: Pods, verifier: Verifier) -> None:
    verifier.may_answer.clear()
    good = token(1000)

    async def run() -> tuple[int, list[PodIdentity | HTTPRefusal]]:
        lying = [asyncio.ensure_future(pods.ask(token(number), "10.0.0.66")) for number in range(MAX_WAITING)]
        await verifier.until(MAX_REVIEWS - OTHERS_TURNS)
        honest = asyncio.ensure_future(pods.ask(good, "10.0.0.1"))
        await verifier.until(MAX_REVIEWS - OTHERS_TURNS + 1)
        running = verifier.running
        refused = await pods.ask(token(2000), "10.0.0.66")
        verifier.may_answer.set()
        await asyncio.gather(*lying)
        return running, [await honest, refused]

    running, answers = asyncio.run(run())
    assert running == MAX_REVIEWS - OTHERS_TURNS + 1
    assert verifier.asked[running - 1] == good
    assert statuses(answers) == [200, 429]


def test_reviews_at_a_time_are_bounded(pods: Pods, verifier: Verifier) -> None:
    verifier.may_answer.clear()

    async def run() -> list[PodIdentity | HTTPRefusal]:
        asking = [asyncio.ensure_future(pods.ask(token(number), f"10.0.0.{number}")) for number in range(50)]
        await verifier.until(MAX_REVIEWS)
        await asyncio.sleep(0.05)
        verifier.may_answer.set()
        return list(await asyncio.gather(*asking))

    assert statuses(asyncio.run(run())) == [200] * 50
    assert verifier.most == MAX_REVIEWS


def test_review_that_gets_no_turn_is_503_in_time(
    pods: Pods, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "QUEUE_SECONDS", 0.1)
    verifier.may_answer.clear()

    async def run() -> list[PodIdentity | HTTPRefusal]:
        first = [asyncio.ensure_future(pods.ask(token(number), f"10.0.0.{number}")) for number in range(MAX_REVIEWS)]
        await verifier.until(MAX_REVIEWS)
        late = await pods.ask(token(99), "10.0.0.99")
        verifier.may_answer.set()
        return [*await asyncio.gather(*first), late]

    assert statuses(asyncio.run(run())) == [200] * MAX_REVIEWS + [503]
    assert "did not get its turn" in pods.log[0]
    assert len(verifier.asked) == MAX_REVIEWS


def test_failure_of_the_verifier_itself_is_503_and_shows_no_token(
    pods: Pods, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(token: PodToken) -> PodIdentity:
        raise ZeroDivisionError(token.text)

    monkeypatch.setattr(pods.verification, "_verifier", fail)
    assert pods.status(token(1)) == 503
    assert "internal error: ZeroDivisionError" in pods.log[0]
    assert token(1) not in pods.log[0]


def test_log_has_one_line_for_each_kind_and_address_in_30_s(pods: Pods, verifier: Verifier) -> None:
    verifier.refusal = invalid("no", "the API server says no")
    for number in range(5):
        pods.get(token(number), "10.0.0.1")
        pods.get(token(number + 100), "10.0.0.2")
    assert [line.partition(", from ")[2] for line in pods.log] == [
        "10.0.0.1: the API server says no",
        "10.0.0.2: the API server says no",
    ]


def test_log_remembers_a_bounded_number_of_addresses(pods: Pods, verifier: Verifier) -> None:
    refusals = pods.verification._refusals
    for number in range(MAX_KINDS + 100):
        refusals.note(invalid("no", "no"), "team-a/web", f"10.{number >> 8}.0.{number & 255}")
    assert len(refusals) == MAX_KINDS


def test_settings_that_change_forget_what_was_known(pods: Pods, api: ApiServer, verifier: Verifier) -> None:
    assert pods.status(token(1)) == 200
    pods.verification.configure(pods.verification._settings)
    assert pods.status(token(1)) == 200
    assert len(verifier.asked) == 1
    pods.verification.configure(pods.verification._settings._replace(audiences=("other",)))
    assert pods.status(token(1)) == 401


def test_settings_that_can_t_be_used_leave_the_former_ones(pods: Pods, verifier: Verifier) -> None:
    assert pods.status(token(1)) == 200
    with pytest.raises(Exception, match="jwks"):
        pods.verification.configure(pods.verification._settings._replace(verify="keys", keys_file="/missing/jwks"))
    assert pods.status(token(1)) == 200


def test_answer_that_comes_after_new_settings_is_not_remembered(
    pods: Pods, verifier: Verifier, make_pods: Callable[..., Pods]
) -> None:
    verifier.may_answer.clear()

    async def run() -> None:
        asking = asyncio.ensure_future(pods.ask(token(1)))
        await verifier.until(1)
        pods.verification.configure(pods.verification._settings._replace(issuer=None))
        verifier.may_answer.set()
        await asking

    asyncio.run(run())
    assert len(pods.verification._answers) == 0


def test_review_goes_on_when_its_request_has_left_and_the_next_one_finds_its_answer(
    pods: Pods, verifier: Verifier
) -> None:
    verifier.may_answer.clear()

    async def run() -> PodIdentity | HTTPRefusal:
        asking = asyncio.ensure_future(pods.ask(token(1)))
        await verifier.until(1)
        asking.cancel()
        await asyncio.wait([asking])
        verifier.may_answer.set()
        await asyncio.wait(pods.verification._reviews.values())
        return await pods.ask(token(1))

    assert statuses([asyncio.run(run())]) == [200]
    assert len(verifier.asked) == 1


@pytest.fixture
def clock(pods: Pods, monkeypatch: pytest.MonkeyPatch) -> Ticking:
    """The clock of the answers."""
    clock = Ticking()
    monkeypatch.setattr(pods.verification._answers, "_clock", clock)
    return clock


def test_good_token_counts_5_minutes_more_when_it_can_t_be_verified(
    pods: Pods, verifier: Verifier, clock: Ticking
) -> None:
    assert pods.status(token(1)) == 200
    verifier.refusal = unverifiable("the API server is gone")
    clock.now += CACHE_SECONDS
    assert [pods.status(token(1)) for _ in range(100)] == [200] * 100
    assert len(verifier.asked) == 2
    clock.now += PAUSE_SECONDS
    assert pods.status(token(1)) == 200
    assert len(verifier.asked) == 3
    assert pods.status(token(2)) == 503
    clock.now += 300 - PAUSE_SECONDS - 0.1
    assert pods.status(token(1)) == 200
    clock.now += 0.1
    assert pods.status(token(1)) == 503
    assert "could not verify a token that says team-a/web" in pods.log[0]


def test_good_token_does_not_count_longer_when_the_policy_says_0(
    pods: Pods, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Ticking()
    monkeypatch.setattr(pods.verification, "_answers", Answers(clock, keep=0.0))
    assert pods.status(token(1)) == 200
    verifier.refusal = unverifiable("the API server is gone")
    clock.now += CACHE_SECONDS
    assert pods.status(token(1)) == 503


def test_good_token_that_the_api_server_refuses_counts_no_longer(
    pods: Pods, verifier: Verifier, clock: Ticking
) -> None:
    assert pods.status(token(1)) == 200
    verifier.refusal = invalid("the Pod is gone")
    clock.now += CACHE_SECONDS
    assert pods.status(token(1)) == 401
    verifier.refusal = unverifiable("the API server is gone")
    clock.now += CACHE_SECONDS
    assert pods.status(token(1)) == 503


def test_good_token_is_answered_in_half_a_second_when_the_api_server_hangs_and_refused_once_it_says_no(
    pods: Pods, verifier: Verifier, clock: Ticking
) -> None:
    assert pods.status(token(1)) == 200
    verifier.may_answer.clear()
    verifier.refusal = invalid("the Pod is gone")
    clock.now += CACHE_SECONDS

    async def run() -> list[PodIdentity | HTTPRefusal]:
        found = [await pods.ask(token(1)) for _ in range(10)]
        verifier.may_answer.set()
        await asyncio.wait(pods.verification._reviews.values())
        return [*found, await pods.ask(token(1))]

    assert statuses(asyncio.run(run())) == [200] * 10 + [401]
    assert len(verifier.asked) == 2


def pod(expiration: float = 1e12) -> PodIdentity:
    return PodIdentity("team-a", "web", "web-1", "uid", "node1", expiration)


def test_answer_is_used_for_30_s() -> None:
    clock = Ticking()
    answers = Answers(clock)
    answers.add(b"good", pod())
    answers.add(b"bad", invalid("no"))
    clock.now += CACHE_SECONDS - 0.1
    assert answers.find(b"good") == pod()
    with pytest.raises(HTTPRefusal):
        answers.find(b"bad")
    clock.now += 0.1
    assert (answers.find(b"good"), answers.find(b"bad")) == (None, None)


def test_answer_is_not_used_after_the_token_s_end() -> None:
    now = Ticking()
    answers = Answers(Ticking(), now)
    answers.add(b"good", pod(1010.0))
    now.now = 1009.9
    assert answers.find(b"good")
    now.now = 1010.0
    assert answers.find(b"good") is None


def test_failure_is_not_remembered() -> None:
    answers = Answers()
    answers.add(b"x", unverifiable("down"))
    answers.add(b"y", VerifierRefusal(HTTPStatus.TOO_MANY_REQUESTS, "too many"))
    assert len(answers) == 0


def test_answers_are_bounded_and_bad_ones_replace_no_good_ones() -> None:
    answers = Answers()
    answers.add(b"first", pod())
    for number in range(MAX_BAD * 2):
        answers.add(b"bad %d" % number, invalid("no"))
    assert answers.find(b"first")
    assert len(answers) == MAX_BAD + 1
    for number in range(MAX_GOOD):
        answers.add(b"good %d" % number, pod())
    assert len(answers) == MAX_BAD + MAX_GOOD
    assert answers.find(b"first") is None
    assert answers.find(b"good 0")


def test_answers_that_are_over_make_room() -> None:
    clock = Ticking()
    answers = Answers(clock)
    for number in range(100):
        answers.add(b"%d" % number, pod())
    clock.now += CACHE_SECONDS
    answers.add(b"new", pod())
    assert len(answers) == 1


def test_token_that_becomes_bad_is_not_good_any_more() -> None:
    answers = Answers()
    answers.add(b"x", pod())
    answers.add(b"x", invalid("no"))
    with pytest.raises(HTTPRefusal):
        answers.find(b"x")
    assert len(answers) == 1


@pytest.mark.parametrize("settings", [REVIEW, KEYS], ids=["review", "keys"])
def test_token_of_a_pod_on_this_node_is_accepted(make_pods: Callable[..., Pods], settings: object) -> None:
    said = claims()
    answer = make_pods(settings).get(RSA_ISSUER.sign(said))
    assert answer == PodIdentity("team-a", "web", "web-1", "8f020469-114a-4cac-acf7-3503ccc632b6", "node1", said["exp"])


def test_review_is_asked_for_once_in_30_s(pods: Pods, api: ApiServer) -> None:
    token = RSA_ISSUER.token()
    assert [pods.status(token) for _ in range(5)] == [200] * 5
    [review] = api.reviews
    assert review["spec"] == {"token": token, "audiences": ["hwsigner"]}


def test_reason_for_the_client_has_no_words_of_the_api_server(pods: Pods) -> None:
    answer = pods.get(RSA_ISSUER.token()[:-8] + "AAAAAAAA")
    assert isinstance(answer, HTTPRefusal)
    assert answer.reason == "the token is not valid in this cluster"
    assert "error in cryptographic primitive" in "".join(pods.log)
