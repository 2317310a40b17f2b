"""The chat page as a person uses it: a real server, a real browser, a real file."""

import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import soundfile
from bad_input import BAD_AUDIO
from page_of_a_composer import BROKEN, TITLE
from tiny import clicks
from tiny_checkpoint import tiny_folder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
PATIENCE = 120_000  # ms; a loaded machine is slow
ANSWER = "[data-testid=bot]"
DONE = "button[aria-label=Retry]:not([disabled])"


def chat(*options: str) -> list[str]:
    """The command that serves the page around the tiny model."""
    return ["-m", "mllm.cli", "chat", "--model", str(tiny_folder()), "--no-browser", *options]


class Server:
    """A chat page in a process of its own; `log` grows as it prints."""

    def __init__(self, *command: str):
        self.process = subprocess.Popen(
            [sys.executable, "-u", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.log: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.log.append(line)

    def count(self, words: str) -> int:
        return sum(words in line for line in self.log)

    def address(self) -> str:
        for _ in range(1200):
            if found := re.search(r"The chat page is at (http://\S+)", "".join(self.log)):
                return found[1]
            assert self.process.poll() is None, "".join(self.log)
            time.sleep(0.1)
        raise AssertionError("no address within two minutes: " + "".join(self.log))


@pytest.fixture(scope="module")
def server():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(*chat("--port", str(port)))
    assert server.address() == f"http://127.0.0.1:{port}/"
    yield server
    server.process.terminate()
    server.process.wait(30)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-dev-shm-usage"]
            + ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def composer():
    """The page around what answers with ABC; see page_of_a_composer.py."""
    server = Server(str(Path(__file__).with_name("page_of_a_composer.py")))
    server.address()
    yield server
    server.process.terminate()
    server.process.wait(30)


@pytest.fixture
def page(browser, server):
    yield from open_page(browser, server, viewport={"width": 1200, "height": 850}, permissions=["microphone"])


def open_page(browser, server, **options):
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.elsewhere, page.dialogs = [], []
    page.on("dialog", lambda dialog: (page.dialogs.append(dialog.message), dialog.dismiss()))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((server.address(), "data:", "blob:", "ws://127.0.0.1"))
            else page.elsewhere.append(request.url)
        ),
    )
    page.goto(server.address())
    page.wait_for_selector("textarea")
    yield page
    context.close()


def ask(page, question: str, *files: Path) -> str:
    """Upload, ask, wait for the whole answer, return its words."""
    before = page.locator(ANSWER).count()
    page.wait_for_selector("textarea:not([disabled])")
    if files:
        page.set_input_files("input[type=file]", [str(file) for file in files])
        page.wait_for_selector(".thumbnails :is(.file-icon, audio, .thumbnail-item)", state="attached")
    page.fill("textarea", question)
    page.press("textarea", "Enter")
    page.wait_for_function(f"document.querySelectorAll('{ANSWER}').length > {before}")
    page.wait_for_selector(DONE)
    return page.locator(ANSWER).last.inner_text().strip()


@needs_browser
def test_upload_ask_and_ask_on_without_encoding_again(page, server, tmp_path):
    path = tmp_path / "clicks.wav"
    soundfile.write(path, clicks(97), 22_050)
    answered, heard, remembered = (server.count(words) for words in ("answered in", "heard 10.0 s", "heard before"))
    assert ask(page, "What is the tempo?", path)
    assert ask(page, "And the key?")
    assert server.count("answered in") == answered + 2
    assert server.count("heard 10.0 s") == heard + 1 and server.count("heard before: 10.0 s") == remembered + 1
    assert page.locator("audio, .waveform-container, [data-testid=user] .play-btn").count() >= 1
    assert page.elsewhere == []  # nothing comes from outside of this machine


@needs_browser
def test_a_bad_file_is_a_clear_message_and_the_talk_goes_on(page, server, tmp_path):
    message = ask(page, "What is it?", BAD_AUDIO["text renamed .wav"](tmp_path))
    assert "letter.wav" in message and "not a recording" in message and "Traceback" not in message
    path = tmp_path / "tune.abc"
    path.write_text("X:1\nM:4/4\nL:1/4\nQ:1/4=120\nK:C\nCDEF|GABc|]\n")
    answered = server.count("answered in")
    assert ask(page, "And this?", path)  # the refused file is not heard again
    assert server.count("answered in") == answered + 1


@needs_browser
def test_a_question_about_nothing_asks_for_a_file(page):
    assert "something to hear or read first" in ask(page, "What key is this in?")


@needs_browser
def test_an_example_answers_on_a_click(page, server):
    before = server.count("heard 8.5 s")
    page.click("text=A jig")
    page.wait_for_selector(DONE)
    assert page.locator(ANSWER).last.inner_text().strip()
    assert server.count("heard 8.5 s") == before + 1


@needs_browser
def test_the_microphone_records_and_is_heard(page, server):
    before = server.count("answered in")
    page.click("[data-testid=microphone-button]")
    page.click("[data-testid=record-button], .record-button")
    page.wait_for_timeout(2000)
    # the box takes text before the recording has arrived, and a message sent then goes without it
    with page.expect_response(lambda response: "/upload" in response.url):
        page.click(".stop-button, [data-testid=stop-button]")
    page.wait_for_selector("textarea:not([disabled])")
    page.fill("textarea", "What did I play?")
    page.press("textarea", "Enter")
    page.wait_for_selector(DONE)
    assert page.locator(ANSWER).last.inner_text().strip() and server.count("answered in") == before + 1


@pytest.fixture(params=["computer", "phone"])
def composers_page(request, browser, composer):
    screens = {
        "computer": {"viewport": {"width": 1200, "height": 850}},
        "phone": {"viewport": {"width": 375, "height": 750}, "color_scheme": "dark", "is_mobile": True},
    }
    yield from open_page(browser, composer, **screens[request.param])


def wait_for_pictures(page, count: int) -> list[dict]:
    """Natural and shown size, alternative text and corner of each sheet, when there are `count` and all have loaded."""
    page.wait_for_function(
        f"(s => s.length === {count} && s.every(i => i.complete))([...document.querySelectorAll('img.sheet-music')])"
    )
    return page.evaluate(
        """() => [...document.querySelectorAll('img.sheet-music')].map(i => {
            const c = Object.assign(document.createElement('canvas'), {width: i.naturalWidth, height: i.naturalHeight});
            c.getContext('2d').drawImage(i, 0, 0);
            const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
            return {natural: i.naturalWidth, shown: i.clientWidth, alt: i.alt, corner: [...data.slice(0, 4)],
                    black: data.filter((v, k) => k % 4 === 0 && v < 60).length};
        })"""
    )


@needs_browser
def test_a_score_and_a_tune_in_an_answer_are_seen_and_heard(composers_page, tmp_path):
    page = composers_page
    tune = tmp_path / "tune.abc"
    tune.write_text("X:1\nT:Up\nM:4/4\nL:1/4\nQ:1/4=240\nK:C\nCDEF|GABc|]\n")
    assert "1 messages, 1 scores" in ask(page, "What is this?", tune)
    assert [sheet["alt"] for sheet in wait_for_pictures(page, 1)] == ["Sheet music: Up"]
    ask(page, "Write one")
    given, answered = wait_for_pictures(page, 2)
    assert TITLE in answered["alt"] and page.dialogs == []  # the title is text and runs nothing
    for sheet in (given, answered):
        assert sheet["natural"] > 0 and sheet["black"] > 500 and sheet["corner"] == [255, 255, 255, 255]
        assert 200 < sheet["shown"] <= page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    plays = page.locator(".bot .minimal-audio-player .play-btn")
    assert plays.count() == 2
    plays.last.click()
    page.wait_for_selector(".bot [aria-label=Pause]")
    # What was shown is no part of the talk, what was said is.
    told = ask(page, "And then?")
    assert "5 messages, 1 scores" in told and "Here it is" in told and "svg" not in told
    assert page.elsewhere == []


@needs_browser
def test_a_tune_that_cannot_be_read_is_text_and_a_line_why(composers_page, tmp_path):
    page = composers_page
    tune = tmp_path / "tune.abc"
    tune.write_text(BROKEN.replace("4/x", "4/4"))
    ask(page, "What is this?", tune)
    ask(page, "Break it")
    page.wait_for_selector(".no-sheet-music")
    words = page.locator(".no-sheet-music").all_inner_texts()
    assert len(words) == 1 and "M:4/x is not a metre" in words[0] and "\n" not in words[0]
    assert any("D E F G |]" in text for text in page.locator(ANSWER).all_inner_texts())
    assert "5 messages" in ask(page, "And then?")


def test_only_uploaded_files_are_opened(server):
    music = _without_model()
    from mllm.errors import PromptError
    from mllm.serve.chat_page import read_history

    with pytest.raises(PromptError, match="not a file that was uploaded"):
        read_history(music, {"text": "What?", "files": ["/etc/passwd"]}, [])
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server.address()}gradio_api/file=/etc/passwd", timeout=30)


def _without_model():
    from mllm.chat import MusicLM

    return MusicLM.__new__(MusicLM)  # building a message needs no weights


def test_a_taken_port_is_one_line(server):
    second = Server(*chat("--port", server.address().rstrip("/").rpartition(":")[2]))
    assert second.process.wait(120) == 1
    errors = [line for line in second.log if not line.startswith("loading")]
    assert len(errors) == 1 and errors[0].startswith("error: ") and "--port" in errors[0]
