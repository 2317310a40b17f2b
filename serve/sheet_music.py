"""Parts of a chat message that show a score and play it."""

from __future__ import annotations

import base64
import hashlib
import html
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from mllm.abc_in_text import find_abc
from mllm.engraving import engrave, printable
from mllm.errors import ScoreError
from mllm.score import Score, read_score, to_midi
from mllm.sound_files import sound_file
from mllm.synthesis import render
from mllm.whole_files import write_whole

CSS = """
.sheet-music {display: block; width: 100%; max-width: 760px; margin: 0 auto; background: white; border-radius: 6px;}
.no-sheet-music {font-size: 13px; color: var(--body-text-color-subdued);}
.bot .minimal-audio-player {height: 44px !important; max-width: 420px;}
@media (max-width: 600px) {
  .gradio-container .main {padding: 8px !important;}
  .bot-row.message-row {margin: 8px 4px !important; max-width: calc(100% - 8px) !important;}
}
"""
WIDTH = 600  # pixels: staves that can still be read when a phone shows them half as wide
MOST_TUNES = 4  # of one message
MOST_NOTES = 5000  # two or three seconds of engraving
MOST_SECONDS = 600.0
RATE = 44_100  # Hz


def sheets_of_text(text: str) -> list[Any]:
    """Picture and player of each ABC tune in a text; one line that says why of a tune that cannot be read."""
    parts: list[Any] = []
    for tune in find_abc(text)[:MOST_TUNES]:
        try:
            score = read_score(tune)
        except ScoreError as error:
            parts.append(_remark(f"This notation cannot be shown as sheet music: {error}"))
        else:
            parts += sheet(score)
    return parts


def sheets_of_files(files: list[Path]) -> list[Any]:
    """Picture and player of each score; nothing of one that cannot be read, for the answer will be just that."""
    parts: list[Any] = []
    for file in files[:MOST_TUNES]:
        try:
            parts += sheet(read_score(file))
        except ScoreError:
            continue
    return parts


def sheet(score: Score) -> list[Any]:
    """A score as parts of a message: `gr.HTML` with the picture, a sound file; or a line that says what is too long."""
    seconds = score.length * 60 / (score.tempo or 120.0)
    try:
        if len(score.notes) > MOST_NOTES:
            raise ScoreError(f"{len(score.notes):,} notes; a picture here has at most {MOST_NOTES:,}")
        if seconds > MOST_SECONDS:
            raise ScoreError(
                f"it takes {seconds / 60:.0f} minutes to play; at most {MOST_SECONDS / 60:.0f} are played here"
            )
        return [_picture(score), {"path": str(_sound(score)), "alt_text": "the tune, played"}]
    except ScoreError as error:
        return [_remark(f"Not shown as sheet music: {error}")]


def _picture(score: Score) -> gr.HTML:
    # As an image and not as part of the page: a browser runs no script in it and loads nothing for it.
    data = base64.b64encode(engrave(score, width=WIDTH)).decode()
    words = html.escape(f"Sheet music: {printable(score.title) or 'a tune'}"[:200])
    return gr.HTML(f'<img class="sheet-music" alt="{words}" src="data:image/svg+xml;base64,{data}">')


def _remark(words: str) -> gr.HTML:
    return gr.HTML(f'<p class="no-sheet-music">{html.escape(words)}</p>')


def _sound(score: Score) -> Path:
    """The file, where Gradio serves and in time deletes it; the same music is the same file."""
    midi = to_midi(score)
    path = Path(get_upload_folder()) / hashlib.sha256(midi).hexdigest() / "tune.mp3"
    if not path.is_file():
        samples = render(midi, sampling_rate=RATE).mean(axis=1)
        data = sound_file(samples, RATE, path.suffix)
        write_whole(path, data)
    return path
