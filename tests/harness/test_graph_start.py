"""Protects the warm start of graph: what its loss weighs, what its batches hold, and that it repeats."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness import graph_start, policy_card, pretrain
from harness.policy import character_tokenizer
from tasks.graph import ROLES, SKIPPED, Graph

SMALL = dataclasses.replace(
    pretrain.RECIPES["graph"],
    layers=1, width=16, inner_width=16, heads=2, groups=1, head_width=8, steps=3, batch=2, max_new_tokens=4,
)  # fmt: skip


@pytest.fixture(autouse=True)
def unharmed_process() -> Iterator[None]:
    """The recipe seeds torch; other tests must not notice."""
    with torch.random.fork_rng():
        yield


def test_weights_are_one_where_the_source_is_known() -> None:
    tokenizer = character_tokenizer(SMALL.alphabet)
    question, text = "b=a+3;a=4?b", "a=4;b=a+3=9+3=2#2"
    ids, weights = graph_start.weighted(Graph(), tokenizer, [(question, text), (question, "a=4#4")])
    assert tokenizer.decode(ids[0]) == question + text + "<eos>"
    assert weights[:, : len(question)].eq(0).all()
    shown = "".join("x" if weight == 1 else "." for weight in weights[0, len(question) :].tolist())
    assert shown == "..x...xxx.xxx.x.x."  # the last place is the end's
    assert weights[1, len(question) :].tolist() == pytest.approx([0.2, 0.2, 1, 0.2, 0.2, 0.2, *[0] * 12])


def test_plans_are_complete_first(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []
    whole = Graph.demonstration

    def noted(source, skipped=SKIPPED):
        drawn.append(skipped)
        return whole(source, skipped)

    monkeypatch.setattr(Graph, "demonstration", staticmethod(noted))
    monkeypatch.setattr(graph_start, "COMPLETE", 1)
    monkeypatch.setattr(graph_start, "EVERY", 2)
    monkeypatch.setattr(graph_start, "MEASURED", 3)
    tokenizer = character_tokenizer(SMALL.alphabet)
    model = pretrain._fresh(SMALL, tokenizer)
    before = model.model.embed_tokens.weight.detach().clone()
    lines: list[str] = []
    graph_start.train(model, tokenizer, dataclasses.replace(SMALL, learning_rate=1e-3), lines.append)
    assert drawn == [0.0, 0.0, SKIPPED, SKIPPED, *[SKIPPED] * 3, SKIPPED, SKIPPED]
    assert len(lines) == 1 and lines[0].startswith("2 batches: loss ")
    assert all(f"{role} 0." in lines[0] or f"{role} 1." in lines[0] for role in ROLES)
    assert not torch.equal(before, model.model.embed_tokens.weight)


def test_the_recipe_gives_the_same_file_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pretrain.RECIPES, "graph", SMALL)
    monkeypatch.setattr(policy_card, "SAMPLES", 1)
    problems = Graph().problems("test", 4)
    monkeypatch.setattr(Graph, "problems", lambda self, split, limit=None: problems)
    torch.manual_seed(5)
    first = pretrain.pretrain("graph", tmp_path / "first")
    torch.manual_seed(6)
    assert pretrain.pretrain("graph", tmp_path / "second") == first
    card = (tmp_path / "first" / "README.md").read_text()
    assert card == (tmp_path / "second" / "README.md").read_text()
    assert first in card and "3 steps of 2 demonstrations" in card
    assert "`Graph.demonstration`, from the stream `graphloop0`" in card and "SFTTrainer" not in card
