"""The chat page: upload or record music, ask, ask on. Gradio on this machine alone; nothing comes from elsewhere."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from mllm.abc_in_text import find_abc
from mllm.chat import MusicLM
from mllm.errors import MllmError, PromptError
from mllm.score import SUFFIXES
from mllm.serve import sheet_music

EXAMPLES = Path(__file__).parent / "examples"
QUESTIONS = {  # file in EXAMPLES -> label, question
    "waltz.flac": ("A waltz", "What is the metre?"),
    "jig.flac": ("A jig", "Which instruments play?"),
    "air.flac": ("A slow air", "What key is this in?"),
    "march.flac": ("A march", "How fast is it?"),
}
RECORDINGS = ["audio", ".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff"]
MAX_UPLOAD = "400mb"  # half an hour of 16 bit stereo wav takes 320
MAX_ANSWER = 320  # tokens: nine of ten folk tunes take 100 to 300 as ABC
TROUBLE = "This could not be answered"  # title of an error message, by which it is kept out of the conversation
ABILITIES = (
    "It listens to recordings up to 30 minutes and reads and plays scores; ask it for instruments, key, tempo, metre, "
    "melody. It is small and errs: check what matters. It does not know titles, artists or lyrics."
)
WELCOME = """<center>

### Drop in a recording or a score, or record yourself

then ask about it, and ask on. Or start with one of these:

</center>"""
CSS = """
.gradio-container {max-width: 860px !important; margin: 0 auto !important;}
.about {font-size: 13px; line-height: 1.5; color: var(--body-text-color-subdued);}
.about p {margin: 0;}
.examples {grid-template-columns: 1fr 1fr !important; max-width: 660px !important; gap: 12px !important;}
.example {border: 1px solid var(--border-color-primary) !important; padding: 14px !important;}
footer, button[aria-label="Share"] {display: none !important;}
"""


def build_page(music: MusicLM) -> gr.ChatInterface:
    """The page around a loaded model."""

    def respond(message: dict[str, Any], history: list[dict[str, Any]]) -> Iterator[Any]:
        shown: list[gr.ChatMessage] = []
        try:
            conversation = read_history(music, message, history)
            if given := sheets_given(message):
                shown = [gr.ChatMessage(role="assistant", content=given)]
                yield shown
            words = ""
            for piece in music.stream(conversation, max_new_tokens=MAX_ANSWER):
                words = (words + piece).lstrip()
                yield [*shown, words]
            if sheets := sheet_music.sheets_of_text(words):
                yield [*shown, gr.ChatMessage(role="assistant", content=[words, *sheets])]
            elif not words:
                yield [*shown, "(no answer)"]
        except MllmError as error:
            # by its own name, not by where Gradio put it
            words = re.sub(re.escape(get_upload_folder()) + r"/\w+/", "", str(error))
            yield [*shown, gr.ChatMessage(role="assistant", content=words, metadata={"title": TROUBLE})]

    examples = {name: row for name, row in QUESTIONS.items() if (EXAMPLES / name).is_file()}
    return gr.ChatInterface(
        respond,
        multimodal=True,
        title="Ask about music",
        description=about(music),
        chatbot=gr.Chatbot(
            show_label=False,
            height="max(320px, calc(100vh - 260px))",
            placeholder=WELCOME,
            buttons=["copy"],
            layout="bubble",
            feedback_options=None,
            render_markdown=False,  # an answer may be notation, whose marks markdown would swallow
        ),
        textbox=gr.MultimodalTextbox(
            placeholder="What key is this in?",
            sources=["upload", "microphone"],
            file_types=[*RECORDINGS, *SUFFIXES],
            file_count="multiple",
            show_label=False,
        ),
        examples=[{"text": question, "files": [str(EXAMPLES / name)]} for name, (_, question) in examples.items()],
        example_labels=[f"{label}: {question}" for label, question in examples.values()] or None,
        cache_examples=False,
        flagging_mode="never",
        analytics_enabled=False,
        api_visibility="private",
        delete_cache=(3600, 86400),
    )


def about(music: MusicLM) -> str:
    """HTML: which model answers, under which licence, what it can and cannot do."""
    weights = music.provenance.get("bases", {}).get("weights", [])
    bases = sorted({row["licence"] for row in weights if row.get("licence")})
    licence = music.provenance.get("licence", "Apache-2.0" if music.name == "mini" else "see its provenance.json")
    made_from = f" (made from parts under {' and '.join(bases)})" if bases else ""
    name = Path(music.name).name
    return f'<div class="about"><p>Model <b>{name}</b>, licence {licence}{made_from}. {ABILITIES}</p></div>'


def read_history(music: MusicLM, message: dict[str, Any], history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages for `mllm.chat` from what Gradio hands over; turns that ended in an error are left out.

    Raises:
        PromptError: nothing was given or asked yet, or a file that Gradio did not receive itself.
    """
    messages: list[dict[str, Any]] = []
    files: list[Path] = []
    texts: list[str] = []
    for turn in history:
        parts = turn["content"] if isinstance(turn["content"], list) else [turn["content"]]
        if turn["role"] == "user":
            files += [received(part["file"]["path"]) for part in parts if isinstance(part, dict) and "file" in part]
            texts += [_text(part) for part in parts]
            continue
        answer = "".join(_text(part) for part in parts)
        if not answer:
            continue  # sheet music of what the user gave, which the answer follows
        if (turn.get("metadata") or {}).get("title") != TROUBLE:
            messages += [_user(music, files, " ".join(filter(None, texts))), {"role": "assistant", "content": answer}]
        files, texts = [], []
    files += [received(path) for path in message.get("files") or []]
    question = " ".join(filter(None, [*texts, (message.get("text") or "").strip()]))
    if not files and not messages and not find_abc(question):
        raise PromptError("Give me something to hear or read first: a recording, a score, or ABC notation as text.")
    return [*messages, _user(music, files, question or "Describe this.")]


def sheets_given(message: dict[str, Any]) -> list[Any]:
    """Sheet music and sound of the scores that a user's message brings, as files or as ABC in its text."""
    files = [received(path) for path in message.get("files") or []]
    scores = [file for file in files if file.suffix.lower() in SUFFIXES]
    return [*sheet_music.sheets_of_files(scores), *sheet_music.sheets_of_text(message.get("text") or "")]


def _text(part: Any) -> str:
    return part if isinstance(part, str) else part.get("text", "")


def _user(music: MusicLM, files: list[Path], question: str) -> dict[str, Any]:
    return music.question(files, question or "Describe this.", hear=True)


def received(path: str) -> Path:
    """A path, if Gradio put the file there itself; PromptError for any other file of this machine."""
    folder = Path(get_upload_folder()).resolve()
    file = Path(path).resolve()
    if not file.is_relative_to(folder):
        raise PromptError(f"{Path(path).name}: not a file that was uploaded here; upload it with the paper clip")
    return file


def serve_page(music: MusicLM, host: str, port: int | None, share: bool = False, browser: bool = True) -> None:
    """Serve the page until interrupted; prints its address.

    Args:
        music: the model that answers.
        host: address to listen at.
        port: None takes the first free one from 7860.
        share: also make a public link through gradio's servers.
        browser: open the page, where there is a display.
    """
    display = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    page = build_page(music)
    try:
        _, address, public = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            inbrowser=browser and display,
            max_file_size=MAX_UPLOAD,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            footer_links=[],
            theme=gr.themes.Soft(
                primary_hue="teal",
                font=["ui-sans-serif", "system-ui", "sans-serif"],
                font_mono=["ui-monospace", "monospace"],
            ),
            css=CSS + sheet_music.CSS,
        )
    except OSError as error:
        raise PromptError(
            f"no page at {host}:{port or '7860-7959'}: {str(error).splitlines()[0]}; try --port"
        ) from error
    print(f"The chat page is at {address}", flush=True)
    if public:
        print(f"and for everybody at {public}", flush=True)
    page.block_thread()
