"""Protects the figures of replay: they are those that numpy works out by hand."""

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from harness.studies import figures


def test_signal_to_noise_by_hand():
    """g = (3, 1) and (1, 1): mean (2, 1), spread 2, |G|^2 = 5 - 2/2 = 4, ratio 2."""
    gradients = np.array([[3.0, 1.0], [1.0, 1.0]])
    assert figures.signal_to_noise(figures.moments(gradients, gradients)) == pytest.approx(2.0)


def test_signal_to_noise_against_a_plain_computation():
    source = np.random.default_rng(0)
    gradients = source.normal(size=(7, 5)) + [1, 0, 0, 2, 0]

    def plain(table):
        mean, count = table.mean(0), len(table)
        spread = ((table - mean) ** 2).sum() / (count - 1)
        return (mean @ mean - spread / count) / spread

    found = figures.moments(gradients, gradients)
    assert figures.signal_to_noise(found) == pytest.approx(plain(gradients))
    left_out = figures.without_each(found)
    expected = [plain(np.delete(gradients, index, 0)) for index in range(7)]
    np.testing.assert_allclose(left_out, expected)
    low, high = figures.jackknife(plain(gradients), left_out)
    error = math.sqrt(6 / 7 * ((left_out - left_out.mean()) ** 2).sum())
    assert (low + high) / 2 == pytest.approx(plain(gradients))
    assert (high - low) / 2 == pytest.approx(2.446912 * error)


def test_the_ratio_is_unbiased_where_there_is_no_signal():
    source = np.random.default_rng(1)
    ratios = [
        figures.signal_to_noise(figures.moments(table, table)) for table in source.normal(size=(400, 8, 20))
    ]
    assert abs(np.mean(ratios)) < 4 * np.std(ratios) / 20


def test_cosines_by_hand():
    """Against the sum of the other batches' uniform gradients, and against uniform's own on the same batch."""
    uniform = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    gradients = np.array([[1.0, 1.0], [0.0, 5.0], [0.0, 0.0]])
    moments = figures.moments(gradients, uniform)
    # The others of the first batch: (3, 2); of the second: (4, 0); the third gradient has no direction.
    value, _ = figures.to_large(moments, figures.moments(uniform, uniform))
    assert value == pytest.approx((5 / math.sqrt(2 * 13) + 0.0) / 2)
    np.testing.assert_allclose(moments.with_uniform[:2], [1 / math.sqrt(2), 1.0])
    assert math.isnan(moments.with_uniform[2])


def test_the_cosine_to_the_large_batch_is_jackknifed_over_batches(monkeypatch):
    """A batch that is left out leaves the rows and the sums; and blocks of columns change nothing."""
    source = np.random.default_rng(5)
    uniform = source.normal(size=(6, 40)) + 0.3
    gradients = uniform + source.normal(size=(6, 40))

    def plain(rows, others):
        sums = others.sum(0) - others
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(sums, axis=1)
        return float(((rows * sums).sum(1) / lengths).mean())

    monkeypatch.setattr(figures, "BLOCK", 7)
    value, interval = figures.to_large(figures.moments(gradients, uniform), figures.moments(uniform, uniform))
    left_out = np.array([plain(np.delete(gradients, k, 0), np.delete(uniform, k, 0)) for k in range(6)])
    assert value == pytest.approx(plain(gradients, uniform))
    assert interval == pytest.approx(figures.jackknife(value, left_out))


def test_the_interval_of_the_cosine_to_the_large_batch_covers():
    """16 batches, a ratio of 0.1: Student's over the cosines covers 88%, since they share batches."""
    source = np.random.default_rng(6)

    def drawn():
        table = source.normal(size=(16, 200))
        table[:, 0] += math.sqrt(20)
        moments = figures.moments(table, table)
        return figures.to_large(moments, moments)

    truth = np.mean([drawn()[0] for _ in range(500)])
    intervals = [drawn()[1] for _ in range(200)]
    assert np.mean([low < truth < high for low, high in intervals]) >= 0.92


def test_no_direction_gives_no_cosine_to_the_large_batch():
    """A single batch, gradients of 0, and another batch whose uniform gradient is 0."""
    for table in (np.ones((1, 3)), np.zeros((4, 3))):
        moments = figures.moments(table, table)
        assert figures.to_large(moments, moments) is None
    lonely = figures.moments(np.eye(2), np.array([[1.0, 1.0], [0.0, 0.0]]))
    uniform = np.array([[1.0, 1.0], [0.0, 0.0]])
    value, interval = figures.to_large(lonely, figures.moments(uniform, uniform))
    assert value == pytest.approx(1 / math.sqrt(2)) and interval is None, (
        "the second batch points along the first"
    )


def test_turns_by_hand():
    """45 degrees, the same direction at another length, the opposite one, a right angle, and no direction."""
    uniform = np.array([[1.0, 0.0], [0.1, 0.7], [3.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    gradients = np.array([[1.0, 1.0], [0.3, 2.1], [-1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    turns = figures.moments(gradients, uniform).turns
    np.testing.assert_allclose(turns[:4], [1 - 1 / math.sqrt(2), 0.0, 2.0, 1.0], atol=1e-15)
    assert (turns[:4] >= 0).all(), "rounding makes no negative turn"
    assert math.isnan(turns[4])


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [(np.ones((1, 3)), math.nan), (np.zeros((4, 3)), math.nan), (np.ones((4, 3)), math.inf)],
)
def test_degenerate_gradients_give_no_number(gradients, expected):
    """One batch, no signal in any, and batches that are all alike."""
    found = figures.moments(gradients, gradients)
    ratio = figures.signal_to_noise(found)
    assert ratio == expected or (math.isnan(ratio) and math.isnan(expected))
    assert figures.jackknife(ratio, figures.without_each(found)) is None


def test_rank_correlations_with_ties_and_constants():
    rows = np.array([[1, 2, 3, 4.0], [4, 3, 2, 1.0], [1, 1, 5, 5.0], [7, 7, 7, 7.0]])
    found = figures.rank_correlations(rows)
    assert found[0, 1] == pytest.approx(-1) and found[2, 2] == pytest.approx(1)
    # ranks 1 2 3 4 and 1.5 1.5 3.5 3.5: covariance 4, squares 5 and 4
    assert found[0, 2] == pytest.approx(4 / math.sqrt(20))
    assert np.isnan(found[3]).all()


def test_top_sets_break_ties_at_random():
    np.testing.assert_allclose(figures.in_top(np.array([1.5, 1.5, 1, 1, 1]), 2), [1, 1, 0, 0, 0])
    np.testing.assert_allclose(figures.in_top(np.array([3.0, 1, 1, 1]), 2), [1, 1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(figures.in_top(np.ones(5), 2), [0.4] * 5)
    np.testing.assert_allclose(figures.in_top(np.ones(2), 0), [0, 0])


def test_roc_auc_is_the_share_of_pairs_that_are_in_order_ties_half():
    """By counting pairs, and by Mann and Whitney's U, on scores with and without ties."""
    source = np.random.default_rng(3)
    for scores in (source.normal(size=40), source.integers(4, size=40), np.array([2.0, 1, 3, 3])):
        positive = source.random(len(scores)) < 0.4
        positive[:2] = True, False
        above, below = scores[positive], scores[~positive]
        pairs = np.sign(above[:, None] - below[None, :])
        assert figures.roc_auc(scores, positive) == pytest.approx(((pairs + 1) / 2).mean())
        u = mannwhitneyu(above, below).statistic
        assert figures.roc_auc(scores, positive) == pytest.approx(u / (len(above) * len(below)))


@pytest.mark.parametrize("positive", [np.zeros(4, dtype=bool), np.ones(4, dtype=bool)])
def test_roc_auc_of_one_kind_of_token_is_no_number(positive):
    assert math.isnan(figures.roc_auc(np.arange(4.0), positive))


def test_a_mean_leaves_out_what_is_no_number():
    mean, (low, high) = figures.mean_level([1.0, math.nan, 3.0, math.inf])
    assert mean == 2 and high - mean == pytest.approx(12.7062, abs=1e-3) == mean - low
    assert figures.mean_level([1.0]) == (1.0, None)
    assert figures.mean_level([math.nan]) is None


def test_categories():
    found = {piece: figures.category(piece) for piece in (" 12", "=", " +", ".", "\n", " ", "", "a1", "####")}
    assert found == {
        " 12": "digits", "=": "operators", " +": "operators", ".": "delimiters", "\n": "delimiters",
        " ": None, "": None, "a1": None, "####": "delimiters",
    }  # fmt: skip
