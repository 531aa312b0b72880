"""Protects the noise of one arm: its spread, the difference that so many seeds find, and who may ask."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from leaderboards import RecordError, estimates, load, noise
from leaderboards.declaration import Declaration

sys.path.insert(0, str(Path(__file__).parent))
from recorded_runs import write_run

DECLARED = Declaration("training_reward_area", 0.02)
REWARDS = [0.30, 0.34, 0.31, 0.37, 0.33]


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


def recorded(folder, arms=None):
    """Runs of one step each; the metric of a run is its reward."""
    for arm, rewards in (arms or {"uniform": REWARDS}).items():
        for seed, reward in enumerate(rewards):
            write_run(folder, arm, seed, [reward], {0: [["wrong"]]})
    return load(folder)


def test_the_spread_and_what_seeds_find(tmp_path):
    """Against simulation: with so many seeds, a difference of that size is found in 80% of 20,000 comparisons."""
    found = noise.noise_of(recorded(tmp_path), "uniform", DECLARED, arms=2, seeds=5)
    deviation = np.std(REWARDS, ddof=1)
    assert found.spread == pytest.approx(deviation) and found.mean == pytest.approx(np.mean(REWARDS))
    assert found.alpha == 0.025
    assert [reach.seeds for reach in found.reaches] == [3, 4, 5, 6, 8, 12, 16, 24, 32, 64]
    eight = next(reach for reach in found.reaches if reach.seeds == 8)
    random = np.random.default_rng(3)
    shared, ours, theirs = random.normal(scale=deviation, size=(3, 20_000, 8))
    arms = {
        eight.independent: (ours, theirs),
        eight.half: ((shared + ours) / math.sqrt(2), (shared + theirs) / math.sqrt(2)),
    }
    for difference, (one, other) in arms.items():
        p = stats.ttest_rel(one + difference, other, axis=1).pvalue
        assert (p <= found.alpha).mean() == pytest.approx(0.8, abs=0.012)
    assert eight.half < eight.independent < eight.at_worst
    needed = found.needed_half
    assert estimates.detectable(found.spread, needed, 0.025) <= 0.02
    assert estimates.detectable(found.spread, needed - 1, 0.025) > 0.02


def test_the_interval_of_a_spread_holds_what_it_promises():
    values = np.random.default_rng(5).normal(size=(4000, 6))
    intervals = [estimates.spread_interval(row) for row in values]
    assert np.mean([low <= 1.0 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.012)
    assert estimates.spread_interval([1.0]) is None and estimates.spread_interval([2.0, 2.0]) is None
    assert estimates.detectable(0.0, 8) is None and estimates.detectable(1.0, 1) is None
    assert estimates.detectable(math.nan, 8) is None and estimates.seeds_to_detect(0.1, math.nan) is None
    assert estimates.seeds_to_detect(1e-9, 1.0) is None, "nobody runs more than 10,000 seeds"


def test_pairing_is_measured_where_other_arms_are_there(tmp_path):
    runs = recorded(
        tmp_path, {"uniform": REWARDS, "flow": [value + 0.1 for value in REWARDS], "few": [0.1, 0.9]}
    )
    found = noise.noise_of(runs, "uniform", DECLARED, arms=2, seeds=8)
    assert found.pairs == {"flow": pytest.approx(0.0, abs=1e-12)}, "two seeds in common say nothing"
    assert noise.sheets(found)[-1].rows[0] == ("flow", "0.0000", "1.00")


def test_too_few_runs_and_none_without_the_metric(tmp_path):
    runs = recorded(tmp_path, {"uniform": REWARDS[:1], "flow": REWARDS})
    with pytest.raises(RecordError, match="takes two finished runs of uniform; there is 1"):
        noise.noise_of(runs, "uniform", DECLARED, 1, 8)
    with pytest.raises(RecordError, match="does not give the declared metric, evaluation_area"):
        noise.noise_of(runs, "flow", Declaration("evaluation_area", 0.02), 1, 8)


def test_seeds_that_all_agree_plan_nothing(tmp_path):
    found = noise.noise_of(recorded(tmp_path, {"uniform": [0.5, 0.5]}), "uniform", DECLARED, 1, 8)
    assert found.spread == 0 and found.interval is None and not found.reaches
    assert len(noise.sheets(found)) == 1
    assert "there is no spread" in noise.to_svg(found, "x")


def test_the_plot_is_whole_and_shows_every_seed(tmp_path):
    found = noise.noise_of(recorded(tmp_path), "uniform", DECLARED, 2, 8)
    root = ElementTree.fromstring(noise.to_svg(found, "a < b & c"))
    marks = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert [mark for mark in marks if mark.startswith("seed ")] == [
        f"seed {seed}: {value:.4f}" for seed, value in enumerate(REWARDS)
    ]
    assert sum("seeds: " in mark for mark in marks) >= 2 * len(found.reaches)
    width, height = (float(root.get(name)) for name in ("width", "height"))
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 < float(circle.get("cx")) < width and 0 < float(circle.get("cy")) < height
