"""lm-eval's command line, which finds vLLM under both names, and our evaluation of one policy, side by side."""

import json
import os
import shutil
import subprocess
import sys

from transformers import AutoTokenizer

import tasks
from harness.engines.base import Sampling
from harness.policy import FOLDER as POLICIES
from harness.policy import load_policy
from harness.runs.evaluate import evaluate
from tasks.lm_eval import FOLDER

#: The longest response: a policy's context must have room for it behind every prompt.
LENGTH = 48


def with_chat_template(folder):
    """The policy `arithmetic` in a folder, with a template that asks twice: other responses, some right."""
    shutil.copytree(POLICIES / "arithmetic", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for turn in messages %}{{ turn['content'] + '?' }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


def lm_eval_samples(model, name, problems, folder, /, *options, **arguments):
    """lm-eval's samples of a plug-in task, in the order of its problems, drawn greedily.

    model: lm-eval's name of what samples, "hf", "vllm" or "local-completions". arguments: its --model_args.
    folder: for what it writes.
    """
    given = ",".join(f"{key}={value}" for key, value in arguments.items())
    generation = json.dumps({"max_gen_toks": LENGTH, "do_sample": False, "temperature": 0.0})
    command = [sys.executable, "-m", "tasks.lm_eval", "run", "--model", model, "--model_args", given]
    command += ["--include_path", str(FOLDER), "--tasks", f"flowtracer_{name}", "--limit", str(problems)]
    command += [
        "--batch_size",
        "16",
        "--gen_kwargs",
        generation,
        "--log_samples",
        "--output_path",
        str(folder),
    ]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache")}
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = folder.rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return sorted(rows, key=lambda row: row["doc_id"])


def same_scores(theirs, policy, name, problems):
    """Asserts that our evaluation reads the same prompts and gives each of lm-eval's samples its text and its score.

    Gives back the scores.
    """
    task, ours = tasks.get(name), load_policy(str(policy))
    asked = task.problems("test", problems)
    rows = evaluate(ours, task, asked, Sampling(LENGTH, temperature=0.0), batch_size=16)
    assert len(theirs) == len(rows) == problems
    for problem, row, their in zip(asked, rows, theirs, strict=True):
        assert their["doc"]["id"] == row["problem_id"]
        assert their["arguments"]["gen_args_0"]["arg_0"] == ours.render(task.prompt(problem))
        assert their["resps"] == [[row["text"]]]
        assert their["exact_match"] == row["reward"]
        # lm-eval hands no finish reason on: without one, a response that was cut off is no answer.
        verdict = "no_answer" if row["verdict"] == "truncated" else row["verdict"]
        assert verdict == "correct" or their[verdict] == 1
    return [row["reward"] for row in rows]
