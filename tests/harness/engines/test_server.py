"""Protects the way to a vLLM server where there is none: what is wrong is one line, before anything is sampled."""

import http.server
import socket
import tempfile
import threading

import pytest
import torch
from transformers import AutoConfig

from harness import cli, provenance
from harness.engines import server, vllm
from harness.engines.base import EngineError
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
    monkeypatch.setattr(server, "describe", lambda address: None)
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
        with pytest.raises(EngineError, match="says 404 to /version: .*flowtracer serve"):
            server.describe(f"http://127.0.0.1:{other.server_port}")
        other.shutdown()


def test_a_page_of_another_program_is_no_answer(tmp_path, monkeypatch):
    """Such as what a proxy or a notebook shows for any address."""
    (tmp_path / "version").write_text("<html>")
    monkeypatch.chdir(tmp_path)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(EngineError, match="no vLLM; .*flowtracer serve"):
            server.describe(f"http://127.0.0.1:{other.server_port}")
        other.shutdown()


def test_an_address_that_is_none_is_one_line():
    with pytest.raises(EngineError, match="Invalid port"):
        server.describe("http://::1:8000")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("fe80::1", "http://[fe80::1]:8000"),
        ("node7", "http://node7:8000"),
    ],
)
def test_what_listens_somewhere_is_reached_at_an_address(host, address):
    assert server.address_of(host, 8000) == address


def test_a_port_in_use_is_one_line(monkeypatch, capsys):
    """Before vLLM is imported: what listens there may be a server too, and would be announced as this one."""
    monkeypatch.setattr(provenance, "vllm_version", lambda: f"{vllm.TESTED}0")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert cli.main(["serve", "decision", "--port", port]) == 2
    error = capsys.readouterr().err
    assert f"--port {port}: Address already in use; give another" in error and error.count("\n") == 1


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    server.release()


def test_weights_for_a_server_leave_nothing_behind(temporary, monkeypatch):
    weights, address = {"one": torch.ones(3)}, "http://127.0.0.1:9"
    with server._written(address, weights) as folder:
        assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    assert not folder.exists()

    def full(weights, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(server, "save_file", full)
    with (
        pytest.raises(EngineError, match="No space left on device; .* TMPDIR with room"),
        server._written(address, weights),
    ):
        pass
    assert not list(temporary.iterdir())


def test_weights_of_a_run_that_was_killed_go_when_the_next_one_comes(temporary):
    ours, theirs = (
        temporary / "flowtracer-served-http-h-8.x1.weights",
        temporary / "flowtracer-served-http-h-80.x1.weights",
    )
    ours.mkdir()
    theirs.mkdir()
    server._hold("http://h:8/")
    assert theirs.exists() and not ours.exists()


def test_a_lock_that_is_not_ours_is_one_line(temporary):
    server.lock_of("http://h:8").mkdir()
    with pytest.raises(EngineError, match="give a TMPDIR of your own"):
        server._hold("http://h:8")


def test_policies_of_one_architecture_share_a_name_and_no_others():
    """By it a server says whose weights it can take: those of another would fit by accident, or end it."""

    def name(policy, dtype="float32", **changes):
        configuration = AutoConfig.from_pretrained(FOLDER / policy)
        for key, value in changes.items():
            setattr(configuration, key, value)
        return server.architecture(configuration, dtype)

    one = name("decision")
    assert one == name("decision-chain") == name("decision", use_cache=False, pad_token_id=3)
    assert one not in (name("arithmetic"), name("decision", "bfloat16"), name("decision", rms_norm_eps=1e-3))


def test_serving_needs_vllm(monkeypatch, capsys):
    monkeypatch.setattr(provenance, "vllm_version", lambda: None)
    assert cli.main(["serve", "decision"]) == 2
    assert "vLLM is not installed; pip install" in capsys.readouterr().err
