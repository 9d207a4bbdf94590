"""A stand-in for a vLLM server: scores prompts as `vllm serve` does, with a model in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from transformers import PreTrainedModel


@contextmanager
def served(model: PreTrainedModel) -> Iterator[str]:
    """Serve the endpoints that TRL's client asks for scores; yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({"data": [{"id": "teacher"}]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            k = asked["prompt_logprobs"]
            self._answer(
                {"choices": [{"prompt_logprobs": scores(model, p, k)} for p in asked["prompt"]]}
            )

        def _answer(self, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@torch.no_grad()
def scores(model: PreTrainedModel, ids: list[int], k: int) -> list[dict[str, Any] | None]:
    """The k most likely tokens at every place and the one that stands there, ranked; none at the first."""
    logits = model(torch.tensor([ids])).logits[0, :-1].float()
    rows = []
    for said, row in zip(ids[1:], logits.log_softmax(-1), strict=True):
        order = row.argsort(descending=True).tolist()
        named = dict.fromkeys([*order[:k], said])
        rows.append({str(t): {"logprob": row[t].item(), "rank": order.index(t) + 1} for t in named})
    return [None, *rows]
