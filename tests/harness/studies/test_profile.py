"""Protects the profile: arms joined by method and options, rules beside methods, a reason for each dash, no mean."""

import json
from dataclasses import replace

import pytest

from harness import cli
from harness.studies.measured import read, read_one
from harness.studies.profile import FIGURES, beyond, by_figure, by_testbed, joined, page, rules, to_json
from tests.harness.studies.kept_files import replay_table, steps_table, training_table, written


@pytest.fixture
def files(tmp_path):
    """A training and a replay of one testbed, and a replay of another with the same arm."""
    other = {**replay_table(), "experiment": "other"}
    return [
        written(tmp_path, training_table()),
        written(tmp_path, replay_table()),
        written(tmp_path, other),
    ]


def cell(sheet, row, column):
    line = next(each for each in sheet.rows if each[0] == row)
    return line[sheet.columns.index(column)]


def test_an_arm_of_two_labels_is_one_row(files):
    """The training calls it flow_3, the replay strong; method and options are the same."""
    bed = joined(read(files))[0]
    rows = [row for row in bed.rows if row.arm.credit == "flow"]
    assert len(rows) == 1 and rows[0].labels == {"training": "flow_3", "replay": "strong"}
    sheet = by_testbed([bed])[0]
    assert cell(sheet, "flow ×3", "difference") == "+0.020 ±0.010 ▲"
    assert cell(sheet, "flow ×3", "AUC") == "0.80 ±0.10"
    assert cell(sheet, "flow ×3", "turn") == "0.100"


def test_unlike_options_are_two_rows(tmp_path):
    table = replay_table()
    table["figures"].append({**table["figures"][1], "label": "weak", "options": {"gamma": 1.5}})
    sheet = by_testbed(joined([read_one(written(tmp_path, table))]))[0]
    assert {"flow ×3", "flow ×1.5"} <= {row[0] for row in sheet.rows}


def test_rules_stand_beside_the_methods_even_where_nobody_measured_them(files):
    sheet = by_testbed(joined(read(files)))[1]
    first = [row[0] for row in sheet.rows]
    for rule in ("constant ×1.2 †", "first_tokens ×1.5 †", "last_tokens ×1.5 †", "random ×1.5 †"):
        assert cell(sheet, rule, "AUC").startswith("- ")
        assert first.index("oracle ×1.5 *") < first.index(rule) < first.index("flow ×3")
    assert [row[2] for row in rules(joined(read(files))).rows][:5] == ["nowhere"] * 5


def test_every_dash_has_a_reason_under_the_table(files):
    for sheet in [*by_testbed(joined(read(files))), *by_figure(joined(read(files)))]:
        dashes = {text for row in sheet.rows for text in row if text.startswith("- ")}
        assert all(f" {text[-1]}: " in f" {sheet.note}" for text in dashes)
    bench, other = by_testbed(joined(read(files)))
    assert "difference" not in other.columns and "Without difference, outcome, s/step: no file" in other.note
    assert "not replayed" in bench.note and "nobody knows" in bench.note


def test_a_table_a_figure_has_a_column_a_testbed_and_no_mean(files):
    sheets = {sheet.title: sheet for sheet in by_figure(joined(read(files)))}
    assert sheets["AUC"].columns == ("method", "bench", "other")
    assert sheets["difference"].columns == ("method", "bench"), "nothing was trained on the other"
    assert sheets["outcome"].rows[-1] == ("flow ×3", "better")
    only = by_figure(joined(read(files)), ["decisive_unsure"], ("method",))
    assert {row[0] for row in only[0].rows} == {"flow ×3"}


def test_beyond_counts_what_no_rule_reaches(tmp_path):
    """An interval that begins inside those of the rules is not beyond them."""
    table = replay_table()
    rule = {**table["figures"][1], "label": "random", "credit": "random", "options": {}}
    table["figures"].append({**rule, "decisive_unsure": [0.5, [0.4, 0.6]]})
    sheet = beyond(joined([read_one(written(tmp_path, table))]))
    lines = {row[1]: row for row in sheet.rows}
    assert lines["AUC"][2:] == ("1", "0 of 0", "1 of 1", "flow ×3")
    assert lines["signal/noise"][2:] == ("1", "0 of 0", "0 of 1", "none"), "flow's interval is the rule's"
    alone = {**table, "figures": table["figures"][:2]}
    assert not beyond(joined([read_one(written(tmp_path, alone))])).rows, "nothing to be beyond"


def test_a_rule_turned_round_is_as_dumb(tmp_path):
    """The later the more at 0.1 is the earlier the more at 0.9. A difference has no other way round."""
    table = replay_table()
    rule = {**table["figures"][1], "label": "position", "credit": "position", "options": {}}
    low = {
        "decisive_unsure": [0.1, [0.05, 0.15]],
        "ratio_difference": -9.0,
        "ratio_difference_interval": [-9.5, -8.5],
    }
    table["figures"].append({**rule, **low})
    lines = {row[1]: row for row in beyond(joined([read_one(written(tmp_path, table))])).rows}
    assert lines["AUC"][4:] == ("0 of 1", "none")
    assert lines["signal/noise"][4:] == ("1 of 1", "flow ×3")


def test_positive_controls_have_a_count_of_their_own(tmp_path):
    """They know the tokens: to count them among the methods would flatter these."""
    table = replay_table()
    flow, without = table["figures"][1], {"options": {}}
    table["figures"] += [
        {**flow, **without, "label": "random", "credit": "random", "decisive_unsure": [0.5, [0.4, 0.6]]},
        {**flow, **without, "label": "oracle", "credit": "oracle", "decisive_unsure": [1.0, None]},
    ]
    sheet = beyond(joined([read_one(written(tmp_path, table))]))
    row = next(row for row in sheet.rows if row[1] == "AUC")
    assert row[2:] == ("1", "1 of 1", "1 of 1", "flow ×3")
    assert "Left out" not in sheet.note, "1.0 on every problem is a constant and no single value"


def test_a_single_seed_is_beyond_nothing(tmp_path):
    """Two arms of one seed each have no interval: the larger difference is not beyond the smaller one."""
    table = training_table()
    rule = {**table["arms"][1], "label": "random", "credit": "random", "difference": 0.019}
    table["arms"].append(rule)
    for arm in table["arms"]:
        arm |= {"seeds": [0], "interval_of_difference": None}
    sheet = beyond(joined([read_one(written(tmp_path, table))]))
    assert not sheet.rows and "Left out: 2 figures of a single seed" in sheet.note
    for arm in table["arms"]:
        arm["seeds"] = [0, 1]
    (row,) = beyond(joined([read_one(written(tmp_path, table))])).rows
    assert row[4:] == ("1 of 1", "flow ×3"), "the same on both seeds"


def test_a_replay_of_a_single_problem_is_beyond_nothing(tmp_path):
    """The file does not count its problems: where no arm has an interval, there was one."""
    table = replay_table()
    table["figures"].append({**table["figures"][1], "label": "random", "credit": "random", "options": {}})
    for value, row in zip((0.5, 0.8, 0.7), table["figures"], strict=True):
        row |= {"decisive_unsure": [value, None], "ratio_difference_interval": None}
    sheet = beyond(joined([read_one(written(tmp_path, table))]))
    assert not sheet.rows and "Left out: 4 figures" in sheet.note


def test_rows_and_columns_without_a_figure_are_left_out_of_tables_by_figure(files):
    sheet = next(sheet for sheet in by_figure(joined(read(files))) if sheet.title == "difference")
    assert {row[0] for row in sheet.rows} == {"flow ×3"}
    assert by_figure(joined(read(files)), ["decisive_unsure"], ("rule",)) == [], "no rule was measured"


def test_steps_join_the_testbed_of_their_task_and_policy(tmp_path):
    replayed = {**replay_table(), "experiment": "graph"}
    beds = joined(read([written(tmp_path, replayed), written(tmp_path, steps_table())]))
    assert len(beds) == 1
    assert cell(by_testbed(beds)[0], "flow, late ×1.5", "needed") == "0.60 ±0.10"


def test_the_page_answers_in_order_and_json_holds_everything(files):
    beds = joined(read(files))
    made = page(beds, by_testbed(beds), "flowtracer profile 'a b.json'")
    text = made.to_markdown()
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads[0] == "## The dumbest rules" and heads[-2:] == ["## What it cannot say", "## The command"]
    assert "flowtracer profile 'a b.json'" in text
    table = json.loads(to_json(made, beds))
    arm = next(arm for arm in table["testbeds"][0]["arms"] if arm["method"] == "flow ×3")
    assert arm["factor"] == 3 and arm["role"] == "method"
    assert set(arm["measured"]) == {figure.key for figure in FIGURES}
    assert arm["measured"]["difference"] == {"value": 0.02, "interval": [0.01, 0.03]}
    assert arm["measured"]["outcome"] == {"outcome": "better"}
    assert arm["measured"]["needed_matched"] == {"missing": "no file of known steps"}


def test_policies_of_one_experiment_are_two_testbeds(files):
    one, two, _ = read(files)
    assert len(joined([one, replace(two, policy="trained")])) == 2


def test_the_command_fits_a_hundred_columns_and_writes_both_files(files, tmp_path, capsys):
    exports = [tmp_path / "p.json", tmp_path / "p.md"]
    words = [word for path in exports for word in ("--export", str(path))]
    assert cli.main(["profile", *map(str, files), *words]) == 0
    printed = capsys.readouterr().out
    tables = printed[printed.index("\nbench, policy tiny") :]
    assert all(len(line) <= 100 for line in tables.splitlines())
    assert "(1 of" not in tables, "a testbed is one table"
    assert len(json.loads(exports[0].read_text())["testbeds"]) == 2
    assert "flow ×3" in exports[1].read_text()


def test_mistakes_of_the_command_are_one_line(files, tmp_path, capsys):
    (tmp_path / "wrong").mkdir()
    wrong = tmp_path / "wrong" / "wrong.json"
    wrong.write_text("[]")
    for words in (["profile"], ["profile", str(wrong)], ["profile", str(files[0]), str(files[0])]):
        assert cli.main(words) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1 and not captured.out
