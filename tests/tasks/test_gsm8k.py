"""GSM8K: both markers, exact numbers, and data that is refused with its file, line and field when it is broken."""

import json

import pytest

import tasks

ROWS = [
    {"question": "How many eggs?", "answer": "She has 16.\n#### 1,600"},
    {"question": "What percentage is left?", "answer": "half\n#### 50"},
    {"question": "Debt?", "answer": "#### -5"},
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWTRACER_DATA", str(tmp_path))
    (tmp_path / "gsm8k_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def test_problems(folder):
    problems = tasks.get("gsm8k").problems("test")
    assert [problem.gold for problem in problems] == [1600, 50, -5]
    assert [problem.id for problem in problems] == ["gsm8k/test/0", "gsm8k/test/1", "gsm8k/test/2"]
    assert tasks.get("gsm8k").problems("test", limit=2) == problems[:2]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("... \\boxed{18}", "correct"),
        ("#### 18", "correct"),
        ("####18", "correct"),
        ("#### $18", "correct"),
        ("#### 18.", "correct"),
        ("#### 18.00", "correct"),
        ("#### +18", "correct"),
        ("#### 18 dollars", "correct"),
        ("#### **18**", "correct"),
        ("#### 36/2", "correct"),
        ("\\boxed{\\$18}", "correct"),
        ("\\boxed{18 \\text{ dollars}}", "correct"),
        ("\\boxed{x = 18}", "correct"),
        ("#### \\boxed{18}", "correct"),
        ("\\boxed{17} then #### 18", "correct"),
        ("#### 17\n\\boxed{18}", "correct"),
        ("#### Step 4: add\n#### 18\n#### Done", "correct"),
        ("#### 18\n#### 17", "wrong"),
        ("#### 18.01", "wrong"),
        ("#### -18", "wrong"),
        ("#### 18%", "wrong"),
        ("#### 18 thousand", "wrong"),
        ("#### 18 cents", "correct"),
        ("\\boxed{18 or 19}", "wrong"),
        ("\\boxed{17, 18}", "wrong"),
        ("\\boxed{18x}", "wrong"),
        ("\\boxed{１８}", "wrong"),
        ("\\boxed{eighteen}", "wrong"),
        ("\\boxed{1e999999999}", "wrong"),
        ("\\boxed{}", "no_answer"),
        ("The answer is 18", "no_answer"),
        ("#### ", "no_answer"),
        ("#### 18 or 19", "no_answer"),
        ("##### 18", "no_answer"),
        ("\\boxed{18", "no_answer"),
    ],
)
def test_verdict(text, verdict):
    task = tasks.get("gsm8k")
    problem = task.problem_from("How much does she make?", "Janet sells...\n#### 18")
    assert task.verify(problem, text, "stop") == verdict


def test_cut_off_responses():
    task = tasks.get("gsm8k")
    problem = task.problem_from("q", 18)
    assert task.verify(problem, "#### 18\nBut wait", "length") == "correct"
    assert task.verify(problem, "\\boxed{17} But wait", "length") == "wrong"
    assert task.verify(problem, "But wait", "length") == "truncated"
    assert task.verify(problem, "But wait", None) == "no_answer"


def test_percentages_where_the_question_asks_for_one():
    task = tasks.get("gsm8k")
    asked = task.problem_from("What percentage of the eggs is left?", 50)
    assert task.verify(asked, "#### 50%") == "correct"
    assert task.verify(asked, "#### 0.5") == "wrong"
    stated = task.problem_from("After 20 percent off, how much does she pay?", 50)
    assert task.verify(stated, "#### 50%") == "wrong"


def test_span_covers_the_answer_only():
    task = tasks.get("gsm8k")
    for text in ("so\n####  $1,234 \nmore", "so \\boxed{ $1,234 } more"):
        start, end = task.extract(text)
        assert text[start:end] == "$1,234"


def test_option_answer_makes_one_marker_count():
    problem = tasks.get("gsm8k").problem_from("q", 18)
    boxed, hashes = tasks.get("gsm8k", answer="boxed"), tasks.get("gsm8k", answer="hashes")
    assert boxed.verify(problem, "\\boxed{18}\n#### 17") == "correct"
    assert hashes.verify(problem, "#### 18\n\\boxed{17}") == "correct"
    assert hashes.verify(problem, "\\boxed{18}") == "no_answer"
    assert "\\boxed{}" in boxed.prompt(problem)
    assert "####" in hashes.prompt(problem)
    with pytest.raises(tasks.TaskError, match="either, boxed, hashes"):
        tasks.get("gsm8k", answer="bold")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"question": "a", "answer": "#### 1"}\n{"question": \n',
            r"gsm8k_test.jsonl line 2: not a JSON object",
        ),
        (b'{"question": "a"}\n', r"gsm8k_test.jsonl line 1: field 'answer' is missing"),
        (
            b'{"question": 3, "answer": "#### 1"}\n',
            r"gsm8k_test.jsonl line 1: field 'question' must be a text",
        ),
        (
            b'{"question": " ", "answer": "#### 1"}\n',
            r"gsm8k_test.jsonl line 1: field 'question' must be a text",
        ),
        (b'{"question": "a", "answer": "no"}\n', r"gsm8k_test.jsonl line 1: field .answer.: .*integer"),
        (b'{"question": "caf\xe9", "answer": "#### 1"}\n', r"gsm8k_test.jsonl line 1: not UTF-8"),
        ('{"question": "a", "answer": "#### 1"}'.encode("utf-16"), r"gsm8k_test.jsonl line 1: not UTF-8"),
        (b'{"question": "a", "answer": "#### 1"}\n' * 2, r"line 2: the question repeats .*line 1"),
        (b"[1, 2]\n", r"gsm8k_test.jsonl line 1: not a JSON object but list"),
        (b"[" * 100_000, r"gsm8k_test.jsonl line 1: not a JSON object"),
        (b"\n\n", r"gsm8k_test.jsonl: holds no items"),
    ],
)
def test_broken_data_names_file_line_and_field(folder, content, message):
    (folder / "gsm8k_test.jsonl").write_bytes(content)
    with pytest.raises(tasks.TaskError, match=message) as error:
        tasks.get("gsm8k").problems("test", limit=1)
    assert "\n" not in str(error.value)


def test_missing_data_says_how_to_get_it(folder, monkeypatch):
    task = tasks.get("gsm8k")
    with pytest.raises(tasks.TaskError, match=r"no gsm8k_train\.jsonl in"):
        task.problems("train")
    monkeypatch.setenv("FLOWTRACER_DATA", str(folder / "nowhere"))
    with pytest.raises(tasks.TaskError, match="not a folder"):
        task.problems("train")
    monkeypatch.delenv("FLOWTRACER_DATA")
    with pytest.raises(tasks.TaskError, match=r"FLOWTRACER_DATA.*load_dataset\('openai/gsm8k'") as error:
        task.problems("test")
    assert "\n" not in str(error.value)
    with pytest.raises(tasks.TaskError, match="no split 'dev'"):
        task.problems("dev")


def test_hub_rows_give_the_same_problems(folder, monkeypatch):
    import datasets

    def load_dataset(name, config, split, revision):
        assert (name, config, split) == ("openai/gsm8k", "main", "test")
        assert len(revision) == 40
        return datasets.Dataset.from_list(ROWS)

    from_folder = tasks.get("gsm8k").problems("test")
    monkeypatch.delenv("FLOWTRACER_DATA")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert tasks.get("gsm8k").problems("test") == from_folder


def test_every_real_gold_verifies(real_data):
    """The published solutions themselves, as responses, for all 8,792 problems; and a neighbouring number fails."""
    task = tasks.get("gsm8k")
    for split, count in (("train", 7473), ("test", 1319)):
        problems = task.problems(split)
        lines = (real_data / f"gsm8k_{split}.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(problems) == count
        for problem, line in zip(problems, lines, strict=True):
            assert task.verify(problem, json.loads(line)["answer"]) == "correct", problem.id
            assert task.verify(problem, f"#### {problem.gold + 1}") == "wrong", problem.id
