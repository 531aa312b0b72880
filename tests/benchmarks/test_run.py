"""Protects the benchmarks: each runs in one command, and its tables hold every row and figure that it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    names = ["credit", "step", "verify", "leaderboard"]  # the others have tests of their own
    command = [sys.executable, str(RUN), *names, "--smoke", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


def read(folder, name):
    record = json.loads((folder / f"{name}.json").read_text())
    assert record["versions"]["torch"] and record["hardware"]["cores"] and record["date"]
    page = (folder / f"{name}.md").read_text()
    for table in record["tables"]:
        assert table
    assert "--smoke" in page
    return record["tables"], page


def test_credit(results):
    (rows, growth), page = read(results, "credit")
    methods = ["training step", "plain forward", "credit", "extra forward", "extra forward, loops"]
    assert [(row["tokens"], row["method"]) for row in rows] == [(t, m) for t in (32, 64) for m in methods]
    assert [row["method"] for row in growth] == methods
    for row in rows:
        assert row["megabytes"] >= 0
        # Credit is a difference of two forwards, which noise can turn round at this size.
        assert row["seconds"]["median"] > 0 or row["method"] == "credit"
        assert f"| {row['tokens']} | {row['method']} |" in page
    assert all(row["own_clock"]["median"] > 0 for row in rows if row["method"] == "credit")
    # The ways that are compared find the same throughput, or speed would mean nothing.
    assert all(row["difference"] < 1e-4 for row in rows if row["method"].startswith("extra"))
    assert all((results / f"credit-{theme}.png").stat().st_size > 10_000 for theme in ("light", "dark"))


def test_credit_of_a_random_policy_of_a_given_shape(monkeypatch):
    """What is measured of the paper's shapes on a GPU: credit and training run, and agree with an extra forward."""
    monkeypatch.syspath_prepend(RUN.parent)
    import credit
    import torch

    from harness.shapes import Shape

    small = Shape(3, 32, 48, 4, 2, 16, 64, True, 128, True)
    monkeypatch.setitem(credit.SHAPES, "small", small)
    case = credit.Case("small", 48, True)
    assert sum(one.numel() for one in case.model.parameters()) == small.parameters
    case.train()
    extra = credit.Case("small", 48, True, attention="eager").extra_forward(credit.vectorised)
    throughput, seconds = case.forward_with_credit()
    assert seconds > 0 and torch.allclose(throughput, extra, rtol=1e-4)


def test_step(results):
    (rows, parts), page = read(results, "step")
    assert [(row["engine"], row["arm"]) for row in rows] == [
        (engine, arm) for engine in ("transformers", "vllm") for arm in ("stock TRL", "uniform", "flow")
    ]
    assert all("note" not in row for row in rows[:3])
    for row in rows:
        if "note" in row:
            assert row["note"] == "vLLM not installed" or row["arm"] == "stock TRL"
            assert row["note"] in page
            continue
        phases = [row[phase]["median"] for phase in ("rollout", "reward", "credit", "update")]
        assert all(seconds > 0 for seconds in phases) or row["arm"] == "stock TRL"
        assert row["rollout"]["median"] < row["step"]["median"]
        # 32 responses a step, of 10 tokens or more.
        assert row["tokens_a_second"]["low"] * row["step"]["high"] > 320 / 2
        assert row["steps"] == 3
        assert row["megabytes"] > 100 and row["processor"]["median"] > 0
    assert "On transformers, flow's credit takes" in page
    # Each part happens in every step: 0 would say that what is timed is no longer called.
    assert {part["thread"] for part in parts} == {"training", "background"}
    assert all(part["milliseconds"] > 0 and f"| {part['part']} |" in page for part in parts)


def test_verify(results):
    (rows,), page = read(results, "verify")
    assert len(rows) == 11 and {row["task"] for row in rows} == {"gsm8k", "math500"}
    for row in rows:
        assert row["ours"]["median"] > 0 and row["math_verify"]["median"] > 0
        assert row["ours_as_expected"] == 1.0, row["kind"]
        assert row["kind"] in page


def test_leaderboard(results):
    (rows,), page = read(results, "leaderboard")
    assert [row["what"] for row in rows] == ["table", "page"]
    for row in rows:
        assert row["seconds"]["median"] > 0 and row["rollouts"] == 2 * 2 * 10 * 32
        assert f"| {row['what']} | 1,280 | 4 |" in page


def test_unknown_name():
    done = subprocess.run([sys.executable, str(RUN), "sped"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert (
        "unknown benchmark 'sped'; known: credit, step, verify, leaderboard, kernels, memory, floor"
        in done.stderr
    )
