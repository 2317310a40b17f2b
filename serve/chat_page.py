"""The chat page: upload or record music, ask, ask on. Gradio in front of an API; nothing comes from elsewhere."""

from __future__ import annotations

import asyncio
import html
import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from mllm.abc_in_text import find_abc
from mllm.errors import MllmError, PromptError
from mllm.score import SUFFIXES
from mllm.serve import sheet_music
from mllm.serve.chat_client import ChatClient, Turn
from mllm.serve.chat_looks import CSS, HEAD, WELCOME
from mllm.serve.model_card import ModelPart, ServedModel
from mllm.serve.verdict_table import verdict_table

EXAMPLES = Path(__file__).parent / "examples"
QUESTIONS = {  # file in EXAMPLES -> label, question
    "waltz.flac": ("A waltz", "What is the metre?"),
    "jig.flac": ("A jig", "Which instruments play?"),
    "air.flac": ("A slow air", "What key is this in?"),
    "march.flac": ("A march", "How fast is it?"),
}
RECORDINGS = ["audio", ".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff"]
MAX_UPLOAD = "400mb"  # half an hour of 16 bit stereo wav takes 320
AT_ONCE = 16  # answers that the page waits for; the server has its own limits
# Titles of messages by which they are kept out of the conversation.
TROUBLE = "This could not be answered"
WAITING = "Waiting"
ABILITIES = (
    "It listens to recordings{length} and reads and plays scores; ask it for instruments, key, tempo, metre, "
    "melody. It is small and errs: check what matters. It does not know titles, artists or lyrics."
)
CHECK = "Check the answer: hold what it claims against the music"
NOTHING_TO_CHECK = "There is no recording and no score to check this answer against; give one as a file."
NOT_CHECKED = "The server did not check this answer; it knows no verify option."


def build_page(client: ChatClient) -> gr.Blocks:
    """The page in front of an API."""

    async def respond(message: dict[str, Any], history: list[dict[str, Any]], check: bool) -> AsyncIterator[Any]:
        shown: list[Any] = []
        words, verdicts = "", None
        try:
            turns = read_history(message, history)
            if given := await asyncio.to_thread(sheets_given, message):
                shown = [gr.ChatMessage(role="assistant", content=given)]
                yield shown
            verify = check and any(turn.files for turn in turns)
            async with aclosing(client.answer(turns, verify)) as replies:
                async for reply in replies:
                    words, verdicts = reply.words, reply.verdicts
                    if reply.note:
                        waiting = gr.ChatMessage(role="assistant", content=reply.note, metadata={"title": WAITING})
                        yield [*shown, waiting]
                    elif words:
                        yield [*shown, words]
            added = await asyncio.to_thread(sheet_music.sheets_of_text, words)
            if check:
                added.append(gr.HTML(_checked(verify, verdicts)))
            if added:
                yield [*shown, gr.ChatMessage(role="assistant", content=[words or "(no answer)", *added])]
            elif not words:
                yield [*shown, "(no answer)"]
        except MllmError as error:
            # by their own names, not by where Gradio put the files
            told = re.sub(re.escape(get_upload_folder()) + r"/\w+/", "", str(error))
            trouble = gr.ChatMessage(role="assistant", content=told, metadata={"title": TROUBLE})
            yield [*shown, words, trouble] if words else [*shown, trouble]

    examples = {name: row for name, row in QUESTIONS.items() if (EXAMPLES / name).is_file()}
    with gr.Blocks(title="Ask about music", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        # the style puts it below the rest; ChatInterface would hide it in a box that has to be opened
        checked = gr.Checkbox(label=CHECK, container=False, elem_classes="check")
        gr.ChatInterface(
            respond,
            multimodal=True,
            title="Ask about music",
            description=about(client.card),
            chatbot=gr.Chatbot(
                show_label=False,
                height="max(320px, calc(100vh - 270px))",
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
                stop_btn=True,
            ),
            additional_inputs=[checked],
            examples=[
                [{"text": question, "files": [str(EXAMPLES / name)]}] for name, (_, question) in examples.items()
            ],
            example_labels=[f"{label}: {question}" for label, question in examples.values()] or None,
            cache_examples=False,
            flagging_mode="never",
            api_visibility="private",
            concurrency_limit=AT_ONCE,
        )
    return page


def about(card: ServedModel) -> str:
    """HTML: which model answers, under which licence, what it can and cannot do; folded, what it was made from."""
    terms = html.escape(card.licence or "not told by its server")
    longest = card.max_audio_seconds
    length = "" if not longest else f" up to {longest / 60:g} minutes" if longest >= 60 else f" up to {longest:g} s"
    words = f"Model <b>{html.escape(card.id)}</b>, licence {terms}. {ABILITIES.format(length=length)}"
    return f'<div class="about"><p>{words}</p>{_made_from(card.parts or ())}</div>'


def _made_from(parts: Sequence[ModelPart]) -> str:
    if not parts:
        return ""
    licences = " and ".join(sorted({part.licence or "a licence that is not told" for part in parts}))
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in (
            part.name, part.version or "–", part.licence or "–", (part.sha256 or "–")[:12], part.source or "–"
        )) + "</tr>" for part in parts
    )  # fmt: skip
    heads = "".join(f"<th>{name}</th>" for name in ("part", "version", "licence", "sha256", "from"))
    summary = f"Made from {len(parts)} parts under {html.escape(licences)}"
    return f"<details><summary>{summary}</summary><table><tr>{heads}</tr>{rows}</table></details>"


def read_history(message: dict[str, Any], history: Sequence[dict[str, Any]]) -> list[Turn]:
    """The conversation from what Gradio hands over; turns that ended in an error are left out.

    Raises:
        PromptError: nothing was given or asked yet, or a file that Gradio did not receive itself.
    """
    turns: list[Turn] = []
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
        if (turn.get("metadata") or {}).get("title") not in (TROUBLE, WAITING):
            turns += [_user(files, " ".join(filter(None, texts))), Turn("assistant", answer)]
        files, texts = [], []
    files += [received(path) for path in message.get("files") or []]
    question = " ".join(filter(None, [*texts, (message.get("text") or "").strip()]))
    if not files and not turns and not find_abc(question):
        raise PromptError("Give me something to hear or read first: a recording, a score, or ABC notation as text.")
    return [*turns, _user(files, question)]


def sheets_given(message: dict[str, Any]) -> list[Any]:
    """Sheet music and sound of the scores that a user's message brings, as files or as ABC in its text."""
    files = [received(path) for path in message.get("files") or []]
    scores = [file for file in files if file.suffix.lower() in SUFFIXES]
    return [*sheet_music.sheets_of_files(scores), *sheet_music.sheets_of_text(message.get("text") or "")]


def _text(part: Any) -> str:
    return part if isinstance(part, str) else part.get("text", "")


def _user(files: Sequence[Path], question: str) -> Turn:
    return Turn("user", question or "Describe this.", tuple(files))


def _checked(asked: bool, verdicts: list[dict[str, Any]] | None) -> str:
    if verdicts is None:
        return f'<p class="no-sheet-music">{NOT_CHECKED if asked else NOTHING_TO_CHECK}</p>'
    return verdict_table(verdicts)


def received(path: str) -> Path:
    """A path, if Gradio put the file there itself; PromptError for any other file of this machine."""
    folder = Path(get_upload_folder()).resolve()
    file = Path(path).resolve()
    if not file.is_relative_to(folder):
        raise PromptError(f"{Path(path).name}: not a file that was uploaded here; upload it with the paper clip")
    return file


def serve_page(client: ChatClient, host: str, port: int | None, share: bool = False, browser: bool = True) -> None:
    """Serve the page until interrupted; prints its address.

    Args:
        client: leads to the model that answers.
        host: address to listen at.
        port: None takes the first free one from 7860.
        share: also make a public link through gradio's servers.
        browser: open the page, where there is a display.
    """
    display = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    page = build_page(client)
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
            head=HEAD,
        )
    except OSError as error:
        raise PromptError(
            f"no page at {host}:{port or '7860-7959'}: {str(error).splitlines()[0]}; try --port"
        ) from error
    print(f"The chat page is at {address}", flush=True)
    if public:
        print(f"and for everybody at {public}", flush=True)
    page.block_thread()
