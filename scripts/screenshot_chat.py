"""Make the picture of the chat page in README: starts `mllm chat`, asks two questions about an example, and looks.

python scripts/screenshot_chat.py --model mini --output docs/chat.png        needs chromium and playwright
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PATIENCE = 180_000  # ms
DONE = "button[aria-label=Retry]:not([disabled])"


def talk(page: Page, example: str, questions: list[str]) -> None:
    """Click an example, then ask on about it."""
    page.click(f"text={example}")
    page.wait_for_selector(DONE)
    for question in questions:
        page.wait_for_selector("textarea:not([disabled])")
        page.fill("textarea", question)
        page.press("textarea", "Enter")
        page.wait_for_selector(DONE, state="detached")
        page.wait_for_selector(DONE)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--output", type=Path, default=Path("docs/chat.png"))
    parser.add_argument("--example", default="A waltz")
    parser.add_argument("--questions", nargs="*", default=["What key is this in?", "What is the metre?"])
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-u", "-m", "mllm.cli", "chat", "--model", given.model, "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = next((m for line in server.stdout if (m := re.search(r"http://\S+", line))), None)
            if found is None:
                sys.exit("the chat page did not start")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1000, "height": 860}, device_scale_factor=2)
                page.set_default_timeout(PATIENCE)
                page.goto(found[0])
                talk(page, given.example, given.questions)
                page.wait_for_timeout(1000)
                page.screenshot(path=given.output)
                browser.close()
        finally:
            server.terminate()
    print(f"{given.output}: {given.output.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
