"""The steps of `gpu.py`: what each measures, at full size on a GPU and with tiny shapes in a rehearsal."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import measure
import torch
from records import Records
from report import Row

from harness.shapes import SHAPES, Shape

ROOT = Path(__file__).resolve().parent.parent
#: What a rehearsal measures in place of the paper's shapes.
TINY = Shape(3, 32, 48, 4, 2, 16, 64, True, 4096, True)
LARGE, LARGER = "Qwen/Qwen3-4B-Base", "Qwen/Qwen3-8B-Base"
#: Tiles of the head mean that are timed beside the one in use: rows, columns, warps, stages.
TILES = (
    (64, 128, 4, 2),
    (64, 128, 4, 3),
    (128, 64, 8, 2),
    (128, 128, 8, 2),
    (128, 128, 8, 3),
    (64, 64, 4, 2),
)


def run(name: str, out: Path, rehearsed: bool, seconds: float) -> None:
    """Runs a step, or writes the pages."""
    warnings.filterwarnings("ignore")
    if name == "pages":
        import gpu_pages

        gpu_pages.write(out)
        return
    if not rehearsed and measure.device() != "cuda":
        raise SystemExit("torch finds no GPU here: --rehearse runs every step without one")
    STEPS[name](Records(name, out, rehearsed, seconds))


@contextmanager
def stood_in() -> Iterator[None]:
    """Inside, the tests' stand-in is the GPU: to measure on, and for commands to move policies to."""
    from tests.harness.standin import DEVICE, moved, standin

    with standin(), patch.object(measure, "stand_in", str(DEVICE)), patch("harness.policy.to_gpu", moved):
        yield


def kernels(records: Records) -> None:
    """Errors of the kernels and of the tap, and the tests marked gpu."""
    import triton_kernels as checks

    dtypes, shapes, tokens = (
        (torch.bfloat16, torch.float16, torch.float32),
        [(32, 8, 1000, 128), (9, 3, 700, 64)],
        2000,
    )
    if records.rehearsed:
        dtypes, shapes, tokens = dtypes[:1], [(4, 2, 70, 24)], 100
    for dtype in dtypes:
        for shape in shapes:
            for padded in (True, False):
                records.add("errors", checks.errors(dtype, shape, padded))
        records.add("errors", checks.tap_errors(dtype, tokens))
    only = ["-k", "test_the_interpreter_or_the_gpu_is_what_runs"] if records.rehearsed else []
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *only]
    done = subprocess.run(
        [*command, "tests/flowtracer/test_kernels.py"], cwd=ROOT, capture_output=True, text=True
    )
    print(done.stdout, done.stderr)
    records.put("tests", [{"status": done.returncode, "said": done.stdout.strip().splitlines()[-1:]}])
    if done.returncode:
        raise SystemExit(f"tests marked gpu failed:\n{done.stdout[-3000:]}")


def credit(records: Records) -> None:
    """Credit inside a training forward, by length; the length of the goal first."""
    import credit as benchmark

    if records.rehearsed:
        SHAPES["tiny"] = TINY
        with stood_in():
            benchmark.at("tiny", 48, measure.Settings(repeats=1), lambda rows: records.put("48", rows))
        return
    for tokens in (8192, 1024, 32768):
        benchmark.at(
            LARGE, tokens, measure.Settings(), lambda rows, tokens=tokens: records.put(str(tokens), rows)
        )


def attention(records: Records) -> None:
    """Tap and solves on their own, then the head mean with other tiles."""
    import attention_only

    add = partial_add(records, "parts")
    if records.rehearsed:
        attention_only.measured("tiny", TINY, 64, 1, add)
        attention_only.measured("tiny", TINY, 96, 1, add, dense_tokens=64)
        return
    attention_only.measured(LARGE, SHAPES[LARGE], 8192, 5, add)
    for size in TILES:
        attention_only.tile(SHAPES[LARGE], 8192, size, 5, partial_add(records, "tiles"))
    for policy, tokens in ((LARGER, 131072), (LARGE, 1024), (LARGE, 32768)):
        attention_only.measured(policy, SHAPES[policy], tokens, 3, add)


def partial_add(records: Records, part: str) -> Callable[[Row], None]:
    """A function that keeps one more row of that part."""
    return lambda row: records.add(part, row)


def repeat(records: Records) -> None:
    """Two equal runs of decision, and the first step at which each of their tables differs."""
    from harness import cli
    from leaderboards import load

    folder = records.out / "repeat"
    shutil.rmtree(folder, ignore_errors=True)
    runs = []
    for name in ("first", "second"):
        begin = time.perf_counter()
        place = folder / name
        status = cli.main(
            ["train", "decision", "--method", "flow", "--seed", "0", "--smoke", "--out", str(place)]
        )
        if status:
            raise SystemExit(f"train decision --smoke ended with status {status}")
        runs.append(load(place)[0])
        records.add("runs", {"run": name, "seconds": time.perf_counter() - begin})
    for table in ("rollouts", "samples"):
        hashes = [run.step_hashes(table) for run in runs]
        records.add("tables", _difference(table, *hashes))
    parameters = [
        {row["step"]: row["parameters_hash"] for row in run.table("steps").to_pylist()} for run in runs
    ]
    records.add("tables", _difference("parameters", *parameters))


def _difference(table: str, first: dict[int, str], second: dict[int, str]) -> Row:
    steps = sorted(first.keys() | second.keys())
    differs = next((step for step in steps if first.get(step) != second.get(step)), None)
    return {"table": table, "steps": len(steps), "first_difference": differs}


def step(records: Records) -> None:
    """Training steps by phase, stock TRL beside ours."""
    import training_step as benchmark

    lengths = {"decision": 25, "smollm2": benchmark.WARM_UP + 5}
    if records.rehearsed:
        lengths = {"decision": benchmark.WARM_UP + 2}
    for name, steps in lengths.items():
        experiment = benchmark.short(name, steps)

        def record(measured: dict[str, Row], name: str = name) -> None:
            rows = [benchmark.row("transformers", arm, row) for arm, row in measured.items()]
            records.put(name, rows)

        benchmark.measured(experiment, benchmark.ARMS, 1, record)


def small(records: Records) -> None:
    """Memory of one update of a small policy, as measured, beside its plan and the simulation."""
    import memory

    for variant in memory.VARIANTS[3:4] if records.rehearsed else memory.VARIANTS:
        if records.rehearsed:
            row = memory.row(variant, TINY, memory.Update(rollouts=2, prompt=8, response=24), measured=False)
        else:
            row = memory.row(variant, SHAPES[memory.POLICY], memory.DECLARED, measured=True)
        records.add("variants", row)


def compile_kernels(records: Records) -> None:
    """The kernels' share of a multiprocessor, by the triton of this environment."""
    import triton_kernels as checks

    for what in checks.COMPILED[1::4] if records.rehearsed else checks.COMPILED:
        for name in checks.KERNELS:
            records.add("resources", checks.resources(name, *what))


def replay(records: Records) -> None:
    """Token values and all methods on the same rollouts: a small count first, then more as long as there is time."""
    from harness import cli

    name, sizes = "smollm2", ((2, 4, 8), (8, 16, 16), (32, 32, 16), (64, 64, 32))
    extra = []
    if records.rehearsed:
        name, sizes, extra = "decision", ((2, 2, 2),), ["--set=training.prompts_per_step=2", "--methods=flow"]
    last, work = 0.0, 0
    for batches, valued, continuations in sizes:
        more = max(batches / sizes[0][0], valued * continuations / (sizes[0][1] * sizes[0][2]))
        if last and records.left < 1.2 * last * more / work:
            break
        files = [records.out / f"replay-{name}.{kind}" for kind in ("json", "md")]
        exports = [f"--export={file}" for file in files]
        sized = [f"--batches={batches}", f"--valued={valued}", f"--continuations={continuations}"]
        begin = time.perf_counter()
        if records.rehearsed:
            with stood_in():
                status = cli.main(["replay", name, *sized, *extra, *exports])
        else:
            status = cli.main(["replay", name, *sized, *extra, *exports])
        if status:
            raise SystemExit(f"replay {name} ended with status {status}")
        last, work = time.perf_counter() - begin, more
        row = {"experiment": name, "batches": batches, "valued": valued, "continuations": continuations}
        records.add("replays", {**row, "seconds": last, "files": [file.name for file in files]})


STEPS: dict[str, Callable[[Records], None]] = {
    "kernels": kernels,
    "credit": credit,
    "attention": attention,
    "repeat": repeat,
    "step": step,
    "small": small,
    "compile": compile_kernels,
    "replay": replay,
}
