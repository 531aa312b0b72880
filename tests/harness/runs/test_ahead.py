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
