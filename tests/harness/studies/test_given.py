"""Protects what is read of others' rollouts: real files of TRL, verl's by their shape, and records of scripts."""

import json
import math
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tasks
from harness import ExperimentError, cli
from harness.policy import Policy, load_policy
from harness.runs.script import ScriptRecorder
from harness.studies import dumps, given
from leaderboards import read_run
from tests.harness.script import TASK, trainer

SPECIAL = ["<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The folder of a script that logged its completions and wrote our record: the same responses, twice."""
    folder = tmp_path_factory.mktemp("script")
    recorder = ScriptRecorder(folder / "mine/flow/seed-0000")
    trainer(folder, recorder, log_completions=True, logging_steps=1).train()
    return folder


@pytest.fixture(scope="module")
def chat():
    """A policy of letters with a chat template; it is never asked."""
    letters = [*map(chr, range(32, 127)), "\n"]
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(.|\\n)"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=SPECIAL
    )
    wrapped.chat_template = TEMPLATE
    return Policy(None, wrapped, chat=True)


def boxed(text):
    return tasks.get("math").extract(text)


def test_completions_that_trl_logged_are_the_responses_of_the_record(script):
    policy = load_policy("decision")
    dump = dumps.read(script / "out" / "completions", policy, TASK.extract, 9)
    recorded = read_run(script / "mine/flow/seed-0000").table("rollouts").to_pylist()
    read = [row for rows in dump.batches for row in rows]
    assert len(read) == len(recorded) == 16 and dump.samples == 4
    for ours, theirs in zip(recorded, read, strict=True):
        assert theirs["prompt_ids"] == ours["prompt_ids"] and theirs["text"] == ours["text"]
        # The end token is what the file lacks, and nothing else.
        without = ours["response_ids"][: -1 if ours["finish_reason"] == "stop" else None]
        assert theirs["response_ids"] == without
        assert (theirs["reward"], theirs["group"]) == (ours["reward"], ours["group"])
    assert dump.lacks.startswith("no token ids: texts were tokenised anew, and end tokens are missing; ")


def test_token_ids_are_taken_where_a_file_holds_them(script, tmp_path):
    recorded = read_run(script / "mine/flow/seed-0000").table("rollouts").to_pylist()
    for step in (0, 1):
        rows = [row for row in recorded if row["step"] == step]
        columns = {
            "step": [step] * 8,
            "prompt": ["lost"] * 8,
            "completion": [row["text"] for row in rows],
            "right": [row["reward"] for row in rows],
            "prompt_ids": [row["prompt_ids"] for row in rows],
            "completion_ids": [row["response_ids"] for row in rows],
            "advantage": [0.0] * 8,
        }
        pq.write_table(pa.table(columns), tmp_path / f"completions_{step:05d}.parquet")
    dump = dumps.read(tmp_path, load_policy("decision"), TASK.extract, 1)
    assert len(dump.batches) == 1 and "no token ids" not in dump.lacks
    assert [row["response_ids"] for row in dump.batches[0]] == [row["response_ids"] for row in recorded[:8]]


def verl(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_verl_dump_has_its_marks_put_back_and_its_groups_together(chat, tmp_path):
    asked = ["system\nBe short.\nuser\n1+1?\nassistant\n", "system\nBe short.\nuser\nuser 2+2?\nassistant\n"]
    rows = [
        {"input": asked[n % 2], "output": f"It is \\boxed{{{n}}}", "gts": "2", "score": n % 3 / 2, "step": 7}
        for n in range(8)
    ]
    dump = dumps.read(verl(tmp_path / "7.jsonl", rows), chat, boxed, 1)
    [batch] = dump.batches
    assert dump.samples == 4 and [row["group"] for row in batch] == [0] * 4 + [1] * 4
    assert [row["text"] for row in batch[:4]] == [rows[number]["output"] for number in (0, 2, 4, 6)]
    text = chat.tokenizer.decode(batch[0]["prompt_ids"])
    assert text.startswith("<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n")
    assert [row["verdict"] for row in batch[:3]] == ["wrong", "correct", "wrong"]
    assert math.isnan(batch[0]["sampler_logprobs"][0])


def test_what_cannot_be_tokenised_without_loss_is_left_out_by_the_batch(chat, tmp_path):
    good = [{"input": "user\nhi\nassistant\n", "output": "a", "score": 1, "step": 1}] * 2
    # The template closes the assistant's turn, which this prompt has open.
    bad = [{"input": "assistant\nhi\nuser\nha\nassistant\nWell, ", "output": "a", "score": 1, "step": 2}] * 2
    dump = dumps.read(verl(tmp_path / "1.jsonl", good + bad), chat, boxed, 9)
    assert len(dump.batches) == 1 and "1 batches are left out: prompts lost the marks" in dump.lacks
    with pytest.raises(ExperimentError, match="without loss: prompts lost the marks"):
        dumps.read(verl(tmp_path / "2.jsonl", bad), chat, boxed, 9)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"input": "a", "output": "b"}', "line 1: has no 'score'"),
        ("nothing", "line 1: is no JSON"),
        ('{"input": "a", "output": "b", "score": 1}\n{"input": "c", "output": "b", "score": 1}', "do not come in"),
    ],
)  # fmt: skip
def test_files_of_another_kind_are_named(chat, tmp_path, lines, message):
    (tmp_path / "1.jsonl").write_text(lines)
    with pytest.raises(ExperimentError, match=message):
        dumps.read(tmp_path / "1.jsonl", chat, boxed, 1)


def test_replay_and_trace_open_files_and_records(script, capsys, tmp_path):
    """As a user types it; the record knows policy and task only by what the script said."""
    files, record = str(script / "out" / "completions"), str(script / "mine")
    of = ["--policy", "decision", "--task", "decision:contexts=4"]
    page = tmp_path / "replay.json"
    command = ["replay", files, *of, "--methods", "flow", "--export", str(page)]
    assert cli.main(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "no token ids" in out and "sampled from: not recorded" in out
    replayed = json.loads(page.read_text())
    assert (replayed["responses"], replayed["continuations"]) == (16, 0)
    assert (
        cli.main(["replay", record, "--policy", "decision", "--methods", "flow", "--continuations", "2"]) == 0
    )
    assert "token values" in " ".join(capsys.readouterr().out.split())
    for place, more in ((files, of), (record, of[:2])):
        assert cli.main(["trace", "--from", place, "--row", "9", *more]) == 0
        assert "row 9" in capsys.readouterr().out
    for arguments, words in (
        (["replay", files], "does not say which policy and task"),
        (["replay", files, *of, "--set", "training.prompts_per_step=2"], "--set goes with an experiment"),
        (["trace", "--from", files, *of, "--row", "99"], "gives rows 0 to 15"),
        (["trace", "--from", str(tmp_path / "no.txt"), *of], "neither a folder of recorded runs nor"),
    ):
        assert cli.main(arguments) == 2
        assert words in capsys.readouterr().err


def test_recorded_runs_know_their_policy_and_task(tmp_path, monkeypatch):
    """Another one given beside them is refused, not ignored."""
    run = SimpleNamespace(manifest=SimpleNamespace(experiment={"declaration": {}}))
    monkeypatch.setattr(given, "load", lambda place: [run])
    for name, arguments in (("policy", ("decision", None)), ("task", (None, {"name": "decision"}))):
        with pytest.raises(ExperimentError, match=f"--{name} goes with an experiment"):
            given.read(tmp_path, 1, *arguments, lambda experiment, policy: None)
