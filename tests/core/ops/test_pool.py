"""Sharing tasks out."""

import threading

import pytest
import torch

from mambaseg.ops._pool import share_out


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("n_tasks", "n_chunks"), [(1, 1), (7, 1), (7, 3), (7, 7), (5, 50), (100, 9)])
def test_every_task_runs_once(n_tasks, n_chunks):
    done = []
    share_out(lambda first, last: done.extend(range(first, last)), n_tasks, n_chunks)
    assert sorted(done) == list(range(n_tasks))


def test_small_work_stays_in_the_calling_thread():
    names = []
    share_out(lambda first, last: names.append(threading.current_thread()), 9, 1)
    assert names == [threading.current_thread()]


def test_several_threads_take_part():
    together = threading.Barrier(3)
    names = set()

    def work(first, last):
        together.wait(30)  # passes only when three threads are here at once
        names.add(threading.current_thread())

    share_out(work, 3, 3)
    assert len(names) == 3
    assert threading.current_thread() in names


@pytest.mark.parametrize("failing", range(3))
def test_an_error_in_any_thread_comes_out(failing):
    together = threading.Barrier(3)

    def work(first, last):
        together.wait(30)
        if first == failing:
            raise ValueError(f"task {first}")

    with pytest.raises(ValueError, match=f"task {failing}"):
        share_out(work, 3, 3)
    done = []
    share_out(lambda first, last: done.append(first), 3, 3)  # the pool still works
    assert sorted(done) == [0, 1, 2]


def test_a_caller_whose_helpers_are_busy_does_all_itself():
    release, begun = threading.Event(), threading.Barrier(4)

    def hold(first, last):
        begun.wait(30)
        release.wait(30)

    holder = threading.Thread(target=share_out, args=(hold, 3, 3))
    holder.start()
    begun.wait(30)  # both helpers and the holder are stuck now
    done = []
    share_out(lambda first, last: done.append(first), 4, 4)
    release.set()
    holder.join()
    assert sorted(done) == [0, 1, 2, 3]
