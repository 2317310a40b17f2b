"""The chat page around an object that answers as a model does which writes ABC.

The page is what is tested with it: the shipped model is too small to write a tune on demand.
Run: python page_of_a_composer.py
"""

from collections.abc import Iterator
from typing import Any

from mllm.chat import MusicLM
from mllm.serve.chat_page import serve_page

TITLE = '<script>alert(1)</script> "onerror=alert(2) ${alert(3)} {{4}} & é'
TUNE = f"X:1\nT:{TITLE}\nM:4/4\nL:1/4\nQ:1/4=240\nK:D\nD E F G | A B c d |]\n"
BROKEN = "X:1\nM:4/x\nK:D\nD E F G |]\n"
ANSWERS = {"Write": f"Here it is:\n```abc\n{TUNE}```\nIt is in D.", "Break": BROKEN}


class Composer(MusicLM):
    """Everything of a model but the model."""

    sampling_rate = 22_050

    def __init__(self) -> None:
        self.name = "composer"
        self.provenance = {"licence": "Apache-2.0"}

    def stream(self, messages: Any, **options: Any) -> Iterator[str]:  # type: ignore[override]
        """One of ANSWERS by the question's first word; to any other question what the conversation was."""
        question = messages[-1]["content"][-1]["text"]
        said = "; ".join(f"{m['role']}: {m['content'][:10]!r}" for m in messages if isinstance(m["content"], str))
        heard = sum(part["type"] == "score" for m in messages for part in m["content"] if isinstance(part, dict))
        answer = ANSWERS.get(question.split()[0], f"{len(messages)} messages, {heard} scores, {said}")
        for start in range(0, len(answer), 20):
            yield answer[start : start + 20]


if __name__ == "__main__":
    serve_page(Composer(), "127.0.0.1", None, browser=False)
