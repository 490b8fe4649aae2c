"""Workers: threads that last as long as their work, of which few begin at once, and none delays the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from functools import partial

import pytest

from hwsigner._system import workers
from hwsigner._system.workers import MOST_AT_ONCE, Workers, WorkQueue


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets hanging work end; set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


class TestWorkers:
    def test_threads_end_with_their_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workers, "PATIENCE_SECONDS", 1000)
        pool, done = Workers(), threading.Barrier(MOST_AT_ONCE + 1)
        for _ in range(MOST_AT_ONCE):
            pool.start(lambda: done.wait(20))
        threads = list(pool._begun)
        assert len(threads) == MOST_AT_ONCE
        done.wait(20)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()

    def test_few_begin_at_once(self, monkeypatch: pytest.MonkeyPatch, release: threading.Event) -> None:
        monkeypatch.setattr(workers, "PATIENCE_SECONDS", 1000)
        pool, begun = Workers(), list[int]()

        def work(number: int) -> None:
            begun.append(number)
            release.wait(20)

        for number in range(3 * MOST_AT_ONCE):
            pool.start(partial(work, number))
        assert (len(pool._begun), len(pool._waiting)) == (MOST_AT_ONCE, 2 * MOST_AT_ONCE)
        release.set()
        wait_for(begun, 3 * MOST_AT_ONCE)
        assert sorted(begun) == list(range(3 * MOST_AT_ONCE))

    @pytest.mark.slow
    def test_work_that_hangs_delays_no_other(self, release: threading.Event) -> None:
        pool, done = Workers(), threading.Event()
        for _ in range(10 * MOST_AT_ONCE):
            pool.start(lambda: release.wait(20))
        pool.start(done.set)
        assert done.wait(15)

    def test_work_waits_when_no_thread_can_be_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        pool, done = Workers(), threading.Event()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            pool.start(done.set)
        assert not done.is_set()
        pool.start(lambda: None)
        assert done.wait(15)


def wait_for(begun: list[int], count: int) -> None:
    deadline = time.monotonic() + 20
    while len(begun) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


class TestWorkQueue:
    def test_acts_are_done_one_after_another(self) -> None:
        queue, done, running = WorkQueue(), list[int](), list[None]()

        def act(number: int) -> int:
            running.append(None)
            assert len(running) == 1
            running.pop()
            done.append(number)
            return number

        futures = [queue.submit(partial(act, number)) for number in range(200)]
        assert [future.result(20) for future in futures] == list(range(200))
        assert done == list(range(200))

    def test_error_is_the_future_s(self) -> None:
        queue = WorkQueue()
        failed, after = queue.submit(lambda: 1 // 0), queue.submit(lambda: 1)
        with pytest.raises(ZeroDivisionError):
            failed.result(20)
        assert after.result(20) == 1

    @pytest.mark.slow
    def test_queue_that_hangs_delays_no_other(self, release: threading.Event) -> None:
        hanging = [WorkQueue().submit(lambda: release.wait(20)) for _ in range(10 * MOST_AT_ONCE)]
        assert WorkQueue().submit(lambda: 1).result(15) == 1
        release.set()
        assert not wait(hanging, 20).not_done

    def test_queue_can_be_used_again_when_its_worker_has_ended(self) -> None:
        queue = WorkQueue()
        for number in range(100):
            assert queue.submit(lambda: number).result(20) == number  # noqa: B023  it is done before the next
