"""An engineer with a TRL script: one more argument records it, and our commands read the record.

The script is the how-to page's, in a loop over two arms and two seeds.
"""

import json
import re
import textwrap

import pytest

from leaderboards import load
from tests.journeys.outside import block, flowtracer, run

CHANGES = {
    '    credit="flow",': '    credit=credit,\n    record=f"runs/mine/{credit}/seed-{seed:04d}",',
    'report_to="none",': 'report_to="none",\n        seed=seed,',
    'output_dir="run",': 'output_dir=f"out/{credit}-{seed}",',
}


def script():
    code = block("trl.md", "python")
    for before, after in CHANGES.items():
        assert code.count(before) == 1, before
        code = code.replace(before, after)
    head = 'for credit, seed in [("uniform", 0), ("uniform", 1), ("flow", 0), ("flow", 1)]:\n'
    return head + textwrap.indent(code, "    ")


@pytest.mark.slow
def test_a_trl_script_reaches_the_leaderboard(tmp_path):
    (tmp_path / "script.py").write_text(script())
    done = run(tmp_path, "script.py")
    assert done.returncode == 0, done.stderr
    runs = load(tmp_path / "runs" / "mine")
    assert [(run.method, run.seed) for run in runs] == [
        ("flow", 0),
        ("flow", 1),
        ("uniform", 0),
        ("uniform", 1),
    ]
    sound = flowtracer(tmp_path, "doctor", "runs/mine").stdout
    assert sound.count("finished, sound") == 4
    command = ["leaderboard", "runs/mine", "--smallest-difference", "0.01"]
    table = flowtracer(tmp_path, *command).stdout
    assert "Ranking by paired difference from uniform" in table and "not declared" in table
    flowtracer(tmp_path, *command, "--html", "board.html")
    assert "flow" in (tmp_path / "board.html").read_text()
    row = ["--from", "runs/mine/flow/seed-0000", "--row", "1", "--policy", "decision", "--task", "decision"]
    flowtracer(tmp_path, "trace", *row, "--layers", "all", "--html", "trace.html")
    data = re.search(r'id="data">(.*?)</script>', (tmp_path / "trace.html").read_text())
    assert runs[0].table("rollouts")["text"].to_pylist()[1] in "".join(json.loads(data[1])["tokens"])
