"""Protects the comparison of two policies on the same items; the arithmetic against statsmodels."""

import json
import math

import numpy as np
import pytest
import statsmodels.api as statsmodels
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.power import TTestPower

from leaderboards.evaluations import read_evaluation
from leaderboards.format import RecordError
from leaderboards.paired_items import Items, clustered_error, compare_items
from tests.harness.test_cli import run


def items(values, clusters=None, task="t", questions=None):
    return Items(task, {str(name): value for name, value in values.items()}, clusters or {}, questions or {})


def drawn(seed, count, share, samples=1):
    generator = np.random.default_rng(seed)
    return items({name: (generator.random(samples) < share).astype(float).tolist() for name in range(count)})


def test_interval_and_p_are_those_of_statsmodels():
    one, other = drawn(0, 200, 0.5), drawn(1, 200, 0.6)
    compared = compare_items(one, other)
    differences = [other.values[name][0] - one.values[name][0] for name in one.values]
    theirs = statsmodels.OLS(differences, np.ones(200)).fit()
    assert compared.difference == pytest.approx(theirs.params[0])
    assert compared.interval == pytest.approx(tuple(theirs.conf_int()[0]))
    assert compared.p == pytest.approx(theirs.pvalues[0])
    gained, lost = len(compared.gained), len(compared.lost)
    assert compared.mcnemar == pytest.approx(their_mcnemar([[0, gained], [lost, 0]], exact=True).pvalue)
    effect = compared.wanted / np.std(differences, ddof=1)
    assert compared.needed == math.ceil(TTestPower().solve_power(effect, alpha=0.05, power=0.8))


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_what_few_items_find_is_computed_by_the_t_that_tests_them(alpha):
    """By normal quantiles five items would find a difference a third smaller than they do."""
    one = items(dict.fromkeys(range(5), [0.0]))
    differences = [0.1, 0.3, 0.2, 0.5, 0.25]
    other = items({name: [value] for name, value in enumerate(differences)})
    compared = compare_items(one, other, alpha, wanted=0.1)
    power = TTestPower().power(compared.detectable / np.std(differences, ddof=1), 5, alpha)
    assert power == pytest.approx(0.8, abs=1e-3)
    effect = 0.1 / np.std(differences, ddof=1)
    assert compared.needed == math.ceil(TTestPower().solve_power(effect, alpha=alpha, power=0.8))


def test_clusters_count_as_one_item_each():
    """Ten items a cluster, all alike, find what one item of each would, and ten times as many are needed."""
    shifts = np.random.default_rng(5).normal(0.1, 0.3, 8)
    alike = items({name: [0.0] for name in range(80)}, {str(name): str(name % 8) for name in range(80)})
    single = items({name: [0.0] for name in range(8)})
    many = compare_items(alike, items({name: [shifts[name % 8]] for name in range(80)}), wanted=0.2)
    few = compare_items(single, items({name: [shifts[name]] for name in range(8)}), wanted=0.2)
    assert many.detectable == pytest.approx(few.detectable) and many.needed == 10 * few.needed


def test_clusters_are_those_of_statsmodels():
    generator = np.random.default_rng(3)
    clusters = generator.integers(0, 12, 90)
    differences = generator.normal(size=90) + clusters / 4
    error, groups = clustered_error(differences, [str(each) for each in clusters])
    fit = statsmodels.OLS(differences, np.ones(90)).fit(
        cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True
    )
    assert groups == 12 and error == pytest.approx(fit.bse[0])
    names = {str(name): str(cluster) for name, cluster in enumerate(clusters)}
    one = items({name: [0.0] for name in range(90)}, names)
    compared = compare_items(one, items(dict(enumerate([[value] for value in differences]))))
    assert compared.clusters == 12 and compared.interval == pytest.approx(tuple(fit.conf_int()[0]))


def test_several_samples_give_pass_at_k_and_no_mcnemar():
    one, other = drawn(0, 50, 0.3, samples=4), drawn(1, 50, 0.5, samples=4)
    compared = compare_items(one, other)
    assert compared.mcnemar is None and list(compared.passes) == [1, 2, 4]
    assert compared.passes[1] == pytest.approx(compared.means)
    assert compared.passes[4][0] == np.mean([max(values) for values in one.values.values()])
    pair = np.mean([1 - math.comb(4 - int(sum(v)), 2) / 6 for v in other.values.values()])
    assert compared.passes[2][1] == pytest.approx(pair)
    uneven = items({name: values[: 1 + (name == "3")] for name, values in one.values.items()})
    assert compare_items(uneven, other).passes == {}


def test_mcnemar_takes_items_as_independent_and_is_left_out_for_clusters():
    one, other = items({1: [0], 2: [0], 3: [1]}), items({1: [1], 2: [1], 3: [1]})
    assert compare_items(one, other).mcnemar == 0.5
    both = {"1": "a", "2": "a", "3": "b"}
    clustered = [items({name: each.values[name] for name in "123"}, both) for each in (one, other)]
    assert compare_items(*clustered).mcnemar is None


def test_degenerate_evaluations():
    same = drawn(0, 20, 0.5)
    compared = compare_items(same, same)
    assert (compared.difference, compared.interval, compared.p, compared.needed) == (0, None, None, None)
    assert compared.mcnemar == 1 and not compared.gained and not compared.lost
    assert compare_items(items({1: [0.0]}), items({1: [1.0]})).interval is None
    assert compare_items(items({1: [0], 2: [0]}), items({1: [1], 2: [1]})).interval is None


def test_different_items_are_refused_or_left_out_when_asked():
    one, other = items({1: [0.0], 2: [1.0], 3: [0.0]}), items({2: [1.0], 3: [1.0], 4: [1.0]})
    with pytest.raises(
        RecordError, match=r"different items: 1 only in A, 1 only in B \(1 for one\); --shared .* 2 "
    ):
        compare_items(one, other)
    assert compare_items(one, other, shared=True).gained == (("3", 0.0, 1.0),)
    with pytest.raises(RecordError, match="different items"):
        compare_items(one, items({9: [1.0]}), shared=True)
    with pytest.raises(RecordError, match="item 1 is another question"):
        compare_items(items({1: [0.0]}, questions={"1": "a"}), items({1: [0.0]}, questions={"1": "b"}))


def ours(path, rewards, task="decision"):
    rows = [{"policy": "0f", "task": task}]
    rows += [
        {
            "task": "decision",
            "problem_id": f"decision/test/{item}",
            "sample": number,
            "text": "",
            "reward": reward,
        }
        for item, of_item in enumerate(rewards)
        for number, reward in enumerate(of_item)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lm_eval(folder, values, metrics=("exact_match",), filters=("none",), stamp="2026-01-01T00-00-00"):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "doc_id": item,
            "doc": {"passage": item // 2},
            "doc_hash": f"h{item}",
            "filter": filter,
            "metrics": metrics,
        }
        | dict.fromkeys(metrics, value)
        for filter in filters
        for item, value in enumerate(values)
    ]
    (folder / f"samples_my_task_{stamp}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_two_evaluations_of_ours_on_the_command_line(capsys, tmp_path):
    one, other = ours(tmp_path / "a", [[0], [1], [0], [None]]), ours(tmp_path / "b", [[1], [1], [0], [None]])
    status, output, _ = run(capsys, "compare-policies", one, other, "--export", tmp_path / "flips.csv")
    assert status == 0 and "1 gained, 0 lost" in output and "+0.3333" in output and "1 of A, 1 of B" in output
    assert "decision,decision/test/0,0,1" in (tmp_path / "flips.csv").read_text()


def test_one_task_with_other_options_asks_other_questions(capsys, tmp_path):
    one, other = ours(tmp_path / "a", [[0]]), ours(tmp_path / "b", [[1]], "decision:variant=chain")
    status, _, errors = run(capsys, "compare-policies", one, other)
    assert status == 2 and "another question in A than in B" in errors


def test_two_folders_of_lm_eval_on_the_command_line(capsys, tmp_path):
    one = lm_eval(tmp_path / "a" / "model", [0, 1, 0, 1, 0, 0])
    other = lm_eval(tmp_path / "b" / "model", [1, 1, 0, 1, 1, 0])
    status, output, _ = run(
        capsys, "compare-policies", tmp_path / "a", tmp_path / "b", "--cluster", "passage"
    )
    assert status == 0 and "my_task: B against A" in output and "6 in 3 clusters" in output
    (tmp_path / "c").mkdir()
    whole = [lm_eval(tmp_path / "c" / side, values) for side, values in (("a", [0, 1]), ("b", [1, 1]))]
    assert "(one cluster)" in run(capsys, "compare-policies", *whole, "--cluster", "passage")[1]
    assert read_evaluation(one)["my_task"].questions["3"] == "h3"
    lm_eval(other, [0], stamp="2026-02-02T00-00-00")
    with pytest.raises(RecordError, match="two evaluations of my_task"):
        read_evaluation(other)


def test_many_metrics_of_lm_eval_need_no_choice_where_one_is_the_score(tmp_path):
    """Our plug-ins record the share of each verdict too."""
    file = lm_eval(tmp_path / "a", [0, 1], ("exact_match", "wrong", "no_answer", "lenient"))
    assert read_evaluation(file)["my_task"].values == read_evaluation(file, "exact_match")["my_task"].values


def test_bad_evaluations_are_one_line(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("not json\n")
    (tmp_path / "other").write_text('{"x": 1}\n')
    (tmp_path / "nothing").write_text("")
    twice = ours(tmp_path / "twice", [[1]])
    twice.write_text(twice.read_text() + twice.read_text().splitlines()[1])
    lacking = ours(tmp_path / "lacking", [[1]])
    lacking.write_text(lacking.read_text() + '{"problem_id": "b", "reward": 1}\n')
    mixed = ours(tmp_path / "mixed", [[1]])
    mixed.write_text(mixed.read_text() + '{"doc_id": 1, "exact_match": 1}\n')
    good = lm_eval(tmp_path / "good", [0, 1])
    several = lm_eval(tmp_path / "several", [0, 1], ("acc", "acc_norm"))
    filters = lm_eval(tmp_path / "filters", [0, 1], filters=("strict", "flexible"))
    for place, options, message in [
        (tmp_path / "none", [], "no such file or folder"),
        (tmp_path / "empty", [], "no samples_*.jsonl in it"),
        (tmp_path / "text", [], "line 1 is no JSON object"),
        (tmp_path / "other", [], "line 1 is no sample"),
        (tmp_path / "nothing", [], "no sample in it"),
        (ours(tmp_path / "unjudged", [[None]]), [], "none of its 1 samples could be judged"),
        (ours(tmp_path / "nan", [[float("nan")]]), [], "'nan' is no number"),
        (ours(tmp_path / "ours", [[1]]), [], "no task in common"),
        (twice, [], "sample 0 of item decision/test/0 is there twice"),
        (lacking, [], "line 3 is no sample of flowtracer or lm-eval: no sample in it"),
        (mixed, [], "line 3 is no sample of flowtracer or lm-eval: no problem_id in it"),
        (lm_eval(tmp_path / "nameless", [0, 1], ()), [], "its samples name no metrics"),
        (several, [], "choose one by --metric: acc, acc_norm"),
        (several, ["--metric", "ac"], "no metric 'ac'; did you mean 'acc'?"),
        (filters, [], "choose one by --filter: flexible, strict"),
        (good, ["--cluster", "passag"], "did you mean 'passage'?"),
        (lm_eval(tmp_path / "more", [0, 1, 1]), [], "different items: 1 only in A, 0 only in B"),
        (good, ["--smallest-difference", "0"], "must be positive"),
        (good, ["--alpha", "2"], "must lie between 0 and 1"),
    ]:
        status, output, errors = run(capsys, "compare-policies", place, good, *options)
        assert status == 2 and message in errors and errors.count("\n") == 1 and not output, errors
