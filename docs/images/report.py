"""Take the picture of a report for the docs: its win rate and the responses drawn at random, the tables
between them left out.

python docs/images/report.py runs/demo/report.html docs/images/report.png
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

LEFT_OUT = (
    "nav, .split, #result h3, #result .how, #texts .fold ~ .fold, #run, #data, #reward, #policy, footer { "
    "display: none !important }"
)


def main(page: str, picture: str) -> None:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 1200, "height": 800}, bypass_csp=True)
        tab = context.new_page()
        tab.goto(Path(page).resolve().as_uri())
        tab.add_style_tag(
            content=LEFT_OUT
            + "section + section { margin-top: 28px !important } main { padding-bottom: 28px !important }"
        )
        tab.screenshot(path=picture, full_page=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
