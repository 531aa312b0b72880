"""Plans: what an experiment costs, and whether it fits, before anything starts and without any weights.

Estimates, from the shape of the policy. Every response is taken at its longest, so that counts, times and memory are
upper bounds, except where a rate is assumed. A step of 64 rollouts of uniform on the policy `decision` is estimated at
282 ms; measured: 160 ms on a core of its own, 280 ms on a machine that is busy beside.

=============  ======================================================================================================
forward        2 FLOPs a matrix parameter and token, and 2 T^2 a layer and attention channel of T tokens (causal)
training       3 forwards; 4 with gradient checkpointing; with adapters 2 and 3: frozen weights get no gradient
turn           a training pass more at every `turn_every`-th step
old log-probs  1 more forward where a batch feeds several updates, or where another engine's samples are corrected for
credit         what a method has computed or sampled beside the rollouts: `harness.extra`
decoding       the longest of: FLOPs; reading weights and cache once a token; 0.5 ms a layer of Python and launches
               (on a CPU the first and the last together); transformers draws the noise of every row on one CPU thread
activations    a layer's saved tensors in multiples of its widths, counted on models of transformers 5.17
=============  ======================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.engines.base import BFLOAT16, VLLM
from harness.errors import ExperimentError
from harness.experiment import Experiment, Training, task_of
from harness.extra import Extra, extra_of, old_logprobs
from harness.fits import GB, RANK, memory, total, variants
from harness.sameness import method_of
from harness.shapes import ASSUMED, REFERENCE, Device, Shape, here, shape_of

if TYPE_CHECKING:
    from leaderboards.sheets import Sheet

#: Tokens of a prompt: assumed where the problems come from elsewhere, else the characters of generated ones by so many
#: a token; and those of a chat template.
PROMPT, CHARACTERS, TEMPLATE = 256, 3, 32
#: Below it, a vocabulary is one of characters.
ALPHABET = 256
#: Share of a device's peak that is reached: matrix products (as good GRPO trainers report), memory while decoding.
UTILISATION, BANDWIDTH = 0.4, 0.6
#: Seconds of Python and kernel launches a layer and decoding step (transformers' generate; a tenth is assumed of vLLM),
#: and of a training step of TRL beyond its arithmetic. Measured on the embedded testbed, assumed of a GPU.
LAUNCH, STEP = 5e-4, 0.03
#: Seconds in which the transformers engine draws the noise of a row for one token of the vocabulary: measured on one
#: thread of a CPU; on a GPU, where a kernel writes it, assumed from the memory's rate.
NOISE = {"cpu": 1.5e-8, "gpu": 1e-11}
#: Bytes of a recorded rollout token (ids, weights, two log-probabilities, text; compressed): measured.
RECORD = 16


@dataclass(frozen=True)
class Step:
    """The costs of one training step of an arm.

    further, further_tokens: responses that its credit method has sampled beside the rollouts, and their tokens.
    seconds, gpu_seconds: on the plan's `device` and `gpu`.
    """

    rollouts: int
    tokens: int
    further: int
    further_tokens: int
    flops: float
    seconds: float
    gpu_seconds: float


@dataclass(frozen=True)
class Plan:
    """The costs of an experiment. flops: of all runs. seconds: of all runs, one after the other, on `device`.

    rollouts, tokens: of all runs, without what credit methods have sampled beside them: that is further_tokens.
    arms: a step of each arm. step_seconds: its mean over arms.
    memory: bytes of each part, of the arm that needs most, by the name of the variant: "as declared" first.
    """

    experiment: Experiment
    device: Device
    gpu: Device
    shape: Shape
    prompt: int
    runs: int
    rollouts: int
    tokens: int
    further_tokens: int
    samples: int
    sampled_tokens: int
    flops: float
    seconds: float
    gpu_seconds: float
    step_seconds: float
    arms: Mapping[str, Step]
    records: float
    policies: float
    checkpoints: float
    arm: str
    memory: Mapping[str, Mapping[str, float]]


def plan(experiment: Experiment, device: Device | None = None, arms: Sequence[str] | None = None) -> Plan:
    """The costs of `experiment` on `device`, by default the one here.

    arms: the labels of those that are run; all of them by default. Raises ExperimentError for an unknown policy, and
    for responses that are longer than its context.
    """
    device = device or here()
    gpu = device if device.kind == "gpu" else REFERENCE
    shape = shape_of(experiment.policy.name)
    labels = tuple(arms or experiment.methods)
    _check_context(experiment, labels, shape)
    prompt, tested = _prompt(experiment, shape)
    sets = _test_sets(experiment, tested)
    evaluations = len(experiment.evaluation_steps())
    steps = {label: _arm_step(experiment, label, shape, prompt, device, gpu) for label in labels}
    work = _Work()
    for label, step in steps.items():
        work.add_training(step, experiment.training_of(label).steps)
        work.add_evaluations(experiment, evaluations, sets, shape, prompt, (device, gpu))
    needs = {label: memory(experiment, label, shape, prompt, device) for label in labels}
    arm = max(needs, key=lambda label: total(needs[label]))
    training, seeds = experiment.training_of(arm), experiment.seeds
    trained = shape.adapters(training.lora_rank) if training.lora_rank else shape.parameters
    saved = shape.parameters * (2 if experiment.policy.dtype == BFLOAT16 and training.lora_rank else 4)
    return Plan(
        experiment=experiment,
        device=device,
        gpu=gpu,
        shape=shape,
        prompt=prompt,
        runs=len(labels) * seeds,
        rollouts=work.rollouts * seeds,
        tokens=work.tokens * seeds,
        further_tokens=work.further_tokens * seeds,
        samples=work.samples * seeds,
        sampled_tokens=work.sampled_tokens * seeds,
        flops=work.flops * seeds,
        seconds=work.seconds * seeds,
        gpu_seconds=work.gpu_seconds * seeds,
        step_seconds=sum(step.seconds for step in steps.values()) / len(steps),
        arms=steps,
        records=RECORD * work.tokens * seeds + 4.0 * work.sampled_tokens * seeds,
        policies=float(saved * len(labels) * seeds),
        # Two checkpoints and the one being written, and the policies that wait for their evaluation.
        checkpoints=3 * 12.0 * trained + saved * (evaluations - 1),
        arm=arm,
        memory={"as declared": needs[arm], **variants(experiment, arm, shape, prompt, device)},
    )


def _check_context(experiment: Experiment, labels: Sequence[str], shape: Shape) -> None:
    """Raises ExperimentError for responses that are longer than the policy's context."""
    longest = max(experiment.training_of(label).max_response_tokens for label in labels)
    if longest >= shape.context:
        raise ExperimentError(
            f"experiment {experiment.name}: responses of {longest} tokens do not fit the policy's context of "
            f"{shape.context}: lower training.max_response_tokens"
        )


@dataclass
class _Work:
    """The sums over the runs of one seed; the fields of `Plan` without its seeds."""

    rollouts: int = 0
    tokens: int = 0
    further_tokens: int = 0
    samples: int = 0
    sampled_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    gpu_seconds: float = 0.0

    def add_training(self, step: Step, steps: int) -> None:
        """Adds so many steps of an arm."""
        self.rollouts += steps * step.rollouts
        self.tokens += steps * step.tokens
        self.further_tokens += steps * step.further_tokens
        self.flops += steps * step.flops
        self.seconds += steps * step.seconds
        self.gpu_seconds += steps * step.gpu_seconds

    def add_evaluations(
        self,
        experiment: Experiment,
        evaluations: int,
        sets: Sequence[tuple[int, int]],
        shape: Shape,
        prompt: int,
        devices: tuple[Device, Device],
    ) -> None:
        """Adds the evaluations of a run. sets: as `_test_sets` gives them. devices: here, and the GPU."""
        rows = experiment.evaluation.batch_size
        value = 2 if experiment.policy.dtype == BFLOAT16 else 4
        for count, response in sets:
            self.samples += evaluations * count
            self.sampled_tokens += evaluations * count * response
            self.flops += evaluations * count * shape.forward(prompt + response)
            batches = evaluations * count / rows
            here, gpu = (
                batches * _decoding(shape, experiment.engine, rows, prompt, response, value, device)
                for device in devices
            )
            self.seconds += here
            self.gpu_seconds += gpu


def _arm_step(
    experiment: Experiment, label: str, shape: Shape, prompt: int, device: Device, gpu: Device
) -> Step:
    """The costs of one step of an arm, with the extra work of its credit method."""
    training, engine = experiment.training_of(label), experiment.engine
    extra = extra_of(experiment, label, _characters(shape))
    bfloat16, longest = experiment.policy.dtype == BFLOAT16, training.max_response_tokens
    flops = _own_flops(shape, training, prompt, extra)

    def seconds(on: Device) -> float:
        further = sum(
            _sampling(shape, engine, training, prompt, spent, count, bfloat16, on)
            for spent, count in extra.cuts
        )
        return _seconds(shape, training, engine, prompt, bfloat16, on) + further + flops / _reached(on)

    return Step(
        rollouts=training.rollouts,
        tokens=training.rollouts * longest,
        further=extra.responses,
        further_tokens=extra.tokens(longest),
        flops=sum(_step(shape, training, engine, prompt))
        + flops
        + extra.responses * shape.forward(prompt + longest),
        seconds=seconds(device),
        gpu_seconds=seconds(gpu),
    )


def _test_sets(experiment: Experiment, tested: bool) -> list[tuple[int, int]]:
    """Samples of each test set at one evaluation, and how long they may be; `tested`: the task's own is one."""
    evaluation, longest = experiment.evaluation, experiment.training.max_response_tokens
    first = [(evaluation.problems * evaluation.samples, longest)] if tested else []
    more = [
        (extra.problems * extra.samples, extra.max_response_tokens or longest) for extra in evaluation.more
    ]
    return first + more


def sheets(costs: Plan) -> list[Sheet]:
    """The plan as small tables: its costs, those of a step of each arm where they differ, and a process's memory."""
    from leaderboards.sheets import Sheet

    experiment = costs.experiment
    training, arms, per_run = experiment.training, len(costs.arms), costs.gpu_seconds / costs.runs
    rows = [
        ("policy", f"{_amount(costs.shape.parameters)} parameters, {experiment.policy.dtype}"),
        ("runs", f"{costs.runs}: {arms} arms x {experiment.seeds} seeds, {training.steps} steps each"),
        ("arms", ", ".join(_arm(experiment, label) for label in costs.arms)),
        ("rollouts", f"{_amount(costs.rollouts)}, of at most {_amount(costs.tokens)} tokens"),
        ("prompts", f"about {costs.prompt} tokens"),
        (
            "evaluation",
            f"{_amount(costs.samples)} samples, of at most {_amount(costs.sampled_tokens)} tokens",
        ),
        ("arithmetic", f"{costs.flops:.2g} FLOPs at most"),
        ("GPU hours", f"{_hours(costs.gpu_seconds)} at most on {costs.gpu.name}, {_hours(per_run)} a run"),
        ("disk, records", f"{_size(costs.records)} at most"),
        ("disk, policies", f"{_size(costs.policies)}: the last one of every run"),
        ("disk, checkpoints", f"{_size(costs.checkpoints)} for each run that is under way"),
    ]
    if costs.further_tokens:
        share = costs.further_tokens / costs.tokens
        text = f"at most {_amount(costs.further_tokens)} tokens, {share:.1f} times those of rollouts"
        rows.insert(4, ("further rollouts", text))
    if costs.device.kind == "cpu":
        here = f"{_hours(costs.seconds)} of one thread at most, {costs.step_seconds:,.2g} s a step"
        rows.insert([name for name, _ in rows].index("GPU hours"), ("CPU hours", here))
    parts = [
        (part, *(f"{sizes[part] / GB:,.1f}" for sizes in costs.memory.values()))
        for part in costs.memory["as declared"]
    ]
    most = ("at most", *(f"{total(sizes) / GB:,.1f}" for sizes in costs.memory.values()))
    note = (
        f"Estimates. Responses at their longest. GPUs: {UTILISATION:.0%} of the peak in training; decoding bound by "
        f"{BANDWIDTH:.0%} of the bandwidth or by {LAUNCH * 1e3:g} ms a layer. At most: the cache of sampling or "
        "gradients, activations, head and map, beside the rest. "
        f"LoRA of rank {training.lora_rank or RANK}. Here: {costs.device.name}, {_size(costs.device.memory)}."
    )
    if costs.gpu.assumed:
        note += (
            f" The speed of {costs.gpu.name} is not known: {ASSUMED:.0%} of that of an {REFERENCE.name} is assumed, "
            "and hours may be far off."
        )
    return [
        Sheet("Cost", (experiment.name, experiment.policy.name), tuple(rows), words=(0, 1)),
        *_arms_sheet(costs),
        Sheet(f"Memory of one process in GB, arm {costs.arm}", ("part", *costs.memory), (*parts, most), note),
    ]


def _arms_sheet(costs: Plan) -> list[Sheet]:
    """A step of each arm, where arms differ in tokens or arithmetic."""
    from leaderboards.sheets import NOTHING, Sheet

    if len({(step.tokens, step.flops) for step in costs.arms.values()}) == 1:
        return []
    shown = (costs.device, costs.gpu) if costs.device.kind == "cpu" else (costs.gpu,)
    rows = []
    for label, step in costs.arms.items():
        seconds = (step.seconds, step.gpu_seconds)[-len(shown) :]
        further = (
            (_amount(step.further), _amount(step.further_tokens)) if step.further else (NOTHING, NOTHING)
        )
        rows.append(
            (label, _amount(step.rollouts), _amount(step.tokens), *further, *map(_seconds_text, seconds))
        )
    return [
        Sheet(
            "Cost of a step by arm",
            (
                "arm",
                "rollouts",
                "tokens",
                "further",
                "their tokens",
                *(f"s, {device.name}" for device in shown),
            ),
            tuple(rows),
            "At most. Further: responses that the credit method has sampled beside the rollouts. Seconds hold them, "
            "and the forwards that the method asks for, a teacher's among them.",
        )
    ]


def _seconds_text(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def _arm(experiment: Experiment, label: str) -> str:
    """An arm by its label, and by its credit in words where that is called otherwise: `both (flow * gtpo)`."""
    name = method_of(experiment, label).name
    return label if name == label else f"{label} ({name})"


def _size(count: float) -> str:
    return f"{count / GB:,.1f} GB"


def _amount(count: float) -> str:
    units = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    unit = next((unit for unit in units if count >= unit[0]), (1, ""))
    return f"{count / unit[0]:.3g}{unit[1]}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} h" if seconds < 360_000 else f"{seconds / 3600:,.0f} h"


def _prompt(experiment: Experiment, shape: Shape) -> tuple[int, bool]:
    """Tokens of a prompt, roughly, and whether the task has test problems. Nothing is downloaded to find out."""
    task = task_of(experiment.task)
    tokens = float(PROMPT)
    if getattr(task, "hub", None) is None:
        sizes = [len(task.prompt(problem)) for problem in task.problems("train", 16)]
        tokens = max(sizes) / _characters(shape) + (0 if shape.vocabulary < ALPHABET else TEMPLATE)
    room = shape.context - experiment.training.max_response_tokens
    return max(1, min(int(tokens), room)), "test" in task.splits


def _characters(shape: Shape) -> float:
    """Characters of a token."""
    return 1 if shape.vocabulary < ALPHABET else CHARACTERS


def _step(shape: Shape, training: Training, engine: str, prompt: int) -> tuple[float, float]:
    """FLOPs of a step: of sampling, and of training on what was sampled."""
    forward = training.rollouts * shape.forward(prompt + training.max_response_tokens)
    passes = 2 if training.lora_rank else 3
    passes += training.gradient_checkpointing
    old = old_logprobs(training, engine)
    turns = passes / training.turn_every if training.turn_every else 0.0
    return forward, forward * (passes * training.updates_per_batch + old + turns)


def _seconds(
    shape: Shape, training: Training, engine: str, prompt: int, bfloat16: bool, device: Device
) -> float:
    """Seconds of a step on one device."""
    _, trained = _step(shape, training, engine, prompt)
    response = training.max_response_tokens
    sampling = _decoding(shape, engine, training.rollouts, prompt, response, 2 if bfloat16 else 4, device)
    return sampling + trained / _reached(device) + STEP


def _own_flops(shape: Shape, training: Training, prompt: int, extra: Extra) -> float:
    """FLOPs of a step's forwards that the credit method asks for, a teacher's among them."""
    longest = training.max_response_tokens
    passes = extra.forwards + longest * extra.each_token
    flops = passes * shape.forward(prompt + longest)
    if extra.taught is not None:
        flops += shape.forward(prompt + extra.taught + longest)
    return training.rollouts * flops


def _sampling(
    shape: Shape,
    engine: str,
    training: Training,
    prompt: int,
    spent: int,
    count: int,
    bfloat16: bool,
    device: Device,
) -> float:
    """Seconds in which `count` responses go on from their first `spent` tokens: as many at once as rollouts."""
    batches = -(-count // training.rollouts)
    left = training.max_response_tokens - spent
    value = 2 if bfloat16 else 4
    return batches * _decoding(shape, engine, count / batches, prompt + spent, left, value, device)


def _reached(device: Device) -> float:
    """FLOPs a second that training reaches."""
    return device.flops * (UTILISATION if device.kind == "gpu" else 1.0)


def _decoding(
    shape: Shape, engine: str, rows: float, prompt: int, response: int, value: int, device: Device
) -> float:
    """Seconds in which `rows` responses are sampled as one batch."""
    arithmetic = rows * shape.forward(prompt + response) / _reached(device)
    cache = 2.0 * value * shape.layers * shape.keys * rows * (prompt + response / 2)
    reading = response * (value * shape.parameters + cache) / (device.bandwidth * BANDWIDTH)
    drawing = 0.0 if engine == VLLM else rows * shape.vocabulary * NOISE[device.kind]
    waiting = response * (shape.layers * LAUNCH * (0.1 if engine == VLLM else 1.0) + drawing)
    return max(arithmetic, reading, waiting) if device.kind == "gpu" else arithmetic + waiting
