"""Notes that a reader of a comparison needs: how far it can be repeated, what is missing, what is mixed."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from leaderboards import code, estimates
from leaderboards.declaration import NOT_DECLARED, Declaration
from leaderboards.manifest import DISTRIBUTION, UNKNOWN, weakest
from leaderboards.records import Run
from leaderboards.scores import RunScores
from leaderboards.sheets import rounded


def tier(runs: Sequence[Run], scores: Sequence[RunScores]) -> str:
    """The weakest tier of the runs; T2 where places are mixed, or a timeout depended on the machine."""
    claimed = [run.manifest.tier for run in runs]
    claimed += [
        str(run.closing["summary"]["tier"])
        for run in runs
        if run.closing and "tier" in run.closing["summary"]
    ]
    timeouts = sum(score.total("timeout") + score.training.get("timeout", 0) for score in scores)
    mixed = any(len(_places(runs, key)) > 1 for key in ("versions", "hardware"))
    return weakest([*claimed, *([DISTRIBUTION] if mixed or timeouts else [])])


def _places(runs: Sequence[Run], key: str) -> list[Any]:
    """The different values that a key of the places has where the runs were made."""
    values: list[Any] = []
    for run in runs:
        for place in run.manifest.places:
            if getattr(place, key) not in values:
                values.append(getattr(place, key))
    return values


def run_set_hash(runs: Sequence[Run]) -> str:
    """Of the contents of finished runs: two folders with the same hash hold the same rollouts and steps."""
    lines = []
    for run in sorted(runs, key=lambda run: (run.method, run.seed)):
        assert run.closing is not None
        hashes = run.closing["content_hash"]
        lines.append(" ".join([run.method, str(run.seed), *(hashes[name] for name in sorted(hashes))]))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def notes(
    runs: Sequence[Run],
    finished: Sequence[Run],
    scores: Mapping[tuple[str, int], RunScores],
    methods: Mapping[str, Any],
    declaration: Declaration,
) -> Iterator[str]:
    """Sentences on unfinished and missing runs, mixed places, rollouts left out, answers that were not judged, and
    credit that did nothing.
    """
    if any(run.manifest.tier == UNKNOWN for run in finished):
        yield (
            "made elsewhere: what these runs share on a seed, and what was declared before the first of them, is not "
            "known here"
        )
    unfinished = [f"{run.method} seed {run.seed}" for run in runs if not run.finished]
    if unfinished:
        yield f"{len(unfinished)} unfinished, not counted: {_some(unfinished)}"
    absent = [label for label in methods if label not in {run.method for run in finished}]
    if absent:
        yield f"declared but without a finished run: {', '.join(absent)}"
    declared = finished[0].manifest.experiment.get("seeds")
    if not declaration.sequential and isinstance(declared, int):
        counts = sorted(Counter(run.method for run in finished).values())
        if counts[-1] > declared:
            yield (
                f"{counts[-1]} seeds are run and {declared} were declared: seeds that are added after a look make a "
                "false finding likelier than alpha; `--until-decided` may look after every seed"
            )
        if counts[0] < declared:
            span = f"{counts[0]} to {counts[-1]}" if counts[0] < counts[-1] else str(counts[0])
            yield (
                f"{span} of the {declared} declared seeds are run: an outcome before the last one is a look, not the "
                "declared test"
            )
    if skipped := _skipped(runs, declaration):
        yield (
            f"no run, though later seeds have one: {_some(skipped)}: a seed that is left out after a look makes a "
            "false finding likelier than alpha"
        )
    composed = {run.method: run.manifest.composition for run in finished if run.manifest.composition}
    for label, words in sorted(composed.items()):
        yield f"{label} puts credit methods together: {words}"
    for label, seeds, lines in code.mixtures([run.manifest for run in finished]):
        yield f"{label}: {code.runs_by_other_code(len(seeds), lines)} (seed {', '.join(map(str, seeds))})"
    for key, what in (("versions", "sets of versions"), ("hardware", "machines"), ("git_commit", "commits")):
        places = _places(finished, key)
        if len(places) > 1:
            yield f"runs come from {len(places)} different {what}"
    for label, shares in _left_out(finished).items():
        if max(shares) > 0:
            mean, most = 100 * sum(shares) / len(shares), 100 * max(shares)
            yield (
                f"importance sampling left {mean:.1f}% of the rollouts of {label} out of the loss, {most:.1f}% at most "
                "in a run: engine and trainer gave them other probabilities"
            )
    unjudged = "; they count in no mean, so that arms may be measured by different answers"
    for verdict, what, so in (("timeout", "timed out", ""), ("error", "could not be judged", unjudged)):
        hit = [
            f"{label} seed {seed}"
            for (label, seed), score in sorted(scores.items())
            if score.answers.get(verdict) or score.training.get(verdict)
        ]
        if hit:
            yield f"answers {what} in {len(hit)} run{'s' * (len(hit) != 1)}: {_some(hit)}{so}"
    yield from _without_credit(scores)


def _skipped(runs: Sequence[Run], declaration: Declaration) -> list[str]:
    """Seeds of an arm that have no run, finished or not, and lie below one that has.

    A sweep makes them in their order. Where none was declared, as in a file of others' values, seeds are mere names.
    """
    if declaration.stopping == NOT_DECLARED:
        return []
    seeds: dict[str, set[int]] = {}
    for run in runs:
        seeds.setdefault(run.method, set()).add(run.seed)
    return [
        f"{label} seed {seed}"
        for label, these in sorted(seeds.items())
        for seed in range(max(these))
        if seed not in these
    ]


def weakened(differences: Mapping[str, Sequence[float]], declaration: Declaration) -> Iterator[str]:
    """Sentences on arms whose e-value was large enough once, and has fallen below 1 / alpha since.

    differences: by the label of an arm that is decided `better` or `worse`, in the order of the seeds. The decision
    stands, as the test looks at the largest e-value; a reader should know what the seeds behind it say.
    """
    if not declaration.sequential or declaration.scale is None:
        return
    for label, values in differences.items():
        process = estimates.e_process(values, declaration.scale)
        if process[-1] < 1 / declaration.alpha:
            yield (
                f"{label}: decided by an e-value of {process.max():.3g} after {int(process.argmax()) + 1} seeds; after "
                f"{len(process)} seeds it is {process[-1]:.2g}: the seeds since then speak against it"
            )


def _without_credit(scores: Mapping[tuple[str, int], RunScores]) -> Iterator[str]:
    """Sentences on arms in which some run's credit told no token of a response from another."""
    unjudged: dict[str, list[str]] = {}
    zero: dict[str, list[str]] = {}
    for (label, seed), score in sorted(scores.items()):
        if score.training.get("abstained") == 1:
            unjudged.setdefault(label, []).append(str(seed))
        elif score.training.get("mean_weight") == 0 and _weighs_nothing(score.run):
            zero.setdefault(label, []).append(str(seed))
    for label, seeds in unjudged.items():
        yield f"{label}: no response was judged in seed {', '.join(seeds)}: every weight was a constant"
    for label, seeds in zero.items():
        yield f"{label}: every weight was 0 in seed {', '.join(seeds)}: nothing was trained"


def _weighs_nothing(run: Run) -> bool:
    """True if every recorded weight is 0; weights of a method with negative ones may have the mean 0."""
    weights = pc.list_flatten(run.table("rollouts", ["weights"])["weights"])
    return not pc.any(pc.not_equal(weights, 0)).as_py()


def _left_out(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Per arm, the share that each run lost to importance sampling; only of engines that give another probability."""
    shares: dict[str, list[float]] = {}
    for run in runs:
        assert run.closing is not None
        if "left_out" in run.closing["summary"]:
            shares.setdefault(run.method, []).append(float(run.closing["summary"]["left_out"]))
    return shares


def nothing_learnt(scores: Sequence[RunScores], declaration: Declaration) -> Iterator[str]:
    """A comparison by evaluations, in which the baseline cannot be told from its own start, tests no credit."""
    if declaration.metric == "training_reward_area" or any(len(score.accuracies) < 2 for score in scores):
        return
    gains = [
        score.accuracies[max(score.accuracies)] - score.accuracies[min(score.accuracies)] for score in scores
    ]
    mean, interval = math.fsum(gains) / len(gains), estimates.t_interval(gains, 1 - declaration.alpha)
    if interval is not None and interval[0] <= 0:
        size = f"{mean:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"
    elif (
        estimates.spread(gains) == 0 and mean < 1e-12
    ):  # an evaluation that nobody solves, at the start or the end
        size = f"{rounded(mean, 3):+.3f} on every seed"
    else:
        return
    yield (
        f"{scores[0].run.method} itself gains {size} over its start: credit has little to show where little is learnt"
    )


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
