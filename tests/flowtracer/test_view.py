"""Protects the views of a trace: they show the flow that was solved, what credit flow up-weights, and any text."""

import io
import json
import re
import time

import pytest
from rich.console import Console

from flowtracer import CreditError, credit
from flowtracer.view import EDGES
from tests.flowtracer.browser import Browser, needs_browser
from tests.flowtracer.conftest import traced


def test_every_registered_method_is_shown_or_refused_with_a_reason(story):
    shown = {method["name"] for method in page_data(story)["methods"]}
    assert {"flow", "uniform", "constant", "random"} <= shown
    for name in set(credit.names()) - shown:
        with pytest.raises(CreditError):
            story.weights(name)


def printed(story, width=80, **options):
    buffer = io.StringIO()
    Console(file=buffer, width=width, **options).print(story.to_terminal(width))
    return buffer.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_terminal_view_fits_its_width_and_brackets_what_it_cannot_colour(story, width):
    text = printed(story, width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    flat = re.sub(r"\s+", "", text)
    assert "⟪6⟫" in flat
    # All that stands in brackets are the raised tokens, the answer apart.
    body = text[text.index("⟪answer⟫") + len("⟪answer⟫") : text.index("Response tokens")]
    marked = re.sub(r"\s+", "", "".join(re.findall(r"⟦([^⟧]*)⟧", body))).replace("↵", "")
    raised = [story.tokens[position] for position in story.top() if not story.answer[position]]
    assert marked == re.sub(r"\s+", "", "".join(raised))
    assert body.count("↵") == sum(piece.count("\n") for piece in raised)


def test_terminal_view_in_colour_has_styles_and_the_same_words(story):
    styled = printed(story, force_terminal=True, color_system="standard")
    assert "\x1b[1;30;43m" in styled and "⟦" not in styled
    assert "\x1b[1;30;42m6" in styled
    plain = printed(story, force_terminal=True, color_system=None)
    assert "⟦" in plain


def test_terminal_table_holds_the_tokens_of_largest_throughput(story):
    table = printed(story).split("largest inflow")[1].split("Backbone")[0]
    rows = re.findall(r"^\s+(\d+)\s.*?([\d.]+)%\s.*@(\d+), ([\d.]+)%", table, re.MULTILINE)
    order = story.throughput.masked_fill(story.prompt, -1).argsort(descending=True, stable=True)[:10].tolist()
    assert [int(row[0]) for row in rows] == order
    edges = story.flow.edge_flow()
    for position, share, source, inflow in rows:
        k, i = int(position), int(source)
        assert float(share) == pytest.approx(100 * float(story.flow.flow[k]), abs=0.051)
        assert i == int(edges[k].argmax())
        assert float(inflow) == pytest.approx(100 * float(edges[k, i] / story.flow.flow[k]), abs=0.051)


def test_terminal_view_survives_markup_escapes_and_consoles_without_unicode():
    tokens = ["[bold]q[/bold]", "?", "[red]", "\u241b[2J", " é", "\n", "日本", "7", "."]
    text = printed(traced(tokens, 2, [7]))
    assert "[red]" in text.replace("⟦", "").replace("⟧", "")
    assert "\x1b" not in text
    file = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    Console(file=file, width=80).print(traced(tokens, 2, [7]).to_terminal())
    file.flush()
    assert "{7}" in file.buffer.getvalue().decode("ascii")


def page_data(story):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', story.to_html(), re.DOTALL)
    return json.loads(found[1])


def test_page_holds_the_flow_and_the_largest_edges(story):
    data = page_data(story)
    flow, edges = story.flow.flow, story.flow.edge_flow()
    assert data["tokens"] == story.tokens and data["prompt"] == story.prompt_length
    assert data["flow"] == pytest.approx(flow.tolist(), rel=5e-3)
    assert data["answer"] == story.answer.nonzero().flatten().tolist()
    for into, rows in ((True, edges), (False, edges.T)):
        for k, row in enumerate(rows):
            flat = data["into" if into else "out"][k]
            shares = row / flow[k].clamp(min=1e-30)
            want = [
                (j, round(1000 * float(shares[j]))) for j in shares.argsort(descending=True)[:EDGES].tolist()
            ]
            got = list(zip(flat[::2], flat[1::2], strict=True))
            assert [share for _, share in got] == [share for _, share in want if share > 0]
            assert all(abs(1000 * float(shares[j]) - share) <= 0.51 for j, share in got)
    assert [way["path"] for way in data["backbone"]] == [path for _, path in story.backbone()]


def test_slider_shows_what_each_method_raises_at_every_percentage(story):
    sliding = [method for method in page_data(story)["methods"] if "raisedAt" in method]
    assert {"flow", "random"} <= {method["name"] for method in sliding}
    for method in sliding:
        for percentage in range(101):
            weights = story.weights(method["name"], ratio=percentage / 100)[story.response]
            shown = [bool(at) and at <= percentage for at in method["raisedAt"]]
            assert (weights == method["gamma"]).tolist() == shown, (method["name"], percentage)


HOSTILE = [
    "</script><script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "<b>bold</b>",
    "<!-- &amp; {{DATA}} \\u003c",
    " \u27e8U+2028\u27e9\"'`${1}",
    "\ttab",
    "é",
    "",
    "日本",
    "\n\n",
    "\n  indented",
]


def test_page_is_self_contained_and_its_text_ends_no_element():
    page = traced(["q", "?", *HOSTILE, "\u2028", "7", "."], 2, [14]).to_html()
    assert page.count("</script>") == 2
    assert page.isascii() is False and "\u2028" not in page
    data = page[page.index('id="data">') + len('id="data">') : page.index("</script>")]
    assert data.isascii() and "<" not in data
    assert re.findall(r"https?://[^\"' ]+", page.replace(data, "")) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<link|@import|url\(|<(script|img|iframe)[^>]*\ssrc=", page.replace(data, ""))
    assert "default-src 'none'" in page


@pytest.fixture(scope="module")
def long_story():
    words = [
        "the",
        "of",
        "we",
        "get",
        "3",
        "+",
        "4",
        "=",
        "7",
        ".",
        ",",
        "\n",
        "then",
        "apples",
        "each",
        "cost",
    ]
    return traced([f" {words[i * i % len(words)]}" for i in range(4000)], 150, [3996, 3997])


def test_page_of_4000_tokens_is_small_and_quick(long_story):
    begin = time.process_time()
    page = long_story.to_html()
    seconds = time.process_time() - begin
    assert len(page) < 1_000_000
    assert seconds < 20  # about 3 on one core


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    window = Browser(tmp_path_factory.mktemp("profile"))
    yield window
    window.close()


@pytest.fixture
def show(browser, tmp_path):
    def opened(shown):
        page = tmp_path / "page.html"
        page.write_text(shown.to_html(), encoding="utf-8")
        browser.open(page)
        assert browser.complaints() == []
        return browser

    yield opened
    assert browser.complaints() == []


def raised(window, column=0):
    return window.run(
        "return spans[arguments[0]].flatMap((span, i) => span.classList.contains('raised') ? [i] : [])",
        column,
    )


def choose(window, name, value):
    window.run(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event(e.type === 'range' ? 'input' : 'change'))",
        name,
        value,
    )


@needs_browser
def test_browser_shows_hostile_text_as_text(show):
    tokens = ["q", "?", *HOSTILE, "7", "."]
    window = show(traced(tokens, 2, [13], name="<i>name</i>"))
    assert window.run("return document.title") == "Trace: <i>name</i>"
    assert window.run("return document.querySelectorAll('#stage img, #stage script, #stage i').length") == 0
    # Line breaks at the end of a token stand behind it.
    assert window.run("return spans[0].map((span) => span.textContent)") == [
        token.rstrip("\n") for token in tokens
    ]
    assert window.run("return document.querySelector('#columns .tokens').textContent") == "".join(tokens[2:])


@needs_browser
def test_browser_hover_draws_the_largest_flows_as_arcs(show, story):
    window = show(story)
    position = story.top()[3]
    assert window.run("return document.querySelectorAll('#arcs path').length") == 0
    window.hover(f"#columns [data-i='{position}']")
    arcs = window.run(
        "return [...document.querySelectorAll('#arcs path')].map((p) =>"
        " [p.getAttribute('class'), +p.dataset.from, +p.dataset.to, p.getTotalLength()])"
    )
    data = page_data(story)
    into, out = data["into"][position][::2], data["out"][position][::2]
    assert [arc[:3] for arc in arcs] == [["in", i, position] for i in into] + [
        ["out", position, j] for j in out
    ]
    assert all(length > 5 for *_, length in arcs)
    # They end at the token itself.
    box = window.run(
        "const r = spans[0][arguments[0]].getBoundingClientRect(); return [r.left, r.right]", position
    )
    end = window.run(
        "const p = document.querySelector('#arcs .in'), s = document.getElementById('stage').getBoundingClientRect();"
        "return p.getPointAtLength(p.getTotalLength()).x + s.left"
    )
    assert box[0] <= end <= box[1]
    assert f"{100 * float(story.flow.flow[position]):.1f}%" in window.run(
        "return document.getElementById('detail').innerText"
    )
    window.hover("h1")
    assert window.run("return document.querySelectorAll('#arcs path').length") == 0


@needs_browser
def test_browser_keys_move_the_focused_token(show, story):
    window = show(story)
    start = story.prompt_length

    def focused():
        return window.run(
            "return document.activeElement.dataset.i === undefined ? null : +document.activeElement.dataset.i"
        )

    assert focused() is None
    window.run("document.getElementById('backbone').focus()")
    window.press("Tab", "Tab")  # by way of the prompt's heading
    assert focused() == start
    assert window.run("return document.querySelectorAll('#arcs path').length") > 0
    window.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert focused() == start + 1
    window.press("Shift+ArrowRight")
    beyond = [position for position in story.top() if position > start + 1]
    assert focused() == beyond[0]
    window.press("End")
    assert focused() == len(story.tokens) - 1
    window.press("ArrowUp")
    line = window.run(
        "return [arguments[0], arguments[1]].map((i) => spans[0][i].getClientRects()[0].top)",
        focused(),
        len(story.tokens) - 1,
    )
    assert line[0] < line[1]
    window.press("Home", "ArrowLeft")
    assert focused() == start - 1
    window.press("Escape")
    assert focused() is None
    assert window.run("return document.querySelectorAll('#arcs path').length") == 0


@needs_browser
def test_browser_slider_and_methods_side_by_side(show, story):
    window = show(story)
    assert raised(window) == story.top(0.4)
    choose(window, "ratio", "20")
    assert raised(window) == story.top(0.2)
    options = window.run(
        "return [...document.getElementById('second').options].map((o) => [o.text, o.value])"
    )
    values = dict(options)
    choose(window, "second", values["random"])
    assert window.run("return document.querySelectorAll('#columns article').length") == 2
    random = story.weights("random", ratio=0.2)
    assert raised(window, 0) == story.top(0.2)
    assert raised(window, 1) == (random > 1).nonzero().flatten().tolist()
    left, right = window.run(
        "return [...document.querySelectorAll('#columns article')].map((card) => card.getBoundingClientRect().left)"
    )
    assert left < right
    # The arcs follow the pointer into the second column.
    position = story.top()[1]
    window.hover(f"#columns article:nth-child(2) [data-i='{position}']")
    assert window.run("return spans[1][arguments[0]].classList.contains('now')", position)
    assert not window.run("return spans[0][arguments[0]].classList.contains('now')", position)
    choose(window, "first", values["uniform"])
    assert raised(window, 0) == []
    assert "every token weighs 1" in window.run("return document.querySelector('#columns h2').innerText")
    choose(window, "second", "")
    assert window.run("return document.querySelectorAll('#columns article').length") == 1


@needs_browser
def test_browser_backbone_runs_from_question_to_answer(show, story):
    window = show(story)
    window.run("document.getElementById('backbone').click()")
    arcs = window.run(
        "return [...document.querySelectorAll('#arcs .path')].map((p) => [+p.dataset.from, +p.dataset.to])"
    )
    want = [list(edge) for _, path in story.backbone() for edge in zip(path, path[1:], strict=False)]
    assert arcs == want
    window.press("b")
    assert window.run("return document.querySelectorAll('#arcs .path').length") == 0


@needs_browser
def test_browser_theme_follows_the_system_and_its_button(show, story):
    def background(window):
        return sum(
            map(
                int,
                re.findall(r"\d+", window.run("return getComputedStyle(document.body).backgroundColor"))[:3],
            )
        )

    window = show(story)
    assert background(window) > 600
    window.hover("#theme", click=True)
    assert background(window) < 150
    window.prefer("dark")
    try:
        assert background(show(story)) < 150
    finally:
        window.prefer("light")
    # A change of preference reaches an open page with its next frame.
    until = time.monotonic() + 20
    while background(window) < 600 and time.monotonic() < until:
        time.sleep(0.05)
    assert background(window) > 600


#: Font sizes of all text that is drawn, and what reaches beyond the page's sides.
SIZES_AND_OVERHANG = """
  const drawn = [...document.querySelectorAll('body *')].filter((node) => node.getClientRects().length);
  const text = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  const over = (box) => box.right > innerWidth + 1 || box.left < -1;
  return [drawn.filter(text).map((node) => parseFloat(getComputedStyle(node).fontSize)),
    drawn.filter((node) => node.id !== 'live' && over(node.getBoundingClientRect())).map((node) => node.outerHTML)]"""


@pytest.fixture
def resized(browser):
    yield browser.resize
    browser.resize(1360, 1000)
    browser.prefer("light")


@needs_browser
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_all_of_a_page_and_no_small_text(show, story, resized, browser, width, scheme):
    resized(width, 800)
    browser.prefer(scheme)
    window = show(story)
    for chosen in (False, True):
        if chosen:
            window.run("pin(arguments[0], 0, true)", story.top()[3])
        assert window.run("return document.documentElement.scrollWidth") == width
        sizes, overhang = window.run(SIZES_AND_OVERHANG)
        assert len(sizes) > 40 and min(sizes) >= 11 and overhang == []


@needs_browser
def test_browser_draws_what_comes_from_a_closed_prompt_from_its_heading(show, story):
    """A phone closes the prompt, and the browser still says where its tokens would stand: under the response."""
    window = show(story)
    starts = """document.getElementById('prompt').open = false;
      const into = (i) => edgesOf(i).into.some(([j]) => j < start);
      pin([...Array(responses).keys()].map((k) => k + start).find(into), 0, false);
      const stage = document.getElementById('stage').getBoundingClientRect();
      const head = document.querySelector('#prompt summary').getBoundingClientRect();
      const arcs = [...document.querySelectorAll('#arcs .in')].filter((p) => +p.dataset.from < start);
      return [[head.top, head.bottom], arcs.map((p) => p.getPointAtLength(0).y + stage.top)]"""
    (top, bottom), heights = window.run(starts)
    assert heights and all(top - 1 <= height <= bottom + 1 for height in heights)


@needs_browser
def test_browser_gives_a_phones_screen_to_the_response(show, long_story, resized):
    """Two bars that stayed took two thirds of it, and the prompt took the rest."""
    resized(400, 800)
    window = show(long_story)
    top = "return document.querySelector('#columns .tokens').getBoundingClientRect().top"
    assert window.run(top) < 560
    stays = """scrollTo(0, 900); return [...document.querySelectorAll('.controls, aside')].filter((bar) => {
      const box = bar.getBoundingClientRect(); return box.bottom > 0 && box.top < innerHeight; }).length"""
    assert window.run(stays) == 0
    position = long_story.top()[3]
    window.hover(f"#columns [data-i='{position}']", click=True)
    box = "const box = document.querySelector('aside').getBoundingClientRect(); return [box.top, box.bottom]"
    above, below = window.run(box)
    assert below == 800 and below - above <= 0.4 * 800
    token = window.run("return spans[0][arguments[0]].getBoundingClientRect().bottom", position)
    assert token < above, "the details leave the token in sight"
    window.hover(".close", click=True)
    assert window.run("return [state.pinned, document.querySelectorAll('#arcs path').length]") == [None, 0]


@needs_browser
def test_browser_stays_quick_at_4000_tokens(show, long_story):
    window = show(long_story)
    milliseconds = window.run(
        "const times = [];"
        "for (let k = 0; k < 10; k++) {"
        "  const begin = performance.now();"
        "  pin(start + 300 * k, 0, true); document.body.getBoundingClientRect();"
        "  times.push(performance.now() - begin);"
        "}"
        "return Math.min(...times)"
    )
    assert milliseconds < 200  # about 20 on one core
    assert window.run("return document.documentElement.scrollWidth <= window.innerWidth")
    choose(window, "ratio", "10")
    assert len(raised(window)) == len(long_story.top(0.1)) == 385
