"""The warm starts of the shipped policies: `python -m harness.pretrain [NAME ...]`.

Each is a small Qwen3 (grouped-query attention, query and key norms, rotary positions) with a character-level
tokenizer, trained by TRL's SFTTrainer on demonstrations that its task generates; only the response is scored.
One thread and a fixed order of everything: on one kind of machine and one set of versions the recipe gives
the same file, byte for byte. The model card beside the weights is written from what was measured on them.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM
from trl import SFTConfig, SFTTrainer

from harness import graph_start, policy_card, seeds
from harness.errors import ExperimentError
from harness.policy import FOLDER, character_tokenizer, load_policy
from harness.recipes import RECIPES, Recipe
from leaderboards.names import hint
from tasks.graph import Graph


def pretrain(name: str, folder: Path) -> str:
    """Trains the policy `name` into `folder`: weights, configuration, tokenizer, model card.

    Gives back the SHA-256 of the weights, which is the published one where torch has one thread. Reseeds torch's global
    generator: not for use inside a process that does anything else. Raises ExperimentError for an unknown name.
    """
    if name not in RECIPES:
        raise ExperimentError(f"no warm start is known for policy {name!r}; {hint(name, RECIPES)}")
    recipe = RECIPES[name]
    model, tokenizer = _loop_of(recipe).train(name, recipe)
    return _written(name, recipe, model, tokenizer, folder)


@dataclass(frozen=True)
class Loop:
    """A way to train on demonstrations.

    train: from a policy's name and recipe to the trained model and its tokenizer. words: on the card, how the
    demonstrations were drawn, and what trained on them.
    """

    train: Callable[[str, Recipe], tuple[Any, Any]]
    words: Callable[[str, Recipe], str]


def _loop_of(recipe: Recipe) -> Loop:
    return Loop(_by_graph_start, _graph_words) if recipe.task == Graph.name else Loop(_by_trl, _trl_words)


def _by_graph_start(name: str, recipe: Recipe) -> tuple[Any, Any]:
    torch.manual_seed(graph_start.SEED)
    tokenizer = character_tokenizer(recipe.alphabet)
    model = _fresh(recipe, tokenizer)
    graph_start.train(model, tokenizer, recipe)
    return model, tokenizer


def _graph_words(name: str, recipe: Recipe) -> str:
    return (
        f"`Graph.demonstration`, from the stream `{graph_start.STREAM}`; none of the first\n"
        f"{graph_start.COMPLETE} batches leaves a needed step out); the loss is on the response, tokens without a "
        f"known source weigh\n{graph_start.OTHER:g}. The loop of `harness.graph_start`"
    )


def _by_trl(name: str, recipe: Recipe) -> tuple[Any, Any]:
    seed = seeds.integer(seeds.key("initialisation", f"policies/{name}"))
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _trainer(name, recipe, seed, scratch)
        trainer.train()
    return trainer.model, trainer.processing_class


def _trl_words(name: str, recipe: Recipe) -> str:
    drawn = (
        f'{type(recipe.task_of()).__name__}.demonstrations({recipe.steps * recipe.batch}, "policies/{name}")'
    )
    return f"`{drawn}`);\nthe loss is on the response alone{policy_card.weighted(recipe)}. TRL's SFTTrainer"


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
    measured = policy_card.measure(recipe, model, tokenizer)
    words = _loop_of(recipe).words(name, recipe)
    (folder / "README.md").write_text(policy_card.card(name, recipe, model, digest, measured, words))
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
        """The loss only: the trainer's own is an unweighted mean, and has no place for weights."""
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
            adam_beta2=recipe.beta2,
            weight_decay=0.0,
            max_grad_norm=recipe.clip_norm,
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
