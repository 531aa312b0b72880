"""Protects a record that is written in the background: it neither runs behind without bound, nor is lost in silence."""

import threading
from types import SimpleNamespace

import pytest

from harness.runs.ahead import WAITING, Ahead
from leaderboards import RecordError

ROW = {
    "group": 0, "verdict": "correct", "reward": 1.0, "response_ids": [5, 1], "weights": [1.0, 1.0],
    "sampler_logprobs": [0.0, 0.0], "trainer_logprobs": [0.0, 0.0], "abstained": None,
}  # fmt: skip


def test_the_record_does_not_run_behind_the_training_by_more_than_a_few_steps():
    """Else a slow disk would fill the memory with steps that wait for it."""
    go, written = threading.Event(), []

    def write(table, step, rows):
        go.wait(60)
        written.append((table, step))

    ahead = Ahead(SimpleNamespace(write=write), None)
    for step in range(WAITING + 1):
        ahead.write([ROW], {"step": step}, None)
    assert not written
    threading.Timer(0.2, go.set).start()
    ahead.write([ROW], {"step": WAITING + 1}, None)
    assert written[:2] == [("rollouts", 0), ("steps", 0)], "one step too many waits for the first"
    ahead.settle()
    assert written == [(table, step) for step in range(WAITING + 2) for table in ("rollouts", "steps")]


@pytest.mark.parametrize("end", ["release", "settle"])
def test_a_step_that_is_held_is_written_when_the_backward_comes_or_at_the_end(end):
    """Not before, beside a generation, which it would slow down; and never not at all."""
    written = []
    ahead = Ahead(SimpleNamespace(write=lambda table, step, rows: written.append((table, step))), None)
    for step in range(2):
        ahead.hold([ROW], {"step": step}, None)
    assert not ahead.pending and not written
    getattr(ahead, end)()
    ahead.thread.shutdown()
    assert written == [(table, step) for step in range(2) for table in ("rollouts", "steps")]
    ahead.release()
    assert not ahead.held, "a step is written once"


def test_what_was_lost_is_an_error_of_the_next_step_or_of_the_end():
    def write(table, step, rows):
        raise RecordError("the disk is full")

    ahead = Ahead(SimpleNamespace(write=write), None)

    def more():
        for step in range(WAITING + 3):
            ahead.write([ROW], {"step": step}, None)

    with pytest.raises(RecordError, match="the disk is full"):
        more()
    last = Ahead(SimpleNamespace(write=write), None)
    last.write([ROW], {"step": 0}, None)
    with pytest.raises(RecordError, match="the disk is full"):
        last.settle()
