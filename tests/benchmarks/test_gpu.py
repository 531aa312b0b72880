"""Protects the GPU's one command: its rehearsal runs every step, a cut loses nothing, a failure stops nothing."""

import json
import subprocess
import sys
import zipfile

import pytest

from tests.benchmarks.conftest import FOLDER

COMMAND = [sys.executable, str(FOLDER / "gpu.py")]

#: A step in place of the real ones: what it does is its name.
SCRIPT = """
import json, pathlib, sys, time
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
name, out = given["--step"], pathlib.Path(given["--out"])
if name == "pages":
    (out / "page").write_text(" ".join(sorted(path.name for path in out.glob("*.json"))))
    sys.exit()
(out / (name + ".json")).write_text(json.dumps({"rows": [name]}))
with (out / "ran").open("a") as ran:
    ran.write(name + " ")
if name == "slow":
    time.sleep(60)
if name == "broken":
    raise ValueError("of this kind")
"""


@pytest.fixture
def gpu(benchmarks, tmp_path, monkeypatch):
    """The command with three steps that are quick, too slow, and broken."""
    import gpu

    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(gpu, "_command", lambda: [sys.executable, str(script)])
    steps = (gpu.Step("slow", 2, 1, "a"), gpu.Step("broken", 30, 1, "b"), gpu.Step("quick", 30, 1, "c"))
    monkeypatch.setattr(gpu, "STEPS", steps)
    monkeypatch.setattr(gpu.signal, "signal", lambda *what: None)
    # What a step's process finds is not for the tests that come after.
    for name, value in gpu._environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return gpu


def test_a_cut_loses_nothing_and_a_failure_stops_nothing(gpu, tmp_path, capsys):
    out = tmp_path / "out"
    call = ["--minutes", "5", "--out", str(out)]
    assert gpu.main(call) == 1
    states = json.loads((out / "steps.json").read_text())
    assert [states[name]["status"] for name in ("slow", "broken", "quick")] == ["cut", "failed", "done"]
    assert json.loads((out / "slow.json").read_text()) == {"rows": ["slow"]}, (
        "what was measured before the cut stays"
    )
    assert states["broken"]["why"] == "ValueError: of this kind"
    assert any("Traceback" in line for line in states["broken"]["traceback"])
    assert (out / "page").read_text() == "broken.json quick.json slow.json steps.json"
    assert "not measured, or not to the end: slow, broken" in capsys.readouterr().out
    # The same call goes on with what did not end, and with nothing else.
    (out / "ran").unlink()
    gpu.main(call)
    assert (out / "ran").read_text() == "slow broken "


def test_without_time_only_the_pages_are_written(gpu, tmp_path):
    out = tmp_path / "out"
    assert gpu.main(["--minutes", "0", "--out", str(out)]) == 0
    assert (out / "page").read_text() == "" and not (out / "ran").exists()


def test_a_step_that_was_running_when_all_was_cut_runs_again(gpu, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "steps.json").write_text(json.dumps({"quick": {"status": "running", "rehearsed": False}}))
    assert gpu._states(out)["quick"]["status"] == "cut"
    gpu.main(["--minutes", "5", "--out", str(out), "--steps", "quick"])
    assert gpu._states(out)["quick"]["status"] == "done"


def test_a_step_is_not_begun_in_less_than_it_takes(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "STEPS", (gpu.Step("quick", 60, 50, "a"),))
    assert gpu.main(["--minutes", "1", "--out", str(tmp_path / "out")]) == 0
    state = json.loads((tmp_path / "out" / "steps.json").read_text())["quick"]
    assert state["status"] == "not started" and "it takes 50 or more" in state["why"]


def test_wheels_are_unpacked_and_their_parts_joined(gpu, tmp_path):
    wheels, site = tmp_path / "wheels", tmp_path / "out" / "site"
    wheels.mkdir()
    with zipfile.ZipFile(tmp_path / "whole", "w") as wheel:
        wheel.writestr("package/__init__.py", "value = 1\n" * 100)
    whole = (tmp_path / "whole").read_bytes()
    (wheels / "package-1-py3-none-any.whl.00").write_bytes(whole[:50])
    (wheels / "package-1-py3-none-any.whl.01").write_bytes(whole[50:])
    (wheels / "README").write_text("no wheel")
    gpu.unpack(wheels, site)
    assert (site / "package" / "__init__.py").read_text().startswith("value = 1")
    assert [path.name for path in site.parent.iterdir()] == ["site"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "kernel"], "--steps kernel: known are slow, broken, quick"),
        (["--minutes", "-1"], "--minutes -1.0: give 0 or more"),
        (["--wheels", "nowhere"], "--wheels nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line(gpu, tmp_path, capsys, arguments, said):
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--out", str(tmp_path), *arguments])
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_without_a_gpu_it_says_what_runs(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    call = [*COMMAND, "--step", "compile", "--out", str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert (
        done.stderr.strip().splitlines()[-1].startswith("torch finds no GPU here: --rehearse runs every step")
    )


@pytest.mark.slow
def test_the_rehearsal_runs_every_step(tmp_path):
    pytest.importorskip("triton", reason="triton comes with torch's CUDA builds, or with the extra `kernels`")
    done = subprocess.run(
        [*COMMAND, "--rehearse", "--out", str(tmp_path)], capture_output=True, text=True, timeout=1800
    )
    states = json.loads((tmp_path / "steps.json").read_text())
    assert done.returncode == 0, {name: state for name, state in states.items() if state["status"] != "done"}
    assert "all steps were measured" in done.stdout
    page = (tmp_path / "gpu.md").read_text()
    assert "A rehearsal with tiny shapes: no figures to keep." in page and "--rehearse" in page
    # Tiles are timed on a GPU only, and so is SmolLM2.
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("|")]
    assert [row[1] for row in rows if row[2] == "unmeasured"] == ["attention, tiles", "step, smollm2"]
    errors = json.loads((tmp_path / "kernels.json").read_text())["parts"]["errors"]
    assert len(errors) == 3 and all(row["map"] < 1e-4 for row in errors)
    assert "unmeasured" in (tmp_path / "floor.md").read_text(), (
        "a rehearsal's figures are none of the floor's"
    )


def test_the_pages_of_an_empty_folder_say_unmeasured(tmp_path):
    call = [*COMMAND, "--minutes", "0", "--out", str(tmp_path)]
    assert subprocess.run(call, timeout=300).returncode == 0
    page = (tmp_path / "gpu.md").read_text()
    assert page.count("| not started: unmeasured |") == 8 and "| credit | unmeasured |" in page
