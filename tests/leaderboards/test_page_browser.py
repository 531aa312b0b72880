"""The leaderboard's pages in a real browser: legible when narrow, arms on and off, values under the pointer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recorded_runs import experiment, write_run

from leaderboards import compare, load, report
from leaderboards.pages.index import to_index
from tests.flowtracer.browser import Browser, needs_browser

pytestmark = needs_browser
ARMS = {"uniform": 0.0, "flow": 0.02, "a_method_with_a_long_name": -0.01, "oracle_mask": 0.5}
EVERY_TEXT = """return [...document.querySelectorAll('.chart text')].map(node =>
  parseFloat(getComputedStyle(node).fontSize) * node.getScreenCTM().a)"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four arms, one of which gains twenty times what the others do, and an index."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        for label, shift in ARMS.items():
            for seed in range(2):
                rewards = [0.1 + 0.01 * seed * (label != "flow"), 0.2 + shift, 0.25 + shift + 0.005 * seed]
                verdict = "correct" if shift > 0 else "wrong"
                write_run(folder, label, seed, rewards, {3: [[verdict]]}, experiment=experiment(list(ARMS)))
    runs = load(folder)
    comparison = compare(runs)
    (folder / "index.html").write_text(to_index([(comparison, "board.html")]))
    board = folder / "board.html"
    board.write_text(report.to_html(comparison, runs, asked=lambda *_: ("What is it?", "42")))
    return board


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def show(browser: Browser, page: Path) -> Iterator[Callable[..., Browser]]:
    def show(width: int, scheme: str = "light", name: str = "board.html") -> Browser:
        browser.resize(width, 900)
        browser.prefer(scheme)
        browser.open(page.with_name(name))
        return browser

    yield show
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_and_no_text_is_small(show, width: int, scheme: str) -> None:
    browser = show(width, scheme)
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    sizes = browser.run(EVERY_TEXT)
    assert len(sizes) > 20 and min(sizes) >= 11
    outside = """const right = figure => figure.getBoundingClientRect().right + 1;
      return [...document.querySelectorAll('.chart')].flatMap(figure => [...figure.querySelectorAll('text')].filter(
        node => node.getBoundingClientRect().right > right(figure) || node.getBoundingClientRect().left < -1)
        .map(node => node.textContent))"""
    assert browser.run(outside) == []
    dark = "return getComputedStyle(document.body).backgroundColor"
    assert browser.run(dark) == ("rgb(20, 24, 29)" if scheme == "dark" else "rgb(255, 255, 255)")


@pytest.mark.parametrize("width", [320, 400, 1280])
def test_every_axis_has_labels_enough_for_a_scale_and_none_touch(show, width: int) -> None:
    """With one label on it, an axis says nothing of how large a difference is."""
    labels = """return [...document.querySelectorAll('.chart svg')].map(svg =>
      [...svg.querySelectorAll('text.soft[text-anchor=middle]')].map(node => node.getBoundingClientRect())
        .map(box => [box.left, box.right]))"""
    axes = show(width).run(labels)
    assert len(axes) >= 3
    for places in axes:
        assert len(places) >= 2
        assert all(right + 4 < left for (_, right), (left, _) in itertools.pairwise(sorted(places)))


def test_the_verdict_and_the_ranking_are_read_first_on_a_phone(show) -> None:
    browser = show(400)
    tops = browser.run("""const top = name => document.querySelector(name).getBoundingClientRect().top;
      return [top('.verdicts'), top('.ranking'), top('#arms'), document.querySelector('.scroll').scrollWidth]""")
    assert tops[0] < 200 and tops[0] < tops[1] < 700 and tops[1] < tops[2]
    assert tops[3] <= 400, "a row of the ranking is a card and does not scroll sideways"
    assert "worse than uniform: a_method" in browser.run(
        "return document.querySelector('.verdicts').textContent"
    )


def lines(browser: Browser) -> list[str]:
    return browser.run("""return [...document.querySelectorAll("[data-chart='1'] polyline")]
      .map(line => line.dataset.arm)""")


def test_an_arm_is_switched_on_and_off_and_the_scale_follows(show) -> None:
    browser = show(1280)
    height = """const points = document.querySelector("[data-chart='1'] [data-arm='flow']").getAttribute('points');
      const y = points.split(' ').map(point => Number(point.split(',')[1]));
      return Math.max(...y) - Math.min(...y)"""
    assert sorted(lines(browser)) == ["a_method_with_a_long_name", "flow", "uniform"]
    before = browser.run(height)
    browser.hover("#arms [data-arm='oracle_mask']", click=True)
    assert "oracle_mask" in lines(browser)
    assert browser.run(height) < 0.6 * before, "the positive control squashes the others"
    pressed = "return document.querySelector(\"#arms [data-arm='oracle_mask']\").getAttribute('aria-pressed')"
    assert browser.run(pressed) == "true"
    browser.hover("#arms [data-arm='flow']", click=True)
    assert "flow" not in lines(browser)
    assert browser.run("return document.querySelector(\"details[data-arm='flow']\").hidden")
    browser.hover("#arms [data-set='none']", click=True)
    assert lines(browser) == ["uniform"]
    browser.hover("#arms [data-set='all']", click=True)
    assert len(lines(browser)) == 4


def test_values_stand_beside_the_pointer_and_under_the_keys(show) -> None:
    browser = show(1280)
    value = "return [...document.querySelectorAll('.values')].map(box => box.innerText).join('\\n')"
    browser.hover("[data-chart='1'] svg")
    text = browser.run(value)
    assert text.startswith("step 2") and "flow" in text and "0.220" in text
    browser.hover("[data-chart='0'] g[data-arm='flow']")
    text = browser.run(value)
    assert text.startswith("flow: ") and "seed 1" in text
    browser.run("document.querySelector(\"[data-chart='1']\").focus()")
    browser.press("ArrowLeft")  # from the step that was pointed at
    assert "step 1\n" in browser.run(value)


def test_question_and_gold_stand_above_two_answers(show) -> None:
    browser = show(1280)
    browser.hover("details[data-arm='flow'] summary", click=True)
    shown = browser.run("return document.querySelector(\"details[data-arm='flow']\").innerText")
    assert shown.index("What is it?") < shown.index("gold 42") < shown.index("uniform wrong")
    sides = browser.run("""return [...document.querySelector("details[data-arm='flow'] .pair").children]
      .map(side => side.getBoundingClientRect().top)""")
    assert sides[0] == sides[1]


@pytest.mark.parametrize("width", [400, 1280])
def test_the_index_leads_to_each_page(show, width: int) -> None:
    browser = show(width, name="index.html")
    assert browser.run("return document.documentElement.scrollWidth") == width
    browser.hover(".board a", click=True)
    assert browser.run("return location.pathname.split('/').pop()") == "board.html"
