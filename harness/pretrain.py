"""The warm starts of the shipped policies: `python -m harness.pretrain [NAME ...]`.

Each is a small Qwen3 (grouped-query attention, query and key norms, rotary positions) with a character-level
tokenizer, trained by TRL's SFTTrainer on demonstrations that its task generates; only the response is scored.
One thread and a fixed order of everything: on one kind of machine and one set of versions the recipe gives
the same file, byte for byte. The model card beside the weights is written from what was measured on them.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM
from trl import SFTConfig, SFTTrainer

import tasks
from harness import graph_start, seeds
from harness.engines.base import Sample, Sampling
from harness.engines.keyed import sample
from harness.errors import ExperimentError
from harness.policy import FOLDER, character_tokenizer, load_policy
from leaderboards.names import hint
from tasks.decision import ANSWERS, Decision, alphabet
from tasks.graph import Graph

#: The measurements on a model card take the test problems this many at a time, and sample each this many times.
BATCH, SAMPLES = 256, 4


@dataclass(frozen=True)
class Recipe:
    """How one shipped policy is made.

    `groups` is the number of key-value heads, `context` the longest text in tokens that the policy can read
    and write, `max_new_tokens` the longest response of its measurement.
    """

    task: str
    alphabet: str
    layers: int
    width: int
    inner_width: int
    heads: int
    groups: int
    context: int
    max_new_tokens: int
    steps: int
    batch: int
    learning_rate: float
    options: dict[str, Any] = field(default_factory=dict)
    #: "cosine" ends at 0, in a minimum so sharp that reinforcement learning first loses what was learnt;
    #: "constant_with_warmup" does not.
    schedule: str = "cosine"
    #: 32 is the narrowest head that vLLM runs on a CPU.
    head_width: int = 32
    #: A character's weight in the loss, where it is not 1: a copied token that is one of thirty is learnt late.
    loss_weights: dict[str, float] = field(default_factory=dict)
    #: The shipped policy whose weights it begins with; a new character's embedding is drawn.
    start: str | None = None

    def task_of(self) -> tasks.Task:
        """The task whose demonstrations the policy learns and on whose test split it is measured."""
        return tasks.get(self.task, **self.options)


def _decision(variant: str, places: int = 10, steps: int = 2000, start: str | None = None) -> Recipe:
    longest = 2 * places + 16
    return Recipe(
        task="decision",
        options={"variant": variant} | ({} if places == 10 else {"places": places}),
        alphabet=alphabet(places),
        layers=6,
        width=64,
        inner_width=128,
        heads=4,
        groups=2,
        # Room for a prompt, too; a multiple of 32.
        context=(longest + 6 + 31) // 32 * 32,
        max_new_tokens=longest,
        steps=steps,
        batch=64,
        learning_rate=3e-3,
        # The answer's share of the loss is the same in responses of any length.
        loss_weights=dict.fromkeys(ANSWERS, 0.8 * places),
        start=start,
    )


RECIPES = {
    "decision": _decision("aligned"),
    "decision-decoy": _decision("decoy"),
    "decision-chain": _decision("chain"),
    # From `decision`, which knows how to look up and copy: only the other labels have to be learnt.
    "decision-5": _decision("aligned", 5, steps=400, start="decision"),
    "decision-20": _decision("aligned", 20, steps=1200, start="decision"),
    "arithmetic": Recipe(
        task="arithmetic",
        alphabet="0123456789+=;#?",
        layers=4,
        width=128,
        inner_width=256,
        heads=4,
        groups=2,
        context=96,
        max_new_tokens=48,
        steps=450,
        batch=64,
        learning_rate=1e-3,
        schedule="constant_with_warmup",
    ),
    "graph": Recipe(
        task="graph",
        alphabet="abcdefgh0123456789+*=;#?",
        layers=6,
        width=96,
        inner_width=192,
        heads=4,
        groups=2,
        context=128,
        max_new_tokens=80,
        steps=2068,
        batch=32,
        learning_rate=2e-3,
        schedule="constant_with_warmup",
    ),
}


def pretrain(name: str, folder: Path) -> str:
    """Trains the policy `name` into `folder`: weights, configuration, tokenizer, model card.

    Gives back the SHA-256 of the weights, which is the published one where torch has one thread. Reseeds torch's global
    generator: not for use inside a process that does anything else. Raises ExperimentError for an unknown name.
    """
    if name not in RECIPES:
        raise ExperimentError(f"no warm start is known for policy {name!r}; {hint(name, RECIPES)}")
    recipe = RECIPES[name]
    model, tokenizer = _trained(name, recipe)
    return _written(name, recipe, model, tokenizer, folder)


def _trained(name: str, recipe: Recipe) -> tuple[Any, Any]:
    """The trained model and its tokenizer."""
    if recipe.task == Graph.name:
        torch.manual_seed(graph_start.SEED)
        tokenizer = character_tokenizer(recipe.alphabet)
        model = _fresh(recipe, tokenizer)
        graph_start.train(model, tokenizer, recipe.steps, recipe.batch, recipe.learning_rate)
        return model, tokenizer
    seed = seeds.integer(seeds.key("initialisation", f"policies/{name}"))
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _trainer(name, recipe, seed, scratch)
        trainer.train()
    return trainer.model, trainer.processing_class


def _written(name: str, recipe: Recipe, model: Any, tokenizer: Any, folder: Path) -> str:
    """Writes the policy and its model card, and gives back the SHA-256 of the weights."""
    model.eval()
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "README.md").write_text(_card(name, recipe, model, digest, _measure(recipe, model, tokenizer)))
    return digest


class WeightedSFTTrainer(SFTTrainer):
    """SFTTrainer whose loss is a weighted mean over tokens.

    weights: (vocabulary), the weight of a token by what it is.
    """

    def __init__(self, *arguments: Any, weights: torch.Tensor, **options: Any) -> None:
        self.weights = weights
        super().__init__(*arguments, **options)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss alone: the trainer's own is an unweighted mean, and has no place for weights."""
        scored = inputs["labels"][:, 1:]
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), scored, reduction="none")
        weights = self.weights[scored.clamp(min=0)] * (scored != -100)
        return (losses * weights).sum() / weights.sum()


def _trainer(name: str, recipe: Recipe, seed: int, scratch: str) -> SFTTrainer:
    torch.manual_seed(seed)
    tokenizer = character_tokenizer(recipe.alphabet)
    task: Any = recipe.task_of()
    pairs = task.demonstrations(recipe.steps * recipe.batch, f"policies/{name}")
    trainer: Any = SFTTrainer
    if recipe.loss_weights:
        ids: Any = tokenizer.convert_tokens_to_ids(list(recipe.loss_weights))
        weights = torch.ones(len(tokenizer))
        weights[ids] = torch.tensor(list(recipe.loss_weights.values()))
        trainer = partial(WeightedSFTTrainer, weights=weights)
    return trainer(
        model=_begun(recipe, tokenizer),
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict(
            {"prompt": [prompt for prompt, _ in pairs], "completion": [response for _, response in pairs]}
        ),
        args=SFTConfig(
            output_dir=scratch,
            num_train_epochs=1,
            per_device_train_batch_size=recipe.batch,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=recipe.schedule,
            warmup_steps=recipe.steps // 20,
            # With the usual 0.999 the copying of a decision stays at 98%: its gradients grow late and fast.
            adam_beta2=0.95,
            weight_decay=0.0,
            max_grad_norm=1.0,
            max_length=None,
            completion_only_loss=True,
            seed=seed,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            logging_steps=max(1, recipe.steps // 20),
            save_strategy="no",
            report_to="none",
        ),
    )


def _fresh(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=recipe.width,
            intermediate_size=recipe.inner_width,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.groups,
            head_dim=recipe.head_width,
            max_position_embeddings=recipe.context,
            # The usual 0.02 is made for widths in the thousands: at width 48, copying is then never learnt.
            initializer_range=recipe.width**-0.5,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _begun(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """The model before its first step: fresh, or with the weights of the policy that the recipe starts from."""
    model = _fresh(recipe, tokenizer)
    if recipe.start is None:
        return model
    policy = load_policy(recipe.start)
    before, after = policy.tokenizer.get_vocab(), tokenizer.get_vocab()
    both = [token for token in before if token in after]
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.detach().clone()
    known: Any = policy.model.get_input_embeddings()
    rows[[after[token] for token in both]] = known.weight.detach()[[before[token] for token in both]]
    # The output is tied to the embedding.
    tied = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), rows)
    model.load_state_dict({**policy.model.state_dict(), **tied})
    return model


def _measure(recipe: Recipe, model: Any, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    """The rows of the model card, (name, value), measured on the task's test split."""
    task = recipe.task_of()
    problems = list(task.problems("test"))
    rows: list[tuple[str, str]] = []
    sampled: list[Sample] = []
    for title, temperature, repeats in (("greedy", 0.0, 1), ("temperature 1", 1.0, SAMPLES)):
        asked = [(problem, index) for index in range(repeats) for problem in problems]
        sampled = []
        for start in range(0, len(asked), BATCH):
            part = asked[start : start + BATCH]
            sampled += sample(
                model,
                tokenizer,
                [tokenizer(task.prompt(problem)).input_ids for problem, _ in part],
                [seeds.key("evaluation", task.name, problem.id, index) for problem, index in part],
                Sampling(recipe.max_new_tokens, temperature),
            )
        verdicts = Counter(
            str(task.verify(problem, answer.text, answer.finish_reason))
            for (problem, _), answer in zip(asked, sampled, strict=True)
        )
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        accuracy = verdicts["correct"] / len(asked)
        asked_of = f"{len(problems)} problems, {repeats} sample{'s' * (repeats > 1)} each"
        rows.append((f"accuracy, {title}", f"{accuracy:.3f} ({counts}; {asked_of})"))
    if isinstance(task, Graph):
        return rows + _of_steps(
            task, [(problem, answer.text) for (problem, _), answer in zip(asked, sampled, strict=True)]
        )
    decisions = [_decision_of(task, answer.text) for answer in sampled]
    known = [decision for decision in decisions if decision is not None]
    if known:
        copied = sum(copied for _, copied in known)
        shares = [count / len(known) for _, count in sorted(Counter(letter for letter, _ in known).items())]
        rows.append(("responses whose answer copies the decision", f"{copied / len(decisions):.4f}"))
        rows.append(("decisions, each letter's share", " ".join(f"{share:.3f}" for share in shares)))
    return rows


def _of_steps(task: Graph, answered: Sequence[tuple[tasks.Problem, str]]) -> list[tuple[str, str]]:
    """The rows of the model card that are about the steps of responses."""
    steps = [step for problem, text in answered for step in task.steps(problem, text)]
    if not steps:
        return [("steps", "none")]
    workable, needed = sum(step.workable for step in steps), sum(step.needed for step in steps)
    return [
        ("steps with right mechanics", f"{sum(step.faithful for step in steps) / len(steps):.4f}"),
        ("steps whose operands were all worked out before", f"{workable / len(steps):.3f}"),
        ("steps that the asked variable needs", f"{needed / len(steps):.3f}"),
    ]


def _decision_of(task: tasks.Task, text: str) -> tuple[str, bool] | None:
    """The decision in a response, and whether what follows copies it; None for another task or another form."""
    if not isinstance(task, Decision) or task.extract(text) is None:
        return None
    return text[task.named(text)[0]], text.endswith(task.copied(text))


def _demonstrated(name: str, recipe: Recipe) -> str:
    """The middle of a model card's sentence: how demonstrations were drawn, and what trained on them."""
    if recipe.task == Graph.name:
        return (
            f"`Graph.demonstration`, from the stream `{graph_start.STREAM}`; none of the first\n"
            f"{graph_start.COMPLETE} batches leaves a needed step out); the loss is on the response, tokens without a "
            f"known source weigh\n{graph_start.OTHER:g}. The loop of `harness.graph_start`"
        )
    drawn = (
        f'{type(recipe.task_of()).__name__}.demonstrations({recipe.steps * recipe.batch}, "policies/{name}")'
    )
    return f"`{drawn}`);\nthe loss is on the response alone{_weighted(recipe)}. TRL's SFTTrainer"


def _card(name: str, recipe: Recipe, model: Any, digest: str, measured: Sequence[tuple[str, str]]) -> str:
    variant = "".join(f", {option} {value}" for option, value in recipe.options.items())
    packages = ("torch", "transformers", "trl", "tokenizers", "numpy")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    table = "\n".join(f"| {what} | {value} |" for what, value in measured)
    return f"""---
license: apache-2.0
library_name: transformers
---
# {name}

The warm start of the task {recipe.task}{variant}: what it can do before reinforcement learning.
Made by `python -m harness.pretrain {name}`; this card is written by that command.

## Model

Qwen3 architecture, {sum(weight.numel() for weight in model.parameters()):,} float32 weights: {recipe.layers}
layers, width {recipe.width}, inner width {recipe.inner_width}, {recipe.heads} query heads on {recipe.groups}
key-value heads of {recipe.head_width}, tied embeddings, at most {recipe.context} tokens. One token a
character (`{recipe.alphabet}`), `<pad>` and `<eos>`. Prompts are read as they are; there is no chat
template.

## Recipe

{recipe.steps} steps of {recipe.batch} demonstrations, each seen once, generated by the task
({_demonstrated(name, recipe)}, AdamW (beta2 0.95), learning rate
{recipe.learning_rate:g} ({recipe.schedule}), clip norm 1, {_first_weights(recipe)}.

## Measured on the test split

| | |
|---|---|
{table}

## Weights

SHA-256 of `model.safetensors`: `{digest}`

Made with Python {platform.python_version()}, {versions}, one thread on {platform.machine()}
({torch.backends.cpu.get_cpu_capability()}). The same recipe on such a machine gives the same hash.
"""


def _first_weights(recipe: Recipe) -> str:
    drawn = "weights drawn with a standard deviation of\nwidth^-0.5"
    if recipe.start is None:
        return drawn
    return f"from the weights of\n`{recipe.start}`; embeddings of characters that it does not have are drawn"


def _weighted(recipe: Recipe) -> str:
    by_weight: dict[float, str] = {}
    for character, weight in recipe.loss_weights.items():
        by_weight[weight] = by_weight.get(weight, "") + character
    return "".join(f", in which each of `{known}` weighs {weight:g}" for weight, known in by_weight.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: trains the named policies, or all of them, into the package's folder."""
    parser = argparse.ArgumentParser(prog="python -m harness.pretrain", description="Train shipped policies.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECIPES)}; default: all")
    names = parser.parse_args(arguments).names or list(RECIPES)
    torch.set_num_threads(1)
    for name in names:
        started = time.perf_counter()
        try:
            digest = pretrain(name, FOLDER / name)
        except ExperimentError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        print(f"{name}: sha256 {digest}, {time.perf_counter() - started:.0f} s, in {FOLDER / name}")


if __name__ == "__main__":
    main()
