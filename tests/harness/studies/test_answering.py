"""Protects sentences that a replay says of itself and a reader of its file says again: both are written here."""

from harness.studies import measured, replay, replay_page
from harness.studies.answering import changed_settings, values_fact
from tests.harness.studies.kept_files import replay_table, written


def test_a_replay_and_the_reader_of_its_file_say_the_same(tmp_path):
    table = {**replay_table(), "changes": ["task.contexts=4", "training.steps=2"]}
    result = replay.Replay(
        **{
            "source": "here",
            "dead": 0,
            "gap": 0.0,
            "correlations": {},
            "overlaps": {},
            "token_shares": {},
            **table,
        }
    )
    shared = [
        "changed settings: task.contexts=4, training.steps=2",
        "token values: 4 responses, 8 continuations a prefix; two halves of them agree at rank correlation 0.50",
    ]
    assert set(shared) <= set(replay_page.facts(result))
    assert set(shared) <= set(measured.read_one(written(tmp_path, table)).facts)


def test_nothing_is_said_of_what_was_not_done():
    assert changed_settings([]) == [] and values_fact(0, 16, None) == []
    assert values_fact(4, 1, None)[0].endswith("rank correlation unknown"), "one continuation has no halves"
