"""Take two pictures of a report for the docs.

report.png: its win rate and the responses drawn at random, the tables between them left out.
before-after.png: two of those responses alone, for the README.

python docs/images/report.py runs/demo/report.html docs/images
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

LEFT_OUT = (
    "nav, .split, #result h3, #result .how, #texts .fold ~ .fold, #run, #data, #reward, #policy, footer"
)
ALSO_LEFT_OUT = "header, #result, #texts h2, #texts > p, summary, .pair ~ .pair ~ .pair"
HIDDEN = "{ display: none !important }"
CLOSER = "section + section { margin-top: 28px !important } main { padding-bottom: 28px !important }"
TIGHT = "main, #texts { margin: 0 !important; padding: 0 !important } body { padding: 12px 24px !important }"


def main(page: str, folder: str) -> None:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 1200, "height": 100}, bypass_csp=True)
        tab = context.new_page()
        tab.goto(Path(page).resolve().as_uri())
        tab.add_style_tag(content=f"{LEFT_OUT} {HIDDEN} {CLOSER}")
        tab.screenshot(path=Path(folder) / "report.png", full_page=True)
        tab.add_style_tag(content=f"{ALSO_LEFT_OUT} {HIDDEN} {TIGHT}")
        tab.screenshot(path=Path(folder) / "before-after.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
