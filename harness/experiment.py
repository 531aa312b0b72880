"""Experiments: one declarative object, read from one TOML file.

An experiment says what is compared (methods), on what (policy, task), how (training, evaluation), how often (seeds),
and what will count as a result (declaration), before the first run. Its hash covers everything but the methods:
adding an arm changes no other arm's run, changing anything else makes it another experiment.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import bounds, plugins
from harness.engines.base import ENGINES, FLOAT32, TRANSFORMERS, EngineChoice, Sampling
from harness.errors import ExperimentError
from leaderboards.declaration import BASELINE, FIXED, UNTIL_DECIDED, Declaration
from leaderboards.names import hint

if TYPE_CHECKING:
    import tasks

FOLDER = Path(__file__).parent / "experiments"
REWARDS = ("verdict", "random")
WHITENED = ("", "before", "after")
#: AdamW with float32 moments, and with moments of 8 bits (Dettmers et al. 2022, arXiv 2110.02861).
ADAMW, ADAMW_8BIT = OPTIMIZERS = ("adamw", "adamw_8bit")
#: An e-process takes a median of 31 seeds at an effect of half its scale: a lower cap would mostly end undecided.
LEAST_CAP = 30
#: Options that came after runs had been recorded. At their defaults they stand in no record and no hash: an experiment
#: that does not use them stays what it was.
LATER = {
    "training": ("false_rewards", "false_refusals", "dual_clip", "whiten", "advantage_clip", "turn_every"),
    "evaluation": ("top_k", "top_p"),
}
#: Keys of an experiment's file that are none of `Experiment`, and what each says. `from_table` takes them out.
OF_FILES = {
    "base": "the name or the file of another experiment; this file then says only what differs",
    "imports": "an array of files and modules with credit methods and tasks of your own, as `--import` takes them; "
    "paths are relative to this file",
    "smoke": "a table: what `--smoke` changes, under the keys of this page. It makes another experiment, NAME-smoke",
    "until_decided": "a table: what `--until-decided` changes, `declaration.stopping` aside. `seeds` is the most that "
    f"are run, at least {LEAST_CAP}, and `declaration.scale` must be there. It makes another experiment, "
    "NAME-until-decided",
}
#: Settings that all arms share, whatever else of the training an arm changes: the prompts, and the steps that they are
#: compared at.
SHARED = ("steps", "prompts_per_step", "reward")


@dataclass(frozen=True)
class PolicySettings:
    """The initial policy: a shipped name, a folder, or an id on the hub; and how prompts are rendered for it."""

    name: str
    chat: bool | None = None
    system: str | None = None
    dtype: str = FLOAT32


@dataclass(frozen=True)
class Training:
    """One GRPO run. A step is one rollout batch of prompts_per_step x samples_per_prompt responses.

    micro_batch: rollouts in one forward, 0 for all. updates_per_batch: optimizer updates on one rollout batch.
    save_every: steps between checkpoints, from which a stopped run goes on; they lie between rollout batches, for only
    there a run resumes bit for bit. loss_type: grpo, dr_grpo, dapo, bnpo, cispo, sapo or vespo, as TRL names them.
    scale_rewards: group, batch or none. schedule: of the learning rate, constant, constant_with_warmup, linear, cosine,
    cosine_with_restarts, polynomial or inverse_sqrt. clip_range_high: the upper clip range where it differs from the
    lower. mask_truncated: responses that were cut off leave the loss. lora_rank: 0 trains every parameter. optimizer:
    "adamw", or "adamw_8bit", whose moments take a quarter of the memory (bitsandbytes). reward: "verdict", or "random",
    a control that rewards half of the rollouts whatever they say. false_rewards, false_refusals: a verifier that is
    wrong on purpose, in training only: the share of responses that are not correct and are rewarded all the same, and
    of correct ones that are not. dual_clip: where the advantage is negative, the ratio counts at most so much; 0: off.
    whiten: "before" or "after" the token weights, advantages are whitened over the batch's tokens; "": not at all.
    advantage_clip: advantages are clamped to so much at last; 0: off. turn_every: at every so many steps, measure how
    far credit turns the update away from uniform's, by one more forward and backward, in one process; 0: never.
    """

    steps: int
    prompts_per_step: int
    samples_per_prompt: int
    max_response_tokens: int
    learning_rate: float
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    loss_type: str = "dapo"
    scale_rewards: str = "group"
    clip_range: float = 0.2
    clip_range_high: float | None = None
    mask_truncated: bool = False
    reward: str = "verdict"
    false_rewards: float = 0.0
    false_refusals: float = 0.0
    dual_clip: float = 0.0
    whiten: str = ""
    advantage_clip: float = 0.0
    kl_coefficient: float = 0.0
    max_gradient_norm: float = 1.0
    adam_beta2: float = 0.999
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0
    micro_batch: int = 0
    updates_per_batch: int = 1
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    optimizer: str = "adamw"
    save_every: int = 25
    turn_every: int = 0

    @property
    def pays_verdicts(self) -> bool:
        """True where a response's reward is its verdict, and nothing else."""
        return self.reward == "verdict" and not self.false_rewards and not self.false_refusals

    @property
    def rollouts(self) -> int:
        """Rollouts of one step."""
        return self.prompts_per_step * self.samples_per_prompt

    @property
    def sampling(self) -> Sampling:
        """How its rollouts are drawn."""
        return Sampling(self.max_response_tokens, self.temperature, self.top_k, self.top_p)


@dataclass(frozen=True)
class EvaluationTask:
    """A test set: a task with its options, how many problems of its test split, and samples a problem.

    No two are of one task, nor is one of the training task where that has test problems: records tell samples apart by
    the task's name.
    """

    task: Mapping[str, Any]
    problems: int
    samples: int = 1
    max_response_tokens: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """Evaluation every `every` steps, at step 0 and at the end, with keyed noise at `temperature` (0: greedy), from
    the `top_k` likeliest tokens (0: all) and those of probability `top_p` together.

    On the training task's own test split, and on the test sets under `more`, which the declared metric leaves out.
    More problems than a split holds are refused; with `fewer`, all that it holds are taken. That key is in no hash.
    """

    every: int
    problems: int
    samples: int = 1
    temperature: float = 1.0
    batch_size: int = 64
    top_k: int = 0
    top_p: float = 1.0
    fewer: bool = False
    more: tuple[EvaluationTask, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """A whole experiment.

    engine: what samples rollouts and evaluations, one of `harness.engines.base.ENGINES`. methods: label of an arm ->
    {"credit": name of a method or names of several, "training": what this arm trains otherwise, option: value, ...}.
    """

    name: str
    title: str
    seeds: int
    declaration: Declaration
    policy: PolicySettings
    task: Mapping[str, Any]
    training: Training
    evaluation: Evaluation
    engine: str = TRANSFORMERS
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks = [
            (self.seeds >= 1, "seeds must be at least 1"),
            (bool(self.methods), "at least one arm under [methods] is needed"),
            (self.engine in ENGINES, f"engine must be one of {', '.join(ENGINES)}"),
            (
                self.declaration.stopping in (FIXED, UNTIL_DECIDED),
                f"declaration.stopping must be {FIXED!r} or {UNTIL_DECIDED!r}",
            ),
            (
                self.declaration.sequential or self.declaration.scale is None,
                f"declaration.scale goes with stopping {UNTIL_DECIDED!r} and with no other",
            ),
            (
                self.declaration.stopping != UNTIL_DECIDED or BASELINE in self.methods,
                f"stopping {UNTIL_DECIDED!r} needs the arm {BASELINE}, which the others are compared with",
            ),
            (self.evaluation.every >= 1, "evaluation.every must be at least 1"),
            (self.evaluation.problems >= 1, "evaluation.problems must be at least 1"),
            (self.evaluation.samples >= 1, "evaluation.samples must be at least 1"),
            (self.evaluation.temperature >= 0, "evaluation.temperature must not be negative"),
            (self.evaluation.top_k >= 0, "evaluation.top_k must not be negative"),
            (0 < self.evaluation.top_p <= 1, "evaluation.top_p must be above 0 and at most 1"),
            ("name" in self.task, "task.name is missing"),
            (isinstance(self.task.get("name", ""), str), "task.name must be the name of a task"),
        ]
        fault = self.declaration.fault()
        if fault:
            raise ExperimentError(f"experiment {self.name}: {fault}")
        for holds, message in checks:
            if not holds:
                raise ExperimentError(f"experiment {self.name}: {message}")
        for label in self.methods:
            if not label.replace("_", "").replace("-", "").replace(".", "").isalnum():
                raise ExperimentError(
                    f"experiment {self.name}: the arm {label!r} names a folder; use letters, digits, _, - and ."
                )
        _check_training(self.training, f"experiment {self.name}: training")
        for label in self.methods:
            training = self.training_of(label)
            _check_training(training, f"experiment {self.name}: methods.{label}.training")
            if not training.pays_verdicts and self.declaration.metric == "training_reward_area":
                raise ExperimentError(
                    f"experiment {self.name}: the rewards of {label} are not its verdicts: declaration.metric must be "
                    "final_accuracy or evaluation_area"
                )

    def training_of(self, label: str) -> Training:
        """The training of one arm: the experiment's, with what the arm changes.

        Raises ExperimentError for an unknown key, and for one that all arms share.
        """
        place = f"methods.{label}.training"
        changes = _expect_table(self.methods[label].get("training", {}), place, self.name)
        for key in SHARED:
            if key in changes:
                raise ExperimentError(f"experiment {self.name}: {place}.{key}: all arms share {key}")
        return typing.cast(
            Training, _build(Training, {**asdict(self.training), **changes}, f"{place}.", self.name)
        )

    def credit_of(self, label: str) -> tuple[str | list[str], dict[str, Any]]:
        """An arm's credit for `flowtracer.credit.get`: a method's name, or those of several, and the options."""
        options = {key: value for key, value in self.methods[label].items() if key != "training"}
        return options.pop("credit"), options

    @property
    def test_sets(self) -> dict[str, EvaluationTask]:
        """Every test set by its place in the file: that of the training task, where it has one, and those of `more`."""
        first = EvaluationTask(self.task, self.evaluation.problems, self.evaluation.samples)
        tested = "test" in task_of(self.task).splits
        more = {f"evaluation.more[{index}]": extra for index, extra in enumerate(self.evaluation.more)}
        return {**({"evaluation": first} if tested else {}), **more}

    def test_problems(self, place: str) -> Sequence[tasks.Problem]:
        """The problems of the test set at that place. ExperimentError where there are fewer than are asked for."""
        wanted = self.test_sets[place]
        task = task_of(wanted.task)
        problems = task.problems("test", wanted.problems)
        if len(problems) < wanted.problems and not self.evaluation.fewer:
            raise ExperimentError(
                f"experiment {self.name}: {place}.problems is {wanted.problems}, and {task.name} has {len(problems)} "
                f"test problems: give at most {len(problems)}, or evaluation.fewer = true, which takes them all"
            )
        return problems

    def engine_choice(self, server: str | None = None) -> EngineChoice:
        """Its engine, here or at the address of a server."""
        return EngineChoice(self.engine, server, self.policy.dtype)

    def resolved(self) -> dict[str, Any]:
        """Everything as plain JSON values: what manifests record."""
        table = asdict(self)
        del table["evaluation"]["fewer"]  # it lets a run begin, and changes none
        for place, kind in (("training", Training), ("evaluation", Evaluation)):
            defaults = {option.name: option.default for option in fields(kind)}
            for key in LATER[place]:
                if table[place][key] == defaults[key]:
                    del table[place][key]
        return json.loads(json.dumps(table, sort_keys=True))

    @property
    def hash(self) -> str:
        """sha256 over everything but the methods."""
        return hash_of(self.resolved())

    def evaluation_steps(self) -> list[int]:
        """Steps at which the policy is evaluated: 0, every `evaluation.every`, and the last."""
        steps = self.training.steps
        return sorted({0, steps, *range(0, steps + 1, self.evaluation.every)})


def hash_of(resolved: Mapping[str, Any]) -> str:
    """The hash of an experiment as a manifest records it."""
    shared = {key: value for key, value in resolved.items() if key != "methods"}
    return hashlib.sha256(json.dumps(shared, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_training(training: Training, place: str) -> None:
    micro = training.micro_batch or training.rollouts
    checks = [
        (training.steps >= 1, "steps must be at least 1"),
        (training.prompts_per_step >= 1, "prompts_per_step must be at least 1"),
        (training.samples_per_prompt >= 2, "samples_per_prompt must be at least 2, a group"),
        (training.max_response_tokens >= 1, "max_response_tokens must be at least 1"),
        (training.learning_rate > 0, "learning_rate must be positive"),
        (training.temperature > 0, "temperature must be positive: greedy groups have no signal"),
        (training.save_every >= 1, "save_every must be at least 1"),
        (training.updates_per_batch >= 1, "updates_per_batch must be at least 1"),
        (training.lora_rank >= 0, "lora_rank must not be negative"),
        (training.optimizer in OPTIMIZERS, f"optimizer must be one of {', '.join(OPTIMIZERS)}"),
        (training.dual_clip == 0 or training.dual_clip > 1, "dual_clip must be above 1, or 0 for none"),
        (training.whiten in WHITENED, "whiten must be before or after, the token weights, or empty for none"),
        (training.advantage_clip >= 0, "advantage_clip must not be negative"),
        (training.turn_every >= 0, "turn_every must not be negative; 0 is never"),
        (training.reward in REWARDS, f"reward must be one of {', '.join(REWARDS)}"),
        (0 <= training.false_rewards <= 1, "false_rewards must be a share, 0 to 1"),
        (0 <= training.false_refusals <= 1, "false_refusals must be a share, 0 to 1"),
        (
            training.reward == "verdict" or not (training.false_rewards or training.false_refusals),
            "false_rewards and false_refusals go with reward verdict",
        ),
        (
            training.micro_batch >= 0 and training.rollouts % micro == 0,
            f"micro_batch must divide the {training.rollouts} rollouts of a step",
        ),
    ]
    for holds, message in checks:
        if not holds:
            raise ExperimentError(f"{place}.{message}")


def names() -> list[str]:
    """Names of the experiments that come with the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(
    source: str,
    smoke: bool = False,
    until_decided: bool = False,
    add: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> Experiment:
    """The experiment called `source`, or in the TOML file `source`.

    With `smoke` or `until_decided`, the table of that name is applied over it: another experiment, NAME-smoke or
    NAME-until-decided. add: files with more arms. changes: `training.steps=40` and the like, one-off: NAME-set, whose
    title says them.

    Raises ExperimentError for an unknown name, a file that is not TOML, and a missing, misspelt or mistyped key.
    """
    path = Path(source)
    if path.suffix != ".toml":
        path = FOLDER / f"{source}.toml"
        if not path.is_file():
            raise ExperimentError(
                f"unknown experiment {source!r}; {hint(source, names())}; or give the path of a .toml file"
            )
    return from_table(_read(path), path.stem, smoke, until_decided, path.parent, add, changes)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a mark in front
    except FileNotFoundError:
        raise ExperimentError(f"experiment file {path} does not exist") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExperimentError(f"experiment file {path} cannot be read: {error}") from None


def _with_base(
    table: Mapping[str, Any], name: str, folder: Path | None, below: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """The table over that of the experiment that its key `base` names, and so on; imports as whole paths.

    folder: where the table's file lies. below: the files that led here, none of which may be a base again.
    """
    changes = copy.deepcopy(dict(table))
    base = changes.pop("base", None)
    imports = changes.pop("imports", [])
    if not isinstance(imports, list) or not all(isinstance(each, str) for each in imports):
        raise ExperimentError(
            f"experiment {name}: imports must be an array of files or modules, not {imports!r}"
        )
    paths = [str((folder or Path()) / each) if each.endswith(".py") else each for each in imports]
    if base is None:
        return {**changes, "imports": paths}
    path = (folder or Path()) / str(base) if str(base).endswith(".toml") else FOLDER / f"{base}.toml"
    if not str(base).endswith(".toml") and (base not in names() or base == name):
        raise ExperimentError(
            f"experiment {name}: unknown base {base!r}; {hint(str(base), names())}; or give the path of a .toml file"
        )
    if path.resolve() in below:
        raise ExperimentError(f"experiment {name}: its base {base} leads back to it")
    whole = _with_base(_read(path), path.stem, path.parent, (*below, path.resolve()))
    known, task = whole.get("task"), changes.get("task")
    if (
        isinstance(known, dict)
        and isinstance(task, dict)
        and task.get("name", known.get("name")) != known.get("name")
    ):
        whole["task"] = {}  # options of one task are none of another
    return {**_merged(whole, changes), "imports": [*whole["imports"], *paths]}


def from_table(
    table: Mapping[str, Any],
    name: str,
    smoke: bool = False,
    until_decided: bool = False,
    folder: Path | None = None,
    add: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> Experiment:
    """An experiment from a TOML table. Raises ExperimentError as `load` does, which explains `add` and `changes`.

    Its key `base` names a shipped experiment or a file, of which the table then says only what differs. Its key
    `imports` lists plug-ins, which are imported here; they are no part of the experiment, as arms are not. Files of
    both are relative to `folder`.
    """
    whole = _with_base(table, name, folder)
    plugins.load(whole.pop("imports"))
    smaller = _expect_table(whole.pop("smoke", {}), "smoke", name)
    open_end = _expect_table(whole.pop("until_decided", {}), "until_decided", name)
    if smoke:
        if not smaller:
            raise ExperimentError(
                f"experiment {name} has no [smoke] table, which says how small a smoke run is"
            )
        whole = _merged(whole, smaller)
        name = f"{name}-smoke"
    if until_decided:
        if not open_end:
            raise ExperimentError(
                f"experiment {name} has no [until_decided] table, which declares the most seeds and the scale"
            )
        whole = _merged(_merged(whole, {"declaration": {"stopping": UNTIL_DECIDED}}), open_end)
        name = f"{name}-until-decided"
    for change in changes:
        _change(whole, change, name)
    most = whole.get("seeds")
    if until_decided and isinstance(most, int) and most < LEAST_CAP:
        raise ExperimentError(
            f"experiment {name}: seeds, the most that are run until decided, must be at least {LEAST_CAP}, not {most}"
        )
    methods = whole.get("methods", {})
    if not isinstance(methods, dict):
        raise ExperimentError(f"experiment {name}: methods must be tables, [methods.uniform] for one")
    whole["methods"] = {label: _arm(label, options, name) for label, options in methods.items()}
    for file in add:
        _add_arms(whole["methods"], Path(file), name)
    if changes:
        name = changed_name(whole.pop("name", name))
        whole["title"] = changed_title(whole.get("title", name), changes)
    return _build(Experiment, {"name": name, **whole}, "", name)


def changed_name(name: str) -> str:
    """The name of the experiment `name` with other settings, those of --set."""
    return f"{name}-set"


def unchanged_name(name: str) -> str:
    """The name that `changed_name` was given, where it was."""
    return name.removesuffix("-set")


def changed_title(title: str, changes: Sequence[str]) -> str:
    """The title of an experiment with other settings, which it says."""
    return f"{title} (set: {', '.join(changes)})"


def changes_in(title: str) -> list[str]:
    """The settings that `changed_title` put into a title, in one text: a value may hold a comma. Empty for none."""
    changes = re.search(r" \(set: (.+)\)$", title)
    return [changes[1]] if changes else []


def _add_arms(methods: dict[str, Any], path: Path, name: str) -> None:
    """Adds the arms of a file, which holds [methods.LABEL] and, where a method is the user's own, imports."""
    table = _with_base(_read(path), path.stem, path.parent)
    plugins.load(table.pop("imports"))
    if more := sorted(table.keys() - {"methods"}):
        raise ExperimentError(
            f"--add {path}: {more[0]} is no part of an arm; the file may hold [methods.LABEL] and imports"
        )
    arms = _expect_table(table.get("methods", {}), "methods", path.stem)
    if not arms:
        raise ExperimentError(f"--add {path}: no arm in it; write [methods.LABEL] and its options")
    for label, options in arms.items():
        arm = _arm(label, options, path.stem)
        if methods.setdefault(label, arm) != arm:
            raise ExperimentError(
                f"--add {path}: experiment {name} has another arm {label} ({json.dumps(methods[label])}): give it "
                "another label"
            )


def _arm(label: str, options: Any, name: str) -> dict[str, Any]:
    """An arm from its table: `credit` is a method's name, the label where it is left out, or the names of several."""
    arm = {"credit": label, **_expect_table(options, f"methods.{label}", name)}
    names = arm["credit"] if isinstance(arm["credit"], list) else [arm["credit"]]
    if not names or not all(isinstance(each, str) for each in names):
        raise ExperimentError(
            f"experiment {name}: methods.{label}.credit must be the name of a method or an array of names, not "
            f"{arm['credit']!r}"
        )
    return arm


def _change(whole: dict[str, Any], change: str, name: str) -> None:
    """Carries out `training.steps=40`; the value is one of TOML, or text."""
    place, equals, text = change.partition("=")
    *tables, key = place.strip().split(".")
    if not equals or not key:
        raise ExperimentError(f"--set {change}: write KEY=VALUE, training.steps=40 for one")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = whole
    for part in tables:
        table = table.setdefault(part, {})
        _expect_table(table, place, name)
    table[key] = value


def task_of(table: Mapping[str, Any]) -> tasks.Task:
    """The task that a table of an experiment names, with the table's other keys as its options."""
    import tasks

    return tasks.get(table["name"], **{key: value for key, value in table.items() if key != "name"})


def is_published(task: tasks.Task) -> bool:
    """True for a task whose problems are loaded, from the hub or a folder: nothing before the first run does that."""
    return getattr(task, "hub", None) is not None


def check(experiment: Experiment) -> None:
    """Builds the tasks and the credit methods, and looks at every value: mistakes show before the first run.

    Published problems are counted when they are loaded, where a run begins.
    """
    from flowtracer import credit

    bounds.check(experiment)
    bounds.check_test_sets(experiment, "test" in task_of(experiment.task).splits)
    for table in (experiment.task, *(extra.task for extra in experiment.evaluation.more)):
        task = task_of(table)
        if "test" not in task.splits and not (table is experiment.task and experiment.evaluation.more):
            raise ExperimentError(
                f"experiment {experiment.name}: the task {task.name} has no test problems; name test sets under "
                "[[evaluation.more]]"
            )
    for place, tested in experiment.test_sets.items():
        if not is_published(task_of(tested.task)):
            experiment.test_problems(place)
    _check_prompts(experiment)
    for label in experiment.methods:
        name, options = experiment.credit_of(label)
        credit.get(name, **options)


def _check_prompts(experiment: Experiment) -> None:
    """Raises ExperimentError for a step of more prompts than there are problems to train, where those are generated."""
    task, prompts = task_of(experiment.task), experiment.training.prompts_per_step
    # A task may leave some out of those that it has drawn: only the whole split says how many there are.
    if not is_published(task) and len(task.problems("train", prompts)) < prompts:
        bounds.check_prompts(prompts, len(task.problems("train")))


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        known = result.get(key)
        # Methods replace the whole list, of a smoke run or of another base; everything else is changed key by key.
        if isinstance(value, dict) and isinstance(known, dict) and key != "methods":
            result[key] = _merged(known, value)
        else:
            result[key] = value
    return result


def _expect_table(value: Any, place: str, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ExperimentError(f"experiment {name}: {place} must be a table, not {value!r}")
    return value


def _build(kind: type, table: Mapping[str, Any], place: str, name: str) -> Any:
    """The dataclass `kind` from a TOML table, every key known, present and of its declared type."""
    hints = typing.get_type_hints(kind)
    known = {option.name: option for option in fields(kind)}
    for key in table:
        if key not in known:
            raise ExperimentError(f"experiment {name}: unknown key {place}{key}; {hint(key, known)}")
    values = {}
    for key, option in known.items():
        if key in table:
            values[key] = _typed(hints[key], table[key], f"{place}{key}", name)
        elif option.default is option.default_factory:  # both MISSING: the key has no default
            raise ExperimentError(f"experiment {name}: the key {place}{key} is missing")
    return kind(**values)


def _typed(hint: Any, value: Any, place: str, name: str) -> Any:
    if is_dataclass(hint):
        return _build(typing.cast(type, hint), _expect_table(value, place, name), f"{place}.", name)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise ExperimentError(f"experiment {name}: {place} must be an array of tables")
        return tuple(
            _typed(arguments[0], item, f"{place}[{index}]", name) for index, item in enumerate(value)
        )
    if origin is types.UnionType:
        if value is None:  # never from TOML, which has no null: from a table that was resolved before
            return None
        hint = next(option for option in arguments if option is not type(None))
    elif origin is not None:
        return _expect_table(value, place, name)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ExperimentError(f"experiment {name}: {place} must be {hint.__name__}, not {value!r}")
    return value
