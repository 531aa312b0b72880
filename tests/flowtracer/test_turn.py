"""Protects `credit/turn`: it is the turn of the gradient, and measuring it changes nothing else."""

import pytest
import torch
from transformers import TrainerCallback

from flowtracer.turn import Turn
from tests.flowtracer.test_trainer import SEAMS, Letters, same, train


class Gradients(TrainerCallback):
    """The gradient of each update, as one vector."""

    def __init__(self):
        self.vectors = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        parts = [each.grad.double().flatten() for each in model.parameters() if each.grad is not None]
        self.vectors.append(torch.cat(parts))


def turns(trainer):
    return [line["credit/turn"] for line in trainer.state.log_history if "credit/turn" in line]


def first_gradient(tokenizer, folder, monkeypatch, credit, **seam):
    """The gradient of the first update, and the turns that were logged."""
    from flowtracer import CreditGRPOTrainer

    kept = Gradients()
    begin = CreditGRPOTrainer.train
    monkeypatch.setattr(CreditGRPOTrainer, "train", lambda self: self.add_callback(kept) or begin(self))
    every = {"turn_every": 1} if credit == "flow" else {}
    trainer = train(tokenizer, folder, credit=credit, task=Letters(), steps=1, **seam, **every)
    monkeypatch.undo()
    return kept.vectors[0], turns(trainer)


@pytest.mark.parametrize("seam", ["accumulated", "old, in chunks"])
def test_the_turn_is_that_of_the_gradients(tokenizer, tmp_path, monkeypatch, seam):
    """Against two trainings of their own: one weighs, one does not, and both start from one policy."""
    weighted, logged = first_gradient(tokenizer, tmp_path, monkeypatch, "flow", **SEAMS[seam])
    uniform, nothing = first_gradient(tokenizer, tmp_path, monkeypatch, "uniform", **SEAMS[seam])
    expected = 1 - float(torch.nn.functional.cosine_similarity(weighted, uniform, dim=0))
    assert logged == [pytest.approx(expected, rel=1e-3)] and expected > 1e-5
    assert nothing == []


def test_measuring_changes_nothing_else(tokenizer, tmp_path):
    """The same parameters, bit for bit, and the same numbers in the log; every second update is measured."""
    trainers = [
        train(tokenizer, tmp_path, credit="flow", task=Letters(), steps=3, turn_every=every)
        for every in (0, 2)
    ]
    assert same(*trainers)
    assert turns(trainers[0]) == [] and len(turns(trainers[1])) == 2
    changing = ("runtime", "per_second", "time", "seconds", "credit/turn", "flos")
    plain, measured = (
        [
            {name: value for name, value in line.items() if not any(word in name for word in changing)}
            for line in trainer.state.log_history
        ]
        for trainer in trainers
    )
    assert plain == measured


def test_a_gradient_of_nothing_has_no_turn():
    noted = []
    model = torch.nn.Linear(2, 1, bias=False)
    turn = Turn(1, noted.append)
    model.weight.grad = torch.tensor([[3.0, 0.0]])
    for slope in ((0.0, 1.0), (0.0, 1.0)):  # two micro-batches
        turn.add(model, lambda slope=slope: (model.weight @ torch.tensor(slope)).sum().backward())
    assert torch.equal(model.weight.grad, torch.tensor([[3.0, 0.0]])), "the update's own is left alone"
    turn.on_pre_optimizer_step(None, None, None)
    assert noted == [1.0], "a right angle"
    turn.on_pre_optimizer_step(None, None, None)
    turn.add(model, lambda: (0 * model.weight).sum().backward())
    turn.on_pre_optimizer_step(None, None, None)
    assert noted == [1.0], "neither a step that is not measured nor one without a signal"
