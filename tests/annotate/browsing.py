"""What the browser tests share: the looks that they run in, a server in this process, a tab that reports
errors."""

import json
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from annotation_server import wait_until
from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from redline.annotate import people
from redline.annotate.app import build
from redline.annotate.export import export
from redline.annotate.schema import connect

LOST = "lost-connection"  # a cookie: what comes with it was sent without a connection
PATIENCE = 60_000  # milliseconds for a condition, on a machine that does other work, too


@dataclass(frozen=True)
class Look:
    """A size of the window and a colour scheme. On a phone there is touch, and no mouse that hovers."""

    device: str
    width: int
    height: int
    scheme: str

    @property
    def phone(self) -> bool:
        return self.device == "phone"

    def __str__(self) -> str:
        return f"{self.device}-{self.scheme}"


DESKTOP, DESKTOP_DARK, PHONE, PHONE_DARK = LOOKS = (
    Look("desktop", 1280, 800, "light"),
    Look("desktop", 1280, 800, "dark"),
    Look("phone", 360, 740, "light"),
    Look("phone", 360, 740, "dark"),
)
every_look = pytest.mark.parametrize("look", LOOKS, ids=str)
# Each field at both widths and in both schemes.
every_look_and_field = pytest.mark.parametrize(
    ("look", "field"),
    [(DESKTOP, "redline"), (DESKTOP_DARK, "plain"), (PHONE, "plain"), (PHONE_DARK, "redline")],
    ids=str,
)
SETTLED = "(!document.querySelector('body.working') || document.querySelector('body.settled'))"


class LocalServer:
    """The app in a thread of this process, over a database that the test fills. ``links``: name -> link. A
    browser without a connection (``Tab.lose_connection``) gets no answer from it."""

    def __init__(self, engine: Engine, names: list[str]):
        self.engine = engine
        app = build(engine)

        async def app_or_nothing(scope: Scope, receive: Receive, send: Send) -> None:
            lost = scope["type"] == "http" and LOST in Request(scope).cookies
            answer = Response(status_code=503) if lost else app
            await answer(scope, receive, send)

        config = uvicorn.Config(app_or_nothing, port=0, log_level="warning", access_log=False)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.base = f"http://127.0.0.1:{port}"
        self.links = {}
        for name in ["admin", *names]:
            token = people.new_link(engine, people.ensure(engine, name, admin=name == "admin"))
            self.links[name] = f"{self.base}/open/{token}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)

    def exported(self, folder: Path, *arguments: Any) -> list[dict[str, Any]]:
        export(self.engine, folder / "out.jsonl", *arguments)
        lines = (folder / "out.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]


def database(folder: Path) -> Engine:
    return connect(f"sqlite:///{folder}/edits.db")


class Tab:
    """A page that must have no error in its console and ask no other host."""

    def __init__(
        self,
        browser: Any,
        server: Any,
        look: Look = DESKTOP,
        field: str = "redline",
    ):
        self.context = browser.new_context(
            viewport={"width": look.width, "height": look.height},
            color_scheme=look.scheme,
            has_touch=look.phone,
            is_mobile=look.phone,
        )
        self.context.set_default_timeout(PATIENCE)
        choice = f"localStorage.setItem('redline view', '{field}')"
        self.context.add_init_script(f"localStorage.getItem('redline view') ?? {choice}")
        self.server = server
        self.problems: list[str] = []
        self.page = self.new_page()

    def new_page(self) -> Any:
        page = self.context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", self._request)
        return page

    def _request(self, request: Any) -> None:
        if not request.url.startswith(self.server.base):
            self.problems.append(request.url)

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def open(self, link: str, guidelines: bool = False) -> Any:
        """Open a link as a person does; ``guidelines``: leave them open where they open by themselves."""
        self.page.goto(link)
        done = "main:has(h1:has-text('That is all'))"
        self.page.wait_for_selector(f"body.working, main.wide-page, {done}, #stay a")
        if self.page.locator("#stay").is_visible():  # this browser was somebody else's
            follow(self.page, "#enter button")
        self.page.wait_for_url(re.compile(r"/(admin)?$"))
        self.settle()
        if not guidelines and self.page.locator("#guidelines[open]").count():
            self.page.keyboard.press("Escape")
            self.page.wait_for_selector("#guidelines", state="hidden")
        return self.page

    def settle(self) -> None:
        """Wait until the page takes input."""
        until(self.page, "true")

    def lose_connection(self) -> None:
        """No page of this browser reaches the server. (A browser that closes a page gives it its connection
        back, and its last requests go out: the server knows them by a cookie.)"""
        self.context.add_cookies([{"name": LOST, "value": "1", "url": self.server.base}])
        self.context.set_offline(True)

    def find_connection(self) -> None:
        """The pages of this browser reach the server again."""
        self.context.clear_cookies(name=LOST)
        self.context.set_offline(False)

    def expect_lost_connections(self) -> None:
        """A request that gets no answer is no problem in this test."""
        self.problems = [text for text in self.problems if "Failed to load resource" not in text]

    def close(self) -> None:
        assert self.problems == []
        self.context.close()


def until(page: Any, condition: str, seconds: float = PATIENCE / 1000) -> None:
    """Wait for a JavaScript condition on a page that has loaded and takes input (the policy of the page keeps
    Playwright's wait_for_function from working)."""
    from playwright.sync_api import Error

    def holds() -> bool:
        try:
            ready = f"document.readyState === 'complete' && {SETTLED}"
            return bool(page.evaluate(f"{ready} && ({condition})"))
        except Error as error:
            if "navigation" in str(error) or "destroyed" in str(error):  # the next page is loading
                return False
            raise

    wait_until(holds, seconds)


def follow(page: Any, selector: str) -> None:
    """Click what leads to another page, and wait until that has loaded. (A click alone waits until it begins
    to come.)"""
    with page.expect_navigation():
        page.click(selector)


def text_of(page: Any) -> str:
    """The text in the editor, whichever field it is."""
    return str(
        page.evaluate(
            """() => {
        const editor = document.getElementById('editor');
        if (editor.localName === 'textarea') return editor.value;
        return [...editor.querySelectorAll('.cm-line')].map(line => {
            const copy = line.cloneNode(true);
            for (const mark of copy.querySelectorAll('[contenteditable=false]')) mark.remove();
            return copy.textContent;
        }).join('\\n');
    }"""
        )
    )


def select_text(page: Any, text: str) -> None:
    """Select the first ``text`` in the editor, as a drag of the mouse would. The editor knows it then."""
    page.evaluate(
        """async text => {
        const editor = document.getElementById('editor');
        editor.focus();
        if (editor.localName === 'textarea') {
            const at = editor.value.indexOf(text);
            editor.setSelectionRange(at, at + text.length);
            return;
        }
        const begun = performance.now(), pause = () => new Promise((resume) => setTimeout(resume, 5));
        while (performance.now() - begun < 30000) {  // a line is there once it has been scrolled to and drawn
            const walker = document.createTreeWalker(editor, NodeFilter.SHOW_TEXT);
            for (let node = walker.nextNode(); node; node = walker.nextNode()) {
                const at = node.data.indexOf(text);
                if (at < 0 || node.parentElement.closest('[contenteditable=false]')) continue;
                getSelection().setBaseAndExtent(node, at, node, at + text.length);
                // The editor hears of it with the next event; until then keys go to where the cursor was.
                const { view } = editor.cmTile.root, from = view.posAtDOM(node, at);
                const start = performance.now();
                const heard = ({ main }) => main.from === from && main.to === from + text.length;
                while (!heard(view.state.selection)) {
                    if (performance.now() - start > 30000) throw new Error(`${text} was not selected`);
                    await pause();
                }
                return;
            }
            await pause();
        }
        throw new Error(`${text} is not in one piece of the text`);
    }""",
        text,
    )


def drawn(page: Any) -> None:
    """Wait until all that has happened so far is on the screen: two frames."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def nothing_is_sent(page: Any) -> None:
    """No verdict is on its way. A key or a click begins to send one before it returns."""
    assert not page.evaluate("document.body.classList.contains('sending')")


def fits(page: Any) -> None:
    """Nothing sticks out sideways. (A phone's window widens with what sticks out: the screen counts.)"""
    until(page, "true")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= page.viewport_size["width"], "something sticks out sideways"
    for dialog in page.locator("dialog[open]").all():
        assert dialog.evaluate("box => box.scrollWidth <= box.clientWidth"), "cut off in the dialog"
        assert dialog.evaluate("box => box.scrollTop === 0"), "it opens at its beginning"
