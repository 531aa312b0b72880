"""Protects the door for other trainers: their signatures, their data, and that nothing unjudged is silently 0."""

import asyncio
import inspect
import json

import pytest

import tasks
from tasks import TaskError, Verdict
from tasks.rewards import rubric_functions


def test_trl_gets_one_reward_a_completion_and_none_for_what_cannot_be_judged(monkeypatch):
    rows = tasks.dataset("word_problems", "test", 3)
    reward = tasks.reward_function("word_problems")
    right = [f"#### {json.loads(row['gold'])}" for row in rows]
    texts = [right[0], "#### 999999", "no idea"]
    columns = {"gold": rows["gold"], "question": rows["question"]}
    assert reward(prompts=rows["prompt"], completions=texts, completion_ids=[[1]] * 3, **columns) == [
        1.0,
        0.0,
        0.0,
    ]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    assert reward(rows["prompt"], chats, **columns) == [1.0, 0.0, 0.0]

    def broken(problem, answer):
        raise RuntimeError("no verdict")

    monkeypatch.setattr(reward.task, "judge", broken, raising=False)
    assert reward(rows["prompt"], texts, **columns) == [None, None, 0.0]
    assert reward.verdicts[Verdict.ERROR] == 2 and reward.verdicts.total() == 9


def test_a_data_set_without_golds_is_refused_by_name():
    with pytest.raises(TaskError, match=r"column 'gold' is missing.*tasks\.dataset\('gsm8k'"):
        tasks.reward_function("gsm8k")(["q"], ["#### 1"], answer=["1"])
    with pytest.raises(TaskError, match="gold must be JSON"):
        tasks.reward_function("gsm8k")(["q"], ["#### 1"], gold=["#### 1"])
    with pytest.raises(TaskError, match="host must be one of"):
        tasks.dataset("sums", "test", host="other")


def test_verl_calls_with_its_four_names(monkeypatch):
    (row,) = tasks.dataset("word_problems", "test", 1, host="verl")
    compute_score = tasks.score_function("word_problems")
    assert list(inspect.signature(compute_score).parameters)[:4] == [
        "data_source", "solution_str", "ground_truth", "extra_info",
    ]  # fmt: skip
    gold = row["reward_model"]["ground_truth"]
    call = {"data_source": row["data_source"], "ground_truth": gold, "extra_info": row["extra_info"]}
    assert compute_score(solution_str=f"#### {gold}", **call) == {
        "score": 1.0,
        "unscorable": 0.0,
        "timeout": 0.0,
    }
    assert compute_score(solution_str="#### 999999", **call)["score"] == 0.0
    monkeypatch.setattr(compute_score.task, "judge", lambda *_: Verdict.ERROR, raising=False)
    assert compute_score(solution_str="#### 1", **call) == {"score": 0.0, "unscorable": 1.0, "timeout": 0.0}


def test_verifiers_calls_by_the_names_of_its_arguments():
    (row,) = tasks.dataset("word_problems", "test", 1, host="verifiers")
    correct, unscorable = rubric_functions("word_problems")
    assert list(inspect.signature(correct).parameters) == ["completion", "answer", "info"]
    state = {"answer": row["answer"], "info": row["info"]}
    chat = [{"role": "assistant", "content": f"#### {row['answer']}"}]
    assert asyncio.run(correct(completion=chat, **state)) == 1.0
    assert asyncio.run(unscorable(completion=chat, **state)) == 0.0
    assert asyncio.run(correct(completion="#### 999999", **state)) == 0.0


def test_a_rubric_without_its_package_says_what_to_install():
    try:
        import verifiers  # noqa: F401
    except ImportError:
        with pytest.raises(TaskError, match="pip install verifiers"):
            tasks.rubric("sums")
    else:
        assert tasks.rubric("sums").weights == [1.0, 0.0]
