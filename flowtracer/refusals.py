"""The refusals of CreditGRPOTrainer when it is built, before anything is trained: each with the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowtracer import seam
from flowtracer.errors import CreditError

if TYPE_CHECKING:
    from flowtracer.trainer import CreditGRPOTrainer


def check(trainer: CreditGRPOTrainer) -> None:
    """Raises CreditError where the trainer's credit method cannot act, or lacks what it needs."""
    _check_loss(trainer)
    _check_reading(trainer)
    _check_record(trainer)
    _check_scope(trainer)
    _check_own_passes(trainer)
    _check_columns(trainer)


def check_turn(trainer: CreditGRPOTrainer, every: int) -> None:
    """Raises CreditError for an argument `turn_every` that is none, or where no turn can be measured."""
    if not isinstance(every, int) or every < 0:
        raise CreditError(f"turn_every={every!r}: give a number of optimizer steps, or 0 for never")
    if every == 0:
        return
    if trainer.accelerator.num_processes > 1 or trainer.splits_the_policy:
        raise CreditError("turn_every: the turn of an update is measured in one process; set it to 0")
    if getattr(trainer, "use_adaptive_entropy", False):
        raise CreditError(
            "turn_every: one more pass over the loss would move the adaptive entropy coefficient; set it to 0"
        )


def _check_loss(trainer: CreditGRPOTrainer) -> None:
    """Refuses losses in which credit has no effect."""
    name = trainer.credit.name
    if trainer.averages_tokens_away and name != "uniform":
        raise CreditError(
            f"credit {name!r} has no effect with importance_sampling_level='sequence' (GSPO, LUSPO): "
            "one ratio a response averages token weights away; use 'token', or credit='uniform'"
        )
    if trainer.trains_on_images:
        raise CreditError(
            "CreditGRPOTrainer trains text policies; image inputs are not traced. Where prompts are text only, give "
            "the tokenizer in place of the processor: processing_class=AutoTokenizer.from_pretrained(...)"
        )
    if trainer.normalizes_each_reward and trainer.credit.additive:
        raise CreditError(
            f"credit {name!r} adds to the advantage in units of the reward, and "
            "multi_objective_aggregation='normalize_then_sum' leaves none; use 'sum_then_normalize'"
        )


def _check_reading(trainer: CreditGRPOTrainer) -> None:
    """Refuses policies that cannot be read as the method asks."""
    name = trainer.credit.name
    if trainer.builder.reads_attention and trainer.args.torch_compile:
        raise CreditError(
            f"credit {name!r} reads attention inside the forward, which torch.compile would "
            "compile away; set torch_compile=False, or take a credit method that reads none"
        )
    if (kind := seam.learns_prompts(trainer.model)) and trainer.builder.wants_answer:
        raise CreditError(
            f"credit {name!r} reads the policy token by token, and PEFT's {kind} puts learned vectors before "
            "them; use LoRA, or a credit method that reads none"
        )


def _check_record(trainer: CreditGRPOTrainer) -> None:
    """Refuses a record of updates that end within a generation batch."""
    if trainer.recorder is not None and trainer.updates_per_batch is None:
        raise CreditError(
            "record: a generation batch ends in the middle of an update; make steps_per_generation * "
            "num_iterations a multiple of gradient_accumulation_steps"
        )


def _check_scope(trainer: CreditGRPOTrainer) -> None:
    """Refuses groups and batches that no process has whole, where the method judges whole ones."""
    name, scope = trainer.credit.name, trainer.credit.scope
    rows = trainer.args.per_device_train_batch_size * trainer.args.steps_per_generation
    if scope == "batch" and trainer.accelerator.num_processes > 1:
        raise CreditError(f"credit {name!r} judges a whole generation batch at once; train it in one process")
    if scope == "group" and rows % trainer.num_generations:
        raise CreditError(
            f"credit {name!r} judges whole groups of {trainer.num_generations}, but a process generates {rows} "
            "responses; make per_device_train_batch_size * steps_per_generation a multiple of num_generations"
        )


def _check_own_passes(trainer: CreditGRPOTrainer) -> None:
    """Refuses trainers that cannot make the passes and samples that the method needs beside the training's."""
    name, needs, split = trainer.credit.name, trainer.credit.needs, trainer.splits_the_policy
    if "saliency" in needs and split:
        raise CreditError(
            f"credit {name!r} needs gradients that FSDP and DeepSpeed do not give; train without them"
        )
    if "values" in needs and not trainer.samples_continuations:
        raise CreditError(
            f"credit {name!r} samples further responses from the middle of others, which this trainer cannot; "
            "train it by `flowtracer train` or `flowtracer reproduce`, or override `continued`"
        )
    if "values" in needs and split:
        raise CreditError(
            f"credit {name!r} samples as many further responses as its own ask for, and FSDP and DeepSpeed "
            "need as many in every process; train without them"
        )
    if "divergence" in needs and split:
        raise CreditError(
            f"credit {name!r} runs as many forwards as a response has tokens, and FSDP and DeepSpeed need as many "
            "in every process; train without them"
        )


def _check_columns(trainer: CreditGRPOTrainer) -> None:
    """Refuses data sets without a column that the method reads."""
    name, builder = trainer.credit.name, trainer.builder
    columns = getattr(trainer.train_dataset, "column_names", None)
    reads = "question" if builder.wants_question else "gold" if builder.words is not None else None
    if reads is not None and trainer.args.remove_unused_columns:
        raise CreditError(
            f"credit {name!r} reads the data set's column `{reads}`, which remove_unused_columns=True takes away; set "
            "it to False"
        )
    if builder.wants_question and columns is not None and "question" not in columns:
        raise CreditError(
            f"credit {name!r} with source='question' needs a data set column `question`, whose text "
            f"stands in the prompt; this one has {', '.join(columns)}"
        )
    if builder.words is not None and columns is not None and "gold" not in columns:
        raise CreditError(
            f"credit {name!r} shows its teacher the gold, and the data set has no column `gold`: give "
            f"one, as tasks.dataset does, or take a credit method without a teacher; it has {', '.join(columns)}"
        )
