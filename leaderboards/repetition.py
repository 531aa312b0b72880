"""Repetition: two recorded sweeps compared run by run and bit by bit, and the step where they first differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leaderboards.format import TABLES, RecordError, content_hash
from leaderboards.records import Run

#: Within a step, rollouts come before what they lead to; an evaluation at step n comes before the rollouts of step n.
_ORDER = ("samples", "rollouts", "steps")


@dataclass(frozen=True)
class Pair:
    """One method and seed in two folders; None where a folder has no such run."""

    method: str
    seed: int
    first: Run | None
    second: Run | None
    #: Table and step of the first difference in what both recorded, and the columns that differ there.
    differs: tuple[str, int, tuple[str, ...]] | None
    #: True if both recorded the same steps; a run that stands in one folder only did not.
    whole: bool

    @property
    def identical(self) -> bool:
        """True where every recorded value is the same; measured times and memory are no results."""
        return self.differs is None and self.whole

    @property
    def text(self) -> str:
        """The comparison of the two, in words."""
        if self.first is None or self.second is None:
            return f"only in {'B' if self.first is None else 'A'}"
        if self.differs is not None:
            table, step, columns = self.differs
            return f"first differs at step {step}, {table}: {', '.join(columns)}"
        if self.whole:
            return "identical" + ("" if self.first.finished and self.second.finished else ", not finished")
        return f"identical as far as {'A' if not self.first.finished else 'B'} goes"


def pair_up(first: Sequence[Run], second: Sequence[Run]) -> list[Pair]:
    """Every run of two folders beside its like, by experiment, method and seed; everything is read and hashed.

    Raises RecordError for two runs of the same identity in one folder, and for folders without an experiment in common.
    """
    runs_a, runs_b = _by_identity(first), _by_identity(second)
    if not {key[0] for key in runs_a} & {key[0] for key in runs_b}:
        names = [run.manifest.described for run in (first[0], second[0])]
        raise RecordError(
            f"{first[0].folder} and {second[0].folder} are runs of different experiments, {names[0]} and {names[1]}; "
            "give two folders of the same one"
        )
    pairs = []
    for key in sorted(runs_a.keys() | runs_b.keys()):
        left, right = runs_a.get(key), runs_b.get(key)
        differs, whole = _difference(left, right) if left and right else (None, False)
        pairs.append(Pair(key[1], key[2], left, right, differs, whole))
    return pairs


def _by_identity(runs: Sequence[Run]) -> Mapping[tuple[str, str, int], Run]:
    by_identity: dict[tuple[str, str, int], Run] = {}
    for run in runs:
        twin = by_identity.setdefault((run.manifest.experiment_hash, run.method, run.seed), run)
        if twin is not run:
            raise RecordError(
                f"two runs of {run.method} with seed {run.seed}: {twin.folder} and {run.folder}; remove one"
            )
    return by_identity


def _difference(first: Run, second: Run) -> tuple[tuple[str, int, tuple[str, ...]] | None, bool]:
    differing, whole = [], True
    for table in TABLES:
        hashes_a, hashes_b = first.step_hashes(table), second.step_hashes(table)
        whole = whole and hashes_a.keys() == hashes_b.keys()
        steps = [step for step in hashes_a if step in hashes_b and hashes_a[step] != hashes_b[step]]
        if steps:
            differing.append((min(steps), _ORDER.index(table), table))
    if not differing:
        return None, whole
    step, _, table = min(differing)
    left, right = (run.table(table, step=step) for run in (first, second))
    columns = tuple(
        name
        for name in left.column_names
        if name != "step"
        and content_hash(left.select(["step", name])) != content_hash(right.select(["step", name]))
    )
    return (table, step, columns), whole


def places(first: Sequence[Run], second: Sequence[Run]) -> list[str]:
    """In what the places differ where the two were made: versions, hardware, commit; a line each."""
    lines = []
    left, right = first[0].manifest, second[0].manifest
    for key in ("versions", "hardware"):
        these, those = getattr(left, key), getattr(right, key)
        for name in sorted(these.keys() | those.keys()):
            values = these.get(name), those.get(name)
            if values[0] != values[1]:
                lines.append(f"{name}: {values[0]} in A, {values[1]} in B")
    if left.git_commit != right.git_commit:
        lines.append(f"commit: {left.git_commit or 'unknown'} in A, {right.git_commit or 'unknown'} in B")
    return lines
