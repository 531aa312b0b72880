"""The result page of a replay, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.studies.answering import Page, changed_settings, values_fact
from harness.studies.arms import ALWAYS, arm_of
from harness.studies.figures import CATEGORIES, UNSURE, Level
from harness.studies.replay import Figures, Replay
from leaderboards.sheets import NOTHING, Sheet, level

LIMITS = (
    "All figures are of one policy and its rollouts. Another policy, or the same one later in training, may order the "
    "methods otherwise.",
    "A clearer gradient is not yet a better policy: a biased gradient may be the less noisy one, and nothing was "
    "trained.",
    "A turn has no good direction: random turns an update as well, towards nothing.",
    "Each interval is of one method by itself. Among many methods some lie apart by luck.",
    "Where two halves of the continuations hardly agree, a correlation with token values is mostly noise.",
)


def page(replayed: Replay, more: Sequence[str] = ()) -> Page:
    """The replay as a page. more: further facts."""
    rules, others = _by_role(_ordered(replayed.figures))
    return Page(
        title=f"Replay of {replayed.experiment}",
        question="Every credit method weights the tokens of the same responses, and nothing is trained. Which gives a "
        "clearer gradient than uniform credit, how far does it turn the update, and which tokens does it up-weight?",
        facts=[*facts(replayed), *more],
        rules=_gradient_sheet(
            "Gradient of uniform credit and of rules without insight", rules, _absent(rules)
        ),
        sheets=[_gradient_sheet("Gradient", others, GRADIENT), *sheets(replayed)]
        if others
        else sheets(replayed),
        limits=LIMITS,
        command=replayed.command,
    )


def _by_role(methods: Sequence[Figures]) -> tuple[list[Figures], list[Figures]]:
    """Uniform and the rules without insight; all other methods."""
    simple = [arm_of(method.credit, method.options).role in ("baseline", "rule") for method in methods]
    return (
        [method for method, is_rule in zip(methods, simple, strict=True) if is_rule],
        [method for method, is_rule in zip(methods, simple, strict=True) if not is_rule],
    )


def _absent(rules: Sequence[Figures]) -> str:
    """A note on the usual rules that were not replayed."""
    credits = [method.credit for method in rules]
    absent = [rule for rule in ALWAYS if rule not in credits]
    return f"Not replayed: {', '.join(absent)}; --methods adds them." if absent else ""


def facts(replayed: Replay) -> list[str]:
    """The policy and the rollouts that were replayed, one line a fact."""
    lines = [
        f"policy {replayed.policy}; rollouts {replayed.source}: {replayed.batches} batches, "
        f"{replayed.responses} responses, {replayed.correct:.1%} correct",
        "mean gap between the policy's log-probabilities and those that were sampled from: "
        + ("not recorded" if math.isnan(replayed.gap) else f"{replayed.gap:.2g}"),
    ]
    lines += changed_settings(replayed.changes)
    if replayed.dead:
        lines.append(
            f"{replayed.dead} of {replayed.batches} batches have no group whose rewards differ: no gradient"
        )
    lines += values_fact(replayed.valued, replayed.continuations, replayed.agreement)
    return [*lines, *(f"left out: {label}: {reason}" for label, reason in replayed.left_out.items())]


def sheets(replayed: Replay) -> list[Sheet]:
    """The tables of weights, all methods by their signal-to-noise ratio."""
    methods = _ordered(replayed.figures)
    parts = [_weight_sheet(methods, replayed.valued > 0)]
    present = [name for name in CATEGORIES if replayed.token_shares[name]]
    if present:
        of_all = ("(of all tokens)", *(f"{replayed.token_shares[name]:.1%}" for name in present))
        parts.append(
            Sheet(
                "Share of the weight",
                ("method", *present),
                (
                    of_all,
                    *(
                        (method.label, *(f"{method.shares[name]:.1%}" for name in present))
                        for method in methods
                    ),
                ),
                "Delimiters: other punctuation, and line breaks. A method without preference has the share of all "
                "tokens.",
            )
        )
    labels = [method.label for method in methods if method.label in replayed.correlations]
    return [*parts, *([_agreement_sheet(replayed, labels)] if len(labels) > 1 else [])]


def _ordered(methods: Sequence[Figures]) -> list[Figures]:
    """Methods by their signal-to-noise ratio, those without one last."""
    return sorted(
        methods, key=lambda method: -math.inf if method.ratio is None else method.ratio, reverse=True
    )


GRADIENT = (
    "Signal-to-noise ratio (power) of one batch's gradient; cosine to the uniform gradient of all other batches. Turn: "
    "1 - cosine to uniform's gradient on the same batch; random, which knows nothing, is its yardstick. s/step: median "
    "seconds of an update without sampling, on a CPU those of computing. ± 95% intervals over batches: of the turn "
    "Student's, of the others the jackknife's."
)


def _gradient_sheet(title: str, methods: Sequence[Figures], note: str) -> Sheet:
    rows = tuple(
        (
            method.label,
            level(method.ratio, method.ratio_interval),
            level(method.ratio_difference, method.ratio_difference_interval, 3, "+"),
            _text(method.to_large),
            _text(method.turn, digits=4),
            f"{method.seconds:.3f}",
        )
        for method in methods
    )
    columns = ("method", "signal/noise", "minus uniform's", "cos to large", "turn", "s/step")
    return Sheet(title, columns, rows, note)


def _weight_sheet(methods: Sequence[Figures], valued: bool) -> Sheet:
    known = any(method.decisive for method in methods)
    columns = ["method", "mean weight", "abstains", *(["AUC decisive", "among unsure"] if known else [])]
    columns += ["value, size", "value, signed"] if valued else []
    rows = tuple(
        (
            method.label,
            f"{method.mean_weight:.3f}",
            f"{method.abstained:.1%}",
            *([_text(method.decisive), _text(method.decisive_unsure)] if known else []),
            *([_text(method.value_size, "+"), _text(method.value_direction, "+")] if valued else []),
        )
        for method in methods
    )
    notes = []
    if known:
        notes.append(
            "AUC: the chance that a decisive token outweighs another; among unsure: another one of probability below "
            f"{UNSURE:g}. Surer tokens have next to no gradient. "
        )
    if valued:
        notes.append(
            "Value: rank correlation with what a token changes in the Monte Carlo value, its size, and its size in the "
            "direction of the advantage. "
        )
    return Sheet("Weights", tuple(columns), rows, "".join(notes) + "± 95% intervals over problems.")


def _agreement_sheet(replayed: Replay, labels: Sequence[str]) -> Sheet:
    def cell(row: int, column: int) -> str:
        if row == column:
            return "·"
        table = replayed.correlations if column < row else replayed.overlaps
        value = table[labels[row]][labels[column]]
        return NOTHING if math.isnan(value) else f"{100 * value:.0f}"

    places = range(len(labels))
    return Sheet(
        "Agreement of methods, in percent",
        ("method", *(str(place + 1) for place in places)),
        tuple((f"{row + 1:>2} {labels[row]}", *(cell(row, column) for column in places)) for row in places),
        "Below the diagonal the rank correlation of weights, above it the overlap of the top 40% sets, rounded down to "
        "whole tokens (chance: 40, a little less in short responses). "
        "Columns by number; means over responses. Methods of equal weights rank nothing and are left out.",
    )


def _text(value: Level, sign: str = "", digits: int = 3) -> str:
    return level(None, None) if value is None else level(value[0], value[1], digits, sign)
