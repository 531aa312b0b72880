"""A student with a credit method of her own: ten lines, a smoke run, a sweep by two workers, a page.

What she pastes and types is the how-to page's, in a folder of hers.
"""

import shlex

import pytest

from leaderboards import load
from tests.journeys.outside import block, flowtracer, run

PAGE = "method.md"


def typed(number: int) -> list[str]:
    """The arguments of the page's command of that number."""
    lines = [line for line in block(PAGE, "sh").splitlines() if line.startswith("flowtracer ")]
    return shlex.split(lines[number].split("  #")[0])[1:]


@pytest.fixture
def folder(tmp_path):
    lines = block(PAGE, "python")
    body = lines[lines.index("@register") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 10, "ten lines"
    (tmp_path / "every_other.py").write_text(lines)
    (tmp_path / "mine.toml").write_text(block(PAGE, "toml"))
    return tmp_path


@pytest.mark.slow
def test_ten_lines_reach_a_verdict_and_a_page(folder):
    look, smoke, sweep, page = (typed(number) for number in range(4))
    assert "gamma" in flowtracer(folder, *look).stdout
    done = flowtracer(folder, *smoke, "--workers", "2")
    assert "every_other" in done.stdout and "cannot tell" in done.stdout
    assert "records: runs/mine-smoke" in done.stderr
    runs = load(folder / "runs" / "mine-smoke")
    assert len(runs) == 6 and all(run.finished and not run.faults() for run in runs)
    (text,) = {run.manifest.code["every_other.py"]["text"] for run in runs if run.method == "every_other"}
    assert text == (folder / "every_other.py").read_text(), "the record knows what the method was"
    weights = [
        w for r in runs if r.method == "every_other" for w in r.table("rollouts")["weights"].to_pylist()
    ]
    assert all(row == [1.5 if k % 2 == 0 else 1.0 for k in range(len(row))] for row in weights)
    # The sweep differs from the smoke run in its size alone, and its page from this one.
    assert "3 arms x" in flowtracer(folder, *sweep, "--plan").stdout
    flowtracer(folder, *[word.replace("runs/mine", "runs/mine-smoke") for word in page])
    html = (folder / "mine.html").read_text()
    assert "every_other" in html and "Does every other token help?" in html


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("cumsum(1)", "cumsum(3)"), "every_other"),
        (("self.gamma, 1.0)", "self.gamma, 1.0)[:, 1:]"), "every_other"),
        (("self.gamma, 1.0)", "float('nan'), 1.0)"), "every_other"),
    ],
)
@pytest.mark.slow
def test_a_mistake_in_the_ten_lines_names_the_method(folder, change, words):
    """It shows with the first response that is weighed, and never as a result."""
    file = folder / "every_other.py"
    assert change[0] in file.read_text()
    file.write_text(file.read_text().replace(*change))
    command = ["train", "mine.toml", "--import", "every_other.py", "--method", "every_other", "--smoke"]
    done = run(folder, "-m", "harness.cli", *command)
    # What her own code raises comes with its line; what it gives back is refused by name.
    assert done.returncode != 0 and words in done.stderr.rstrip()
