"""The chat page as a person uses it: a real API, a real page in front of it, a real browser, real files."""

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import soundfile
from bad_input import BAD_AUDIO
from composer import BROKEN, TITLE, Composer
from live import LiveServer
from tiny import clicks
from tiny_checkpoint import tiny_folder

from mllm.errors import PromptError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
PATIENCE = 120_000  # ms; a loaded machine is slow
ANSWER = "[data-testid=bot]"
DONE = "button[aria-label=Retry]:not([disabled])"
TUNE = "X:1\nT:Up\nM:4/4\nL:1/4\nQ:1/4=240\nK:C\nCDEF|GABc|]\n"


class PageServer:
    """`mllm chat` in a process of its own; `log` grows as it prints."""

    def __init__(self, *options: str):
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "mllm.cli", "chat", "--no-browser", *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.log: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.log.append(line)

    def address(self) -> str:
        for _ in range(1200):
            if found := re.search(r"The chat page is at (http://\S+)", "".join(self.log)):
                return found[1]
            assert self.process.poll() is None, "".join(self.log)
            time.sleep(0.1)
        raise AssertionError("no address within two minutes: " + "".join(self.log))

    def close(self):
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def front(server):
    """The page in front of the API around the tiny model, which is `server`."""
    page = PageServer("--api", server.url)
    page.address()
    yield page
    page.close()


@pytest.fixture(scope="module")
def composer():
    live = LiveServer(engine=Composer(), api_keys=["the key"])
    yield live
    live.close()


@pytest.fixture(scope="module")
def composers_front(composer):
    page = PageServer("--api", f"{composer.url}/v1", "--api-key", "the key")
    page.address()
    yield page
    page.close()


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


@pytest.fixture
def page(browser, front):
    with open_page(browser, front, viewport={"width": 1200, "height": 850}, permissions=["microphone"]) as page:
        yield page


@contextmanager
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
    """Choose files, ask at once, wait for the whole answer, return its words."""
    before = page.locator(ANSWER).count()
    page.wait_for_selector("textarea:not([disabled])")
    if files:
        page.set_input_files("input[type=file]", [str(file) for file in files])
    page.fill("textarea", question)
    page.press("textarea", "Enter")
    page.wait_for_function(f"document.querySelectorAll('{ANSWER}').length > {before}")
    page.wait_for_selector(DONE)
    return page.locator(ANSWER).last.inner_text().strip()


@needs_browser
def test_upload_ask_and_ask_on_without_encoding_again(page, server, tmp_path):
    path = tmp_path / "clicks.wav"
    soundfile.write(path, clicks(97), 22_050)
    before = server.statistics()
    assert ask(page, "What is the tempo?", path)
    assert ask(page, "And the key?")
    after = server.statistics()
    assert after["finished"] == before["finished"] + 2
    assert after["heard_seconds"] == before["heard_seconds"] + 10 and after["heard_hits"] == before["heard_hits"] + 1
    assert page.locator("audio, .waveform-container, [data-testid=user] .play-btn").count() >= 1
    assert page.elsewhere == []  # nothing comes from outside of this machine


@needs_browser
def test_a_bad_file_is_a_clear_message_and_the_talk_goes_on(page, server, tmp_path):
    message = ask(page, "What is it?", BAD_AUDIO["text renamed .wav"](tmp_path))
    assert "letter.wav" in message and "not a recording" in message and "Traceback" not in message
    assert "/tmp" not in message and "gradio" not in message
    path = tmp_path / "tune.abc"
    path.write_text(TUNE)
    answered = server.statistics()["finished"]
    assert ask(page, "And this?", path)  # the refused file is not heard again
    assert server.statistics()["finished"] == answered + 1


@needs_browser
def test_a_question_about_nothing_asks_for_a_file(page):
    assert "something to hear or read first" in ask(page, "What key is this in?")


@needs_browser
def test_an_example_answers_on_a_click(page, server):
    before = server.statistics()["heard_seconds"]
    page.click("text=A jig")
    page.wait_for_selector(DONE)
    assert page.locator(ANSWER).last.inner_text().strip()
    assert server.statistics()["heard_seconds"] == pytest.approx(before + 8.5, abs=0.1)


@needs_browser
def test_a_question_waits_for_its_file(page, server, tmp_path):
    path = tmp_path / "late.wav"
    soundfile.write(path, clicks(83, 3.0), 22_050)
    before = server.statistics()

    held = []
    page.route("**/upload?*", lambda route: held.append(route))
    page.set_input_files("input[type=file]", str(path))
    page.fill("textarea", "What is the tempo?")
    page.press("textarea", "Enter")
    page.click("[data-testid=submit-button]")  # impatience sends nothing twice
    page.wait_for_timeout(1000)
    assert server.statistics()["requests"] == before["requests"]
    held.pop().continue_()
    page.wait_for_selector(DONE)
    after = server.statistics()
    assert after["heard_seconds"] == before["heard_seconds"] + 3 and after["finished"] == before["finished"] + 1
    # One whose upload fails stays in the box.
    page.wait_for_selector("textarea:not([disabled])")
    other = path.with_name("other.wav")
    other.write_bytes(path.read_bytes())
    page.set_input_files("input[type=file]", str(other))
    page.fill("textarea", "And the key?")
    page.press("textarea", "Enter")
    page.wait_for_selector("body.waits-for-file")
    held.pop().abort()
    page.wait_for_function("!document.body.classList.contains('waits-for-file')")
    page.wait_for_timeout(500)
    assert page.input_value("textarea") == "And the key?" and server.statistics()["requests"] == after["requests"]


@needs_browser
@pytest.mark.parametrize("by_hand", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_microphone_records_and_is_heard(page, server, by_hand):
    before = server.statistics()
    page.click("[data-testid=microphone-button]")
    page.click("[data-testid=record-button], .record-button")
    page.wait_for_timeout(2000)
    page.fill("textarea", "What did I play?")
    if by_hand:
        page.click(".recording-overlay .stop-button")
    page.press("textarea", "Enter")  # ends the recording and waits for it
    page.wait_for_selector(DONE)
    assert page.locator(ANSWER).last.inner_text().strip()
    after = server.statistics()
    assert after["finished"] == before["finished"] + 1 and after["heard_seconds"] > before["heard_seconds"] + 0.5


@pytest.fixture(params=["computer", "phone"])
def composers_page(request, browser, composers_front):
    screens = {
        "computer": {"viewport": {"width": 1200, "height": 850}},
        "phone": {"viewport": {"width": 375, "height": 750}, "color_scheme": "dark", "is_mobile": True},
    }
    with open_page(browser, composers_front, **screens[request.param]) as page:
        yield page


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
    tune.write_text(TUNE)
    assert "1 messages, {'audio': 1, 'score': 1}" in ask(page, "What is this?", tune)
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
    assert "5 messages, {'audio': 1, 'score': 1}" in told and "Here it is" in told and "svg" not in told
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


@needs_browser
def test_an_answer_is_checked_where_that_is_wanted(composers_page, tmp_path):
    page = composers_page
    tune = tmp_path / "tune.abc"
    tune.write_text(TUNE)
    ask(page, "Claim something", tune)
    assert page.locator("table.verdicts").count() == 0
    page.check("input[type=checkbox]")
    ask(page, "Claim something again")
    rows = page.locator("table.verdicts tr").all_inner_texts()
    assert len(rows) == 3 and "verified" in rows[1] and "contradicted" in rows[2] and "C major" in rows[2]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    ask(page, "And then?")
    told = " ".join(page.locator(ANSWER).all_inner_texts()[-2:])
    assert "5 messages" in told and "verified" not in told
    assert "that can be checked" in page.locator(".no-sheet-music").last.inner_text()


@needs_browser
def test_stop_ends_the_answer_at_the_server(browser, composer, composers_front):
    with open_page(browser, composers_front) as page:
        composer.engine.cancelled.clear()
        page.fill("textarea", f"Forever\n{TUNE}")
        page.press("textarea", "Enter")
        page.wait_for_function(f"[...document.querySelectorAll('{ANSWER}')].some(e => e.innerText.includes('la la'))")
        page.click("button[aria-label=Stop]")
        assert composer.engine.cancelled.wait(20)
        page.wait_for_selector(DONE)
        assert "3 messages" in ask(page, "And then?")  # what was said stays said


@pytest.mark.slow
@needs_browser
def test_a_busy_server_is_waited_for(browser, composer, composers_front):
    with open_page(browser, composers_front) as page:
        composer.engine.busy = 1
        page.fill("textarea", f"Write\n{TUNE}")
        page.press("textarea", "Enter")
        page.wait_for_selector("text=Asking again in 2 s")
        page.wait_for_selector("text=It is in D.")
        page.wait_for_selector(DONE)
        assert page.locator("text=Asking again").count() == 0


def test_only_uploaded_files_are_opened(front):
    from mllm.serve.chat_page import read_history

    with pytest.raises(PromptError, match="not a file that was uploaded"):
        read_history({"text": "What?", "files": ["/etc/passwd"]}, [])
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{front.address()}gradio_api/file=/etc/passwd", timeout=30)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks the system which libraries a process has loaded")
def test_the_page_alone_loads_no_torch(front, server):
    loaded = Path(f"/proc/{front.process.pid}/maps").read_text()
    assert "soundfile" in loaded.lower() and "libtorch" not in loaded
    assert "libtorch" in Path("/proc/self/maps").read_text()  # as the server here has


@needs_browser
def test_one_command_serves_the_model_and_the_page(browser, tmp_path):
    server = PageServer("--model", str(tiny_folder()))
    path = tmp_path / "clicks.wav"
    soundfile.write(path, clicks(97, 2.0), 22_050)
    try:
        with open_page(browser, server) as page:
            assert "Model tiny, licence Apache-2.0." in page.inner_text(".about")
            page.set_input_files("input[type=file]", str(path))
            page.fill("textarea", "What is the tempo?")
            page.press("textarea", "Enter")
            page.wait_for_function(f"document.querySelector('{ANSWER}')?.innerText.length > 20")
            # the answer may end by itself in this moment, and the button with it
            page.evaluate("document.querySelector('button[aria-label=Stop]')?.click()")
            page.wait_for_selector(DONE)
            assert page.locator("text=This could not be answered").count() == 0
        taken = PageServer("--model", str(tiny_folder()), "--port", server.address().rstrip("/").rpartition(":")[2])
        assert taken.process.wait(120) == 1
        errors = [line for line in taken.log if not line.startswith("loading")]
        assert len(errors) == 1 and errors[0].startswith("error: ") and "--port" in errors[0]
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0 and "Traceback" not in "".join(server.log)
    finally:
        server.close()


def test_no_api_is_one_line():
    gone = PageServer("--api", "http://127.0.0.1:9/v1")
    assert gone.process.wait(120) == 1
    assert len(gone.log) == 1 and gone.log[0].startswith("error: no chat with http://127.0.0.1:9/v1"), gone.log
