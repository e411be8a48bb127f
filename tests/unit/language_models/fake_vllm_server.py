"""A fake of vLLM's HTTP server: the answers' shapes as recorded from vLLM 0.32, the tokens made by a hash.

It keeps what the contract is about: which adapters are loaded and from where, which model a request names, which
seed, temperature and prompt it carries. Faults are switched on by attributes.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

END = 2
VOCABULARY = 1000


class FakeVllm(ThreadingHTTPServer):
    """One replica. `completions` are the bodies it was asked for, `loads` and `unloads` its adapters' history."""

    daemon_threads = True

    def __init__(self, model: str = "base-model", context: int = 100) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.context = model, context
        self.adapters: dict[str, str] = {}
        self.completions: list[dict[str, Any]] = []
        self.loads: list[tuple[str, str]] = []
        self.unloads: list[str] = []
        self.failures = 0  # so many next requests are answered by 503
        self.delay = 0.0  # seconds until an answer
        self.forgetful = False  # forgets an adapter as soon as it is loaded
        self.raw_logprobs = False
        self.runtime_lora = True
        self.max_rank = 16
        self.token_ids = True
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Tokens that depend on model, prompt, seed and temperature; every third rollout ends early."""
        if body["model"] != self.model and body["model"] not in self.adapters:
            message = f"The model `{body['model']}` does not exist. Valid aliases: {self.model}."
            return 404, _error(message, "NotFoundError", 404, "model")
        if max(body["prompt"]) >= VOCABULARY:
            return 400, _error(f"Token id {max(body['prompt'])} is out of vocabulary", "BadRequestError", 400)
        key = f"{body['model']}/{body['prompt']}/{body['seed'] if body['temperature'] else 'greedy'}"
        digest = hashlib.sha256(key.encode()).digest()
        length = min(body["max_tokens"], self.context - len(body["prompt"]))  # cut without a word
        tokens = [3 + digest[index % 32] for index in range(length)]
        if digest[0] % 3 == 0:
            tokens = [*tokens[: max(len(tokens) // 2, 1) - 1], END]
        tokens = body["allowed_token_ids"] or tokens
        heat = 1.0 if self.raw_logprobs or not body["temperature"] else body["temperature"]
        logprobs = [-token / heat / 100 for token in tokens]
        if body["allowed_token_ids"] and not self.raw_logprobs:
            logprobs = [0.0]
        choice = {
            "index": 0, "text": "", "stop_reason": None, "token_ids": tokens, "prompt_token_ids": body["prompt"],
            "finish_reason": "stop" if tokens[-1] == END else "length", "prompt_logprobs": None,
            "logprobs": {"text_offset": [0] * len(tokens), "token_logprobs": logprobs,
                         "tokens": ["?"] * len(tokens), "top_logprobs": [{"?": -1.0}] * len(tokens)},
        }  # fmt: skip
        if not self.token_ids:
            choice["token_ids"] = None
        return 200, {"id": "cmpl-1", "object": "text_completion", "model": body["model"], "choices": [choice]}

    def load(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Load an adapter that is really there."""
        name, path = body["lora_name"], body["lora_path"]
        if not self.runtime_lora:
            return 404, {"detail": "Not Found"}
        if name in self.adapters:
            message = f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, .."
            return 400, _error(message, "InvalidUserInput", 400)
        if not (Path(path) / "adapter_model.safetensors").is_file():
            return 404, _error(f"Loading lora {name} failed: No adapter found for <path>", "NotFoundError", 404)
        rank = json.loads((Path(path) / "adapter_config.json").read_text())["r"]
        if rank > self.max_rank:
            message = f"Call to add_lora method failed: LoRA rank {rank} is greater than max_lora_rank {self.max_rank}."
            return 500, _error(message, "InternalServerError", 500)
        self.loads.append((name, path))
        if not self.forgetful:
            self.adapters[name] = path
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, name: str) -> tuple[int, Any]:
        """Forget an adapter's name."""
        if self.adapters.pop(name, None) is None:
            return 404, _error(f"The lora adapter '{name}' cannot be found.", "NotFoundError", 404)
        self.unloads.append(name)
        return 200, f"Success: LoRA adapter '{name}' removed successfully."


class _Handler(BaseHTTPRequestHandler):
    server: FakeVllm

    def do_GET(self) -> None:
        if self.path != "/v1/models":
            self.answer(404, {"detail": "Not Found"})
            return
        server = self.server
        base = {"id": server.model, "root": f"/models/{server.model}", "parent": None, "max_model_len": server.context}
        loaded = [
            {"id": name, "root": path, "parent": server.model, "max_model_len": None}
            for name, path in server.adapters.items()
        ]
        self.answer(200, {"object": "list", "data": [base, *loaded]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.server.delay)
        with self.server.lock:
            if self.server.failures:
                self.server.failures -= 1
                self.answer(503, _error("overloaded", "ServiceUnavailable", 503))
            elif self.path == "/v1/completions":
                self.server.completions.append(body)
                self.answer(*self.server.complete(body))
            elif self.path == "/v1/load_lora_adapter":
                self.answer(*self.server.load(body))
            elif self.path == "/v1/unload_lora_adapter":
                self.answer(*self.server.unload(body["lora_name"]))

    def answer(self, status: int, content: Any) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def _error(message: str, kind: str, code: int, parameter: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}


@contextmanager
def fake_vllm_server(**options: Any) -> Iterator[FakeVllm]:
    """A running fake."""
    server = FakeVllm(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
