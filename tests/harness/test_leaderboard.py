"""Protects the commands that read records: several experiments at once, watched while they grow, and two compared."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness import cli
from harness import experiment as experiments

sys.path.insert(0, str(Path(__file__).parents[1] / "leaderboards"))
from recorded_runs import EXPERIMENT, write_run

EVALUATIONS = {0: [["wrong", "wrong"]], 2: [["correct", "wrong"]]}


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


def sweep(root, name, methods=("uniform", "flow"), seeds=3, right=1):
    experiment = {**EXPERIMENT, "name": name, "title": name, "methods": {m: {"credit": m} for m in methods}}
    for index, method in enumerate(methods):
        for seed in range(seeds):
            evaluations = {
                0: [["wrong"] * 4],
                2: [["correct"] * (right + index) + ["wrong"] * (3 - right - index)],
            }
            rewards = [0.3 + 0.1 * index + 0.01 * seed * index, 0.4]
            write_run(
                root / name, method, seed, rewards, evaluations, experiment=experiment, experiment_hash=name
            )
    return root / name


def run(capsys, *arguments):
    status = cli.main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_several_experiments_and_all_of_them_together(capsys, tmp_path):
    one = sweep(tmp_path, "first", ("uniform", "flow", "random"))
    other = sweep(tmp_path, "second", ("uniform", "flow"), right=2, seeds=2)
    status, output, _ = run(capsys, "leaderboard", one, other)
    assert status == 0
    lines = output.splitlines()
    assert max(map(len, lines)) <= 100
    titles = [line.strip() for line in lines if line.strip() in ("first", "second")]
    assert titles == ["first", "second"]
    together = lines[next(i for i, line in enumerate(lines) if line.startswith("All 2 experiments")) :]
    rows = {line.split()[0]: line for line in together[3:] if line.strip()}
    assert "random" not in rows
    # Unlike experiments have no common mean, unless somebody asks for one.
    assert rows["flow"].split() == ["flow", "0.667", "1.000", "2"]
    assert run(capsys, "leaderboard", tmp_path)[1] == output  # a folder of both is the same
    pooled = run(capsys, "leaderboard", one, other, "--pool")[1]
    line = next(each for each in pooled[pooled.index("All 2") :].splitlines() if each.startswith("flow"))
    assert "0.833" in line and "+0.333" in line and line.split()[-1] == "2"


def test_several_experiments_get_an_index_and_a_page_each(capsys, tmp_path):
    sweep(tmp_path, "first")
    sweep(tmp_path, "second", right=2)
    index = tmp_path / "board.html"
    assert run(capsys, "leaderboard", tmp_path, "--html", index)[0] == 0
    page = index.read_text()
    for name in ("first", "second"):
        assert f'href="board-{name}.html"' in page
        assert "Ranking by paired difference" in (tmp_path / f"board-{name}.html").read_text()
    assert "IQM" not in page
    assert "better than uniform" in page or "cannot tell" in page
    assert run(capsys, "leaderboard", tmp_path, "--html", index, "--pool")[0] == 0
    assert "IQM" in index.read_text()


def test_a_name_that_no_file_can_have_gets_a_page_all_the_same(capsys, tmp_path):
    sweep(tmp_path, "first")
    made = sweep(tmp_path, "second")
    for file in made.rglob("manifest.json"):
        file.write_text(file.read_text().replace('"name": "second"', '"name": "lab/second"'))
    status, output, _ = run(capsys, "leaderboard", tmp_path, "--html", tmp_path / "board.html")
    assert status == 0 and "board-lab-second.html" in output
    assert 'href="board-lab-second.html"' in (tmp_path / "board.html").read_text()


def test_some_methods_in_another_order(capsys, tmp_path):
    folder = sweep(tmp_path, "first", ("uniform", "flow", "random"))
    output = run(capsys, "leaderboard", folder, "--filter", "flow", "--sort", "method")[1]
    assert "2 of 3 methods shown" in output and "random" not in output.replace("2 of 3", "")
    ranking = output[output.index("Levels") :].splitlines()
    assert [line.split()[0] for line in ranking[3:5]] == ["flow", "uniform"]
    for arguments, message in (
        (["--sort", "verdict"], "cannot be sorted by 'verdict'"),
        (["--filter", "flaw"], "no arm 'flaw'"),
    ):
        status, _, errors = run(capsys, "leaderboard", folder, *arguments)
        assert status == 2 and message in errors and errors.count("\n") == 1


def test_experiments_that_cannot_stand_together(capsys, tmp_path):
    one = sweep(tmp_path, "first")
    shutil.copytree(one, tmp_path / "copy")
    status, _, errors = run(capsys, "leaderboard", one, tmp_path / "copy")
    assert status == 2 and "hold runs of the same experiment, first" in errors and "compare" in errors
    other = sweep(tmp_path, "second")
    status, _, errors = run(capsys, "leaderboard", one, other, "--export", tmp_path / "x.json")
    assert status == 2 and "a file holds one experiment, and these are first, second" in errors
    status, _, errors = run(capsys, "leaderboard", one, other, "--baseline", "grpo")
    assert status == 2 and "no runs of 'grpo'" in errors and "first" in errors


def test_a_run_of_another_experiment_among_others_is_named(capsys, tmp_path):
    """Before, the line said that the folder had no baseline, which it has."""
    folder = sweep(tmp_path, "first", seeds=1)
    stray = write_run(folder, "flow", 7, [0.1, 0.2], experiment_hash="another")
    status, _, errors = run(capsys, "leaderboard", folder)
    assert status == 2 and errors.count("\n") == 1
    assert f"one of 2 experiments there ({stray})" in errors and "another" in errors


def test_doctor_finds_what_manifests_say_wrongly(capsys, tmp_path):
    shipped = experiments.load("decision")
    changed = {**shipped.resolved(), "seeds": 80}
    write_run(tmp_path, "uniform", 0, [0.1], experiment=shipped.resolved(), experiment_hash=shipped.hash)
    assert run(capsys, "doctor", tmp_path)[0] == 0
    wrong = write_run(tmp_path, "uniform", 1, [0.1], experiment=changed, experiment_hash=shipped.hash)
    status, output, _ = run(capsys, "doctor", tmp_path)
    assert status == 2 and "uniform seed 0: finished, sound" in output
    assert f"{wrong / 'manifest.json'}: its experiment is not the one that its hash stands for" in output
    shutil.rmtree(wrong)
    shutil.copytree(tmp_path / "uniform" / "seed-0000", tmp_path / "uniform" / "seed-0001")
    status, output, _ = run(capsys, "doctor", tmp_path)
    assert status == 2 and f"{wrong}: the same method and seed as" in output


def test_the_page_says_how_to_repeat_it(capsys, tmp_path):
    folder = sweep(tmp_path, "decision-smoke-until-decided")
    assert run(capsys, "leaderboard", folder, "--export", tmp_path / "x.html")[0] == 0
    page = (tmp_path / "x.html").read_text()
    assert "git checkout abc\n" in page and "nox -s reproduce -- decision-smoke-until-decided.toml" in page
    assert run(capsys, "leaderboard", folder, "--html", tmp_path / "y.html")[0] == 0
    assert (tmp_path / "y.html").read_text() == page
    assert "Published claims" in page  # flow beside uniform was published of others


def test_two_sweeps_are_compared(capsys, tmp_path):
    one = sweep(tmp_path, "first")
    shutil.copytree(one, tmp_path / "copy")
    status, output, _ = run(capsys, "compare", one, tmp_path / "copy")
    assert status == 0 and output.splitlines()[-1] == "6 of 6 runs are identical, bit for bit"
    shutil.rmtree(tmp_path / "copy" / "flow" / "seed-0001")
    status, output, _ = run(capsys, "compare", one, tmp_path / "copy")
    assert status == 1 and output.splitlines()[-1] == "5 of 6 runs are identical, bit for bit"
    assert any(line.split() == ["flow", "1", "only", "in", "A"] for line in output.splitlines())
    status, _, errors = run(capsys, "compare", one, sweep(tmp_path, "second"))
    assert status == 2 and "different experiments" in errors


class Terminal:
    """A command on a pseudo-terminal of 100 x 60."""

    def __init__(self, *arguments):
        self.ours, theirs = pty.openpty()
        environment = {**os.environ, "COLUMNS": "100", "LINES": "60", "TERM": "xterm"}
        command = [sys.executable, "-m", "harness.cli", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self.text = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while True:
            try:
                piece = os.read(self.ours, 65536)
            except OSError:  # its other end is closed
                return
            if not piece:
                return
            self.text += piece.decode(errors="replace")

    def wait_for(self, words, since=0):
        """The end of what was printed, once `words` are in what came after `since`."""
        for _ in range(12_000):
            if words in self.text[since:]:
                return len(self.text)
            assert self.process.poll() is None, self.text
            time.sleep(0.05)
        raise AssertionError(f"no {words!r} within ten minutes in {self.text[-2000:]!r}")


def test_a_sweep_is_watched_while_it_runs(tmp_path):
    """Before there is a folder, with a first run, with a pair; Ctrl-C ends it and leaves the last board."""
    folder = tmp_path / "runs"
    watching = Terminal("leaderboard", folder, "--watch")
    try:
        watching.wait_for("no such folder")
        write_run(folder, "flow", 0, [0.4, 0.5], EVALUATIONS)
        seen = watching.wait_for("name another with --baseline")
        write_run(folder, "uniform", 0, [0.1, 0.2], EVALUATIONS)
        seen = watching.wait_for("2 of 16 runs finished", seen)
        seen = watching.wait_for("cannot tell: one seed", 0)
        write_run(folder, "flow", 1, [0.4, 0.5], EVALUATIONS, finish=False)
        seen = watching.wait_for("flow seed 1 at step 2", seen)
        watching.wait_for("Under way", seen)
        os.kill(watching.process.pid, signal.SIGINT)
        assert watching.process.wait(timeout=60) == 0
        watching.reader.join(timeout=60)
        last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", watching.text[seen:])
        assert "Ranking by paired difference" in last and "Traceback" not in watching.text
    finally:
        watching.process.kill()
        os.close(watching.ours)


def test_a_csv_file_of_runs_made_elsewhere(capsys, tmp_path):
    """The path of someone who trained with something else: one file, one command, a table and a page."""
    file, page = tmp_path / "results.csv", tmp_path / "page.html"
    rows = [
        f"{method},{seed},{0.4 + 0.1 * (method == 'flow') + 0.01 * (seed % 3)}"
        for seed in range(4)
        for method in ("uniform", "flow")
    ]
    file.write_text("\n".join(["method,seed,pass@1", *rows]))
    command = ["leaderboard", str(file), "--smallest-difference", "0.02"]
    assert cli.main(command) == 0
    output = capsys.readouterr().out
    assert "made elsewhere" in output and "column pass@1" in output
    assert cli.main([*command, "--html", str(page)]) == 0
    assert f"flowtracer leaderboard {file} --smallest-difference 0.02" in page.read_text()
    shutil.copy(file, tmp_path / "RESULTS.CSV")  # as some machines write it
    assert cli.main(["leaderboard", str(tmp_path / "RESULTS.CSV"), *command[2:]]) == 0
    capsys.readouterr()
    sweep(tmp_path / "runs", "one")
    for arguments, words in (
        (["leaderboard", str(file)], "say it with --smallest-difference"),
        (
            ["leaderboard", str(tmp_path / "runs"), "--metric", "final_accuracy"],
            "compared by their declaration",
        ),
        (["leaderboard", str(tmp_path / "runs"), "--column", "pass@1"], "have no columns of values"),
        (["leaderboard", str(tmp_path / "no.csv"), *command[2:]], "no.csv: cannot be read: No such file"),
        ([*command, "--watch"], "not for CSV files"),
        ([*command, "--watch", "--export", str(page)], "give one of them"),
        ([*command, "--baseline", "flw"], "has no method 'flw' to compare with; did you mean 'flow'?"),
    ):
        assert cli.main(arguments) == 2
        assert words in capsys.readouterr().err


def test_a_csv_file_beside_recorded_runs(capsys, tmp_path):
    """Somebody else's table and our records in one index: the rule is for the table, records keep their declaration."""
    file = tmp_path / "results.csv"
    file.write_text("method,seed,share\nuniform,0,0.4\nflow,0,0.5\nuniform,1,0.5\nflow,1,0.55\n")
    sweep(tmp_path / "runs", "one")
    command = ["leaderboard", str(file), str(tmp_path / "runs"), "--smallest-difference", "0.125"]
    assert cli.main([*command, "--column", "share"]) == 0
    output = capsys.readouterr().out
    assert output.count("d = 0.125") == 1 and "declared" in output
