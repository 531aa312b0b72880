"""Protects the progress that is written where there is no terminal: a line a minute, with counts and the time left."""

import pytest

from harness.commands import shared


@pytest.fixture
def now(monkeypatch):
    """The time, which a test sets."""
    times = [1000.0]
    monkeypatch.setattr(shared.time, "monotonic", lambda: times[0])
    return times


def test_a_line_a_minute_with_counts_and_the_time_left(now, capsys):
    with shared.Bars("a sweep [/of] it") as bars:
        bars.begin(200, 40)
        for second in range(1, 181):
            now[0] = 1000.0 + second
            if second <= 120:
                bars.advance("flow seed 0", 1)
            if second == 100:
                bars.finished("flow seed 0")
        bars.advance("flow seed 1", 1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "a sweep [/of] it",
        "100 of 200 steps and evaluations, about 100.0 s left",
        "finished flow seed 0",
        "160 of 200 steps and evaluations, 1 runs finished, about 40.0 s left",
        "161 of 200 steps and evaluations, 1 runs finished, about 58.0 s left",
    ]


def test_samples_are_counted_too_and_a_quick_command_says_nothing(now, capsys):
    with shared.Bars("", lines=False) as bars:
        bars.begin(64, 0)
        bars.at(32, 64)
        assert capsys.readouterr().err == ""
        now[0] += 61
        bars.at(48, 64)
    assert capsys.readouterr().err.splitlines() == ["48 of 64 samples, about 20.3 s left"]
