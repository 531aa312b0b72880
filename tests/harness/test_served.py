"""Protects the way to a vLLM server where there is none: what is wrong is one line, before anything is sampled."""

import http.server
import threading

import pytest
from transformers import AutoConfig

from harness import cli, engines, provenance, served
from harness.policy import FOLDER


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--server", "http://127.0.0.1:9"), "only engine vllm has one; this one is transformers"),
        (("--engine", "vllm", "--server", "localhost:8000"), "give http://HOST:PORT"),
        (("--engine", "vllm", "--server", "http://127.0.0.1:9"), "does not answer"),
    ],
)
def test_a_server_that_is_not_there_is_one_line(options, said, capsys):
    assert cli.main(["evaluate", "decision", "decision", *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_server_samples_for_one_run_at_a_time(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(served, "describe", lambda address: None)
    file = tmp_path / "fast.toml"
    file.write_text('base = "decision"\nengine = "vllm"\n')
    for option in (("--workers", "2"), ("--workers", "1", "--ray", "local")):
        command = ["reproduce", str(file), "--out", str(tmp_path / "runs"), "--server", "http://127.0.0.1:9"]
        assert cli.main([*command, *option]) == 2
        assert "one run at a time" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_another_program_at_that_address_is_not_taken_for_a_server():
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(engines.EngineError, match="says 404 to /version: .*flowtracer serve"):
            served.describe(f"http://127.0.0.1:{other.server_port}")
        other.shutdown()


def test_policies_of_one_architecture_share_a_name_and_no_others():
    """By it a server says whose weights it can take: those of another would fit by accident, or end it."""

    def name(policy, dtype="float32", **changes):
        configuration = AutoConfig.from_pretrained(FOLDER / policy)
        for key, value in changes.items():
            setattr(configuration, key, value)
        return served.architecture(configuration, dtype)

    one = name("decision")
    assert one == name("decision-chain") == name("decision", use_cache=False, pad_token_id=3)
    assert one not in (name("arithmetic"), name("decision", "bfloat16"), name("decision", rms_norm_eps=1e-3))


def test_serving_needs_vllm(monkeypatch, capsys):
    monkeypatch.setattr(provenance, "vllm_version", lambda: None)
    assert cli.main(["serve", "decision"]) == 2
    assert "vLLM is not installed; pip install" in capsys.readouterr().err
