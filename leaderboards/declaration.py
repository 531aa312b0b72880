"""Declarations: metric, smallest difference that matters and stopping rule, fixed before the first run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

#: What an experiment can declare to be its metric, and how that is said in words.
METRICS = {
    "training_reward_area": "training reward (mean over steps)",
    "evaluation_area": "evaluation accuracy (area over steps)",
    "final_accuracy": "accuracy at the last step",
}
#: The two stopping rules: all declared seeds, or an e-process looked at after every seed.
FIXED, UNTIL_DECIDED = "fixed number of seeds", "until decided"
#: The method that all others are compared with, where nobody says otherwise.
BASELINE = "uniform"
#: Stands for what a recorded declaration lacks.
NOT_DECLARED = "not declared"


@dataclass(frozen=True)
class Declaration:
    """The rule that turns runs into a result, declared before the first run.

    metric: one of METRICS: "training_reward_area" (mean reward over training), "evaluation_area" (area under the
    evaluation curve) or "final_accuracy". smallest_difference: d, the smallest difference that matters, in the metric's
    unit. alpha: the error rate over all arms together, once for each kind of outcome: the chance of any false better or
    worse, and that of any false "no difference". The chance of either is at most twice alpha. estimand: in words.
    stopping: "fixed number of seeds", or "until decided", where the experiment's seeds are the most that will be run
    and `scale` is the spread of a per-seed difference that the e-process assumes.
    """

    metric: str
    smallest_difference: float
    alpha: float = 0.05
    estimand: str = "these problems, new training seeds"
    stopping: str = FIXED
    scale: float | None = None

    @property
    def sequential(self) -> bool:
        """True where the number of seeds depends on what they show."""
        return self.stopping.strip().lower().startswith(UNTIL_DECIDED)

    def fault(self) -> str | None:
        """Why no comparison can follow this declaration: a sentence that begins with the key; None for a sound one."""
        checks = [
            (self.metric in METRICS, f"metric must be one of {', '.join(METRICS)}, not {self.metric!r}"),
            (
                _number(self.smallest_difference) and 0 < self.smallest_difference < math.inf,
                f"smallest_difference must be positive, not {self.smallest_difference!r}",
            ),
            (
                _number(self.alpha) and 0 < self.alpha < 1,
                f"alpha must lie between 0 and 1, not {self.alpha!r}",
            ),
            (
                not self.sequential or (_number(self.scale) and 0 < (self.scale or 0) < math.inf),
                f"scale must be a positive number where stopping is {UNTIL_DECIDED!r}, not {self.scale!r}",
            ),
        ]
        return next((f"declaration.{words}" for holds, words in checks if not holds), None)

    @classmethod
    def recorded(cls, table: Mapping[str, Any]) -> Declaration:
        """The declaration that a manifest holds, as far as it can be read; `fault` says what is wrong with it.

        What an old one lacks is marked as not declared, and keys that this version does not know are left out.
        """
        missing = {"metric": None, "smallest_difference": None, "alpha": None}
        said = {"estimand": NOT_DECLARED, "stopping": NOT_DECLARED, "scale": None}
        values = {**missing, **said, **table}
        known = {option.name: values[option.name] for option in fields(cls)}
        return cls(**{**known, **{name: str(known[name]) for name in ("estimand", "stopping")}})


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
