"""The page: complete by itself, safe whatever a policy wrote, and the numbers of the terminal.

Drawings are looked at in test_page_browser.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import manifest, rollout_rows, sample_rows, step_row, write_run

from leaderboards import RunWriter, compare, load, report, terminal
from leaderboards.sheets import Sheet

VOID = {"meta"}


@pytest.fixture(autouse=True, scope="module")
def no_sync() -> Iterator[None]:
    """Power cuts are the business of the records' own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield


class Checker(HTMLParser):
    """Collects text and attributes, and fails on tags that do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def data_of(page: str) -> dict[str, Any]:
    """What the page's script draws."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page)[1])


def page_of(folder: Path, **options: str) -> tuple[str, Checker]:
    runs = load(folder)
    page = report.to_html(compare(runs), runs, **options)
    return page, Checker(page)


def test_a_page_needs_nothing_else_and_serves_both_schemes(tmp_path: Path) -> None:
    for seed in range(3):
        for method, shift in (("uniform", 0.0), ("flow", 0.1)):
            evaluations = {0: [["wrong"], ["wrong"]], 2: [["correct" if shift else "wrong"], ["wrong"]]}
            rewards = [0.1 + 0.01 * seed, 0.2 + shift + 0.01 * seed * shift]
            write_run(tmp_path, method, seed, rewards, evaluations)
    page, checker = page_of(tmp_path)
    assert "link" not in checker.tags and "img" not in checker.tags
    assert not any(name == "src" or name.startswith("on") for name, _ in checker.attributes)
    assert all(str(value).startswith("#") for name, value in checker.attributes if name == "href")
    # The one address is that of the namespace of SVG.
    assert re.findall(r"https?:[^\"]*|url\(|@import", page) == ["http://www.w3.org/2000/svg"]
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    text = "".join(checker.text)
    runs = load(tmp_path)
    comparison = compare(runs)
    for sheet in terminal.sheets(comparison, runs):
        assert sheet.title in text
        for row in sheet.rows:
            assert all(cell in text for cell in row)
    assert comparison.run_set_hash in text and comparison.experiment_hash in text
    assert "flowtracer reproduce decision" in text
    assert "flow: 3 gained, 0 lost, over 3 seeds" in text
    drawn = data_of(page)
    assert [chart["title"] for chart in drawn["charts"]] == [
        "Paired differences from uniform", "Training reward", "Training reward minus uniform's, same seed",
        "Evaluation accuracy",
    ]  # fmt: skip
    assert drawn["charts"][0]["arms"]["flow"]["mean"] == comparison.arm("flow").difference
    assert drawn["charts"][1]["arms"]["flow"]["means"] == [0.11, 0.301]
    assert text.index("better than uniform: flow") < text.index("Ranking by paired") < text.index("Levels")
    assert page == page_of(tmp_path)[0]
    assert (
        "flowtracer reproduce decision --seeds 3"
        in page_of(tmp_path, command="flowtracer reproduce decision --seeds 3")[0]
    )


def test_what_a_policy_wrote_is_escaped(tmp_path: Path) -> None:
    evil = '</pre><script>alert("x")</script>&\x00\x1b'
    for method, verdict in (("uniform", "wrong"), ("<b>flow", "correct")):
        writer = RunWriter(tmp_path / method.strip("<>"), manifest(method))
        writer.write("steps", 1, step_row(1))
        weights = [1.0 + index % 2 for index in range(len(evil))]
        lists = dict.fromkeys(("weights", "sampler_logprobs", "trainer_logprobs"), weights)
        writer.write("rollouts", 1, rollout_rows(1, text=evil, response_ids=[1] * len(evil), **lists))
        writer.write("samples", 1, [{**sample_rows(1, [[verdict]])[0], "text": evil}])
        writer.finish({})
    page, checker = page_of(tmp_path)
    assert page.count("<script") == 2 and "b" in checker.tags  # the page's own: data and drawing
    assert "<b>flow" not in page.replace("<b>&lt;b&gt;flow", "")
    assert "\x00" not in page and "\x1b" not in page
    assert '</pre><script>alert("x")</script>&\\x00\\x1b' in "".join(checker.text)


def test_weights_of_longer_tokens_stand_below_the_text(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", manifest())
    writer.write("steps", 1, step_row(1))
    writer.write("rollouts", 1, rollout_rows(1, text="two words"))
    writer.finish({})
    _, checker = page_of(tmp_path)
    assert "two words\n1 1.5" in "".join(checker.text)


@pytest.mark.parametrize("rewards", [[0.1], [0.1, 0.2]])
def test_little_was_recorded(tmp_path: Path, rewards: list[float]) -> None:
    write_run(tmp_path, "uniform", 0, rewards)
    write_run(tmp_path, "flow", 0, rewards)
    write_run(tmp_path, "random", 1, rewards)
    page, checker = page_of(tmp_path)
    assert "cannot tell: one seed" in "".join(checker.text)
    assert not re.search(r"\bnan\b", page)


def test_one_method_alone(tmp_path: Path) -> None:
    write_run(tmp_path, "uniform", 0, [0.1, 0.1])
    _, checker = page_of(tmp_path)
    assert "1 method, 1 training seed" in "".join(checker.text)


def test_the_environment_of_the_runs_stands_in_the_provenance(tmp_path: Path) -> None:
    write_run(tmp_path, "uniform", 0, [0.1, 0.1], environment_hash="beef")
    write_run(tmp_path, "uniform", 1, [0.1, 0.1])  # as recorded before there was one
    text = "".join(page_of(tmp_path)[1].text)
    assert text.count("environment hash") == 1 and "beef" in text


def test_late_rollouts_that_one_method_solves_stand_side_by_side_with_their_credit(tmp_path: Path) -> None:
    for method, verdict in (("uniform", "wrong"), ("flow", "correct")):
        writer = RunWriter(tmp_path / method, manifest(method))
        for step in range(8):
            writer.write("steps", step, step_row(step))
            own = {"key": f"step {step}", "text": f"{method[0]}#{step}", "response_ids": [1, 2, 3]}
            lists = dict.fromkeys(("weights", "sampler_logprobs", "trainer_logprobs"), [1.0, 1.0, 1.5])
            found = verdict if step in (1, 6) else "wrong"
            writer.write("rollouts", step, rollout_rows(step, 1, verdict=found, **own, **lists))
        writer.finish({})
    page, checker = page_of(tmp_path)
    text = "".join(checker.text)
    assert "Training step 6, seed 0, decision/train/1, sample 0: advantage -0.50 and -0.50" in text
    assert "Training step 1," not in text and "Training step 7," not in text
    marked = page[page.index("Training step 6,") :]
    assert marked.count('title="weight 1.5" style="background') >= 2
    assert "u#6" in text and "f#6" in text


def test_a_flip_is_shown_by_a_sample_that_flips(tmp_path: Path) -> None:
    """Two wrong answers side by side, under a problem that was gained, would show nothing."""
    answers = {
        "uniform": ["wrong", "correct", "wrong", "wrong"],
        "flow": ["wrong", "wrong", "correct", "correct"],
    }
    for method, verdicts in answers.items():
        writer = RunWriter(tmp_path / method, manifest(method))
        writer.write("steps", 1, step_row(1))
        rows = sample_rows(1, [verdicts])
        writer.write("samples", 1, [{**row, "text": f"{method} {row['sample']}"} for row in rows])
        writer.finish({})
    text = "".join(page_of(tmp_path)[1].text)
    assert "decision/test/0, seed 0: +0.25 of its samples correct" in text
    assert "uniform 2" in text and "flow 2" in text
    assert not any(f"{method} {sample}" in text for method in answers for sample in (0, 1, 3))


def test_the_question_and_the_gold_stand_above_both_answers(tmp_path: Path) -> None:
    for method, verdict in (("uniform", "wrong"), ("flow", "correct")):
        write_run(tmp_path, method, 0, [0.1, 0.2], {2: [[verdict]]})
    runs = load(tmp_path)
    known = {("decision", "decision/test/0"): ("1 < 2 & 3?", "yes")}
    page = report.to_html(compare(runs), runs, asked=lambda *place: known.get(place))
    assert page.count('<p class="asked">') == 1
    assert "question 1 < 2 & 3?\ngold yes" in "".join(Checker(page).text)


def test_pairs_of_a_script_which_shares_no_noise_are_not_shown(tmp_path: Path) -> None:
    for method, verdict in (("uniform", "wrong"), ("flow", "correct")):
        writer = RunWriter(tmp_path / method, manifest(method))
        writer.write("steps", 1, step_row(1))
        writer.write("rollouts", 1, [{**row, "key": "", "verdict": verdict} for row in rollout_rows(1)])
        writer.finish({})
    assert "Late rollouts" not in page_of(tmp_path)[0]


def test_the_positive_control_is_off_at_first_where_others_are_compared(tmp_path: Path) -> None:
    for method in ("uniform", "flow", "oracle_mask"):
        write_run(tmp_path, method, 0, [0.1, 0.2])
    arms = {arm["label"]: arm for arm in data_of(page_of(tmp_path)[0])["arms"]}
    assert [arms[label]["control"] for label in ("uniform", "flow", "oracle_mask")] == [False, False, True]
    assert arms["uniform"]["colour"] == 0 and arms["flow"]["colour"] != arms["oracle_mask"]["colour"]


def test_claims_are_shown_as_they_are_handed_in(tmp_path: Path) -> None:
    for method in ("uniform", "flow"):
        write_run(tmp_path, method, 0, [0.1, 0.2])
    runs = load(tmp_path)
    columns = ("claim", "printed", "measured", "status")
    row = ("flow <minus> uniform", "+2.3", "-", "contradicted")
    sheet = Sheet("paper", columns, (row,), "a note", words=(0, 3))
    checker = Checker(page := report.to_html(compare(runs), runs, claims=[sheet]))
    assert "flow <minus> uniform" in checker.text and "Published claims" in checker.text
    assert '<td class="word bad" data-column="status">contradicted</td>' in page
    assert "Published claims" not in report.to_html(compare(runs), runs)
