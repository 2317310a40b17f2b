"""An engine that answers as a model does which writes ABC, knows facts and takes its time.

What stands in front of it is what is tested with it: the shipped model is too small to write a tune on demand.
"""

from __future__ import annotations

import threading
import time

from mllm.serve.engine_reply import Reply
from mllm.serve.generation import BusyError, GenerationRequest, Piece, StoppingError, Usage

TITLE = '<script>alert(1)</script> "onerror=alert(2) ${alert(3)} {{4}} & é'
TUNE = f"X:1\nT:{TITLE}\nM:4/4\nL:1/4\nQ:1/4=240\nK:D\nD E F G | A B c d |]\n"
BROKEN = "X:1\nM:4/x\nK:D\nD E F G |]\n"
ANSWERS = {
    "Write": f"Here it is:\n```abc\n{TUNE}```\nIt is in D.",
    "Break": BROKEN,
    "Claim": "It is in 4/4 and in the key of D major.",
}


class Composer:
    """Answers by the question's first word: one of ANSWERS; "Forever" until it is cancelled; to anything else with
    what the conversation was.

    Attributes:
        requests: what was asked.
        busy: how many requests more are refused.
        stopping: whether all are.
        cancelled: set when a reader has left.
    """

    model_name, context = "composer", None

    def __init__(self):
        self.requests: list[GenerationRequest] = []
        self.busy, self.stopping = 0, False
        self.cancelled = threading.Event()

    def submit(self, request: GenerationRequest) -> Reply:
        if self.stopping:
            raise StoppingError("the server is going down and takes nothing new")
        if self.busy:
            self.busy -= 1
            raise BusyError("64 requests wait already: try again in 1 s", 1.0)
        self.requests.append(request)
        reply = Reply(self.cancelled.set)
        threading.Thread(target=self._write, args=(request, reply), daemon=True).start()
        return reply

    def _write(self, request: GenerationRequest, reply: Reply) -> None:
        said = [part for message in request.messages for part in message["content"]]
        word = (said[-1]["text"].split() or [""])[0]
        counts = {kind: sum(part["type"] == kind for part in said) for kind in ("audio", "score")}
        told = "; ".join(f"{m['role']}: {m['content'][-1]['text'][:10]!r}" for m in request.messages)
        answer = ANSWERS.get(word, f"{len(request.messages)} messages, {counts}, {told}")
        for start in range(0, len(answer), 20):
            reply.give(Piece(answer[start : start + 20]))
        while word == "Forever" and not reply.cancelled:
            reply.give(Piece(" la"))
            time.sleep(0.05)
        reply.end("cancelled" if reply.cancelled else "stop", Usage(1, 1))

    def statistics(self) -> dict[str, float]:
        return {}

    async def drain(self, seconds: float) -> bool:
        return True

    def close(self) -> None:
        pass
