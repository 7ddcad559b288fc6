"""Who may come in, and texts that mean harm: shown as text, stored unchanged, or refused with a reason."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from annotation_server import Client, Server, export
from starlette.testclient import TestClient

from redline import annotate
from redline.annotate import people
from redline.annotate.app import build
from redline.annotate.intake import set_up
from redline.annotate.markdown import render
from redline.annotate.schema import connect

NASTY = {
    "script": "<script>alert(1)</script> and </script><script>alert(2)</script> are bad words",
    "handler": "<img src=x onerror=alert(1)> and <b onclick='alert(2)'>this</b> are bad words",
    "link": "[click](javascript:alert(1)) [two](JaVaScRiPt:alert(2)) <javascript:alert(3)> "
    "![p](https://example.org/p.png) bad",
    "rtl": "before \u202egnp.exe\u202c and \u2066isolated\u2069 \u200fbad\u200e words, \u05d0\u05d1 "
    "\u0639\u0631\u0628\u064a",
    "space": "  two\tbad\n\n\n   words with\u00a0space at the end \t\n",
    "crlf": "one\r\ntwo bad\r\n\r\nthree words more\r\nto keep",
    "mixed": "one\ntwo bad\r\nthree\rfour words more to keep\n",
    "emoji": "\U0001f469\u200d\U0001f4bb bad e\u0301 \ufeff \u2028 words \x07 \x1b[31m here",
    "template": "{{ 7 * 7 }} {% raw %} ${bad} words are here %s",
    "sql": "'; DROP TABLE item; -- is a bad word or two",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hostile")
    lines = [
        json.dumps(
            {
                "id": name,
                "prompt": f"{text} {{% prompt %}}",
                "chosen": text.replace("bad", "good"),
                "rejected": text,
            }
        )
        for name, text in NASTY.items()
    ]
    lines += [
        json.dumps({"id": "nul", "prompt": "NUL", "chosen": "a", "rejected": "b\0ad"}),
        json.dumps({"id": "surrogate", "prompt": "half", "chosen": "a", "rejected": "\ud800 bad"}),
        json.dumps({"id": "long", "prompt": "long", "chosen": "a", "rejected": "bad " * 250_000}),
        json.dumps({"id": "nul-prompt", "prompt": "N\0UL", "chosen": "a", "rejected": "bad"}),
        json.dumps({"id": "long-prompt", "prompt": "long " * 200_000, "chosen": "a", "rejected": "bad"}),
        json.dumps({"id": "half-chosen", "prompt": "half", "chosen": "\ud800", "rejected": "bad words stay"}),
    ]
    broken = b'{"id": "utf8", "prompt": "broken", "chosen": "a", "rejected": "b\xff\xfed"}\n'
    (folder / "pairs.jsonl").write_bytes("".join(line + "\n" for line in lines).encode() + broken)
    started = Server(
        folder,
        str(folder / "pairs.jsonl"),
        "--annotators",
        "ada,ben,eve",
        "--max-ratio",
        "0.9",
        "--agreement",
        "0",
    )
    yield started
    started.stop()


def test_refused_records_have_a_reason(server: Server) -> None:
    rejects = [
        json.loads(line) for line in (server.folder / "edits.pairs.rejects.jsonl").read_text().splitlines()
    ]
    reasons = " | ".join(reject["reason"] for reject in rejects)
    assert len(rejects) == 6, reasons  # a broken side field, `chosen`, costs no record
    for part in (
        "rejected holds a NUL",
        "prompt holds a NUL",
        "surrogate",
        "rejected is too long (1,000,000 characters",
        "prompt is too long (1,000,000 characters",
        "UTF-8",
    ):
        assert part in reasons


def test_texts_come_back_unchanged(server: Server) -> None:
    client = server.client("ada")
    for _ in [*NASTY, "half-chosen"]:
        data = client.page()
        assert data
        page = client.http.get("/").text
        assert page.count("<script") == 2, "the page's own two, and none of the text's"
        assert not re.search(r"<[^>]*\son\w+=", page)
        assert not re.search(r"""(?:href|src)=["']?\s*javascript""", page, re.IGNORECASE)
        assert "<img" not in page
        assert client.submit(data["original"].replace("bad", "good")).status_code == 200
    assert client.page() is None
    records = {record["id"]: record for record in export(server)}
    for name, text in NASTY.items():
        assert records[name]["rejected"] == text
        assert records[name]["edited"] == text.replace("bad", "good")
        assert records[name]["prompt"] == f"{text} {{% prompt %}}"


def test_hostile_edits_are_refused_with_a_reason(server: Server) -> None:
    ben = server.client("ada")
    recent = re.search(r"/work/(\d+)", ben.http.get("/mine").text)
    assert recent
    found = re.search(r'id="data">(.*?)</script>', ben.http.get(recent[0]).text)
    assert found
    ben.data = json.loads(found[1])
    for text, status, reason in [
        ("a NUL \0 in it", 422, "NUL"),
        ("bad " * 250_000, 422, "too long"),
        ("x" * 2_100_000, 413, "bytes"),
        ("half \ud800 a pair", 422, "surrogate"),
        ("", 422, "empty"),
        (" \n", 422, "empty"),
        (ben.data["original"], 422, "Nothing"),
        ("something else altogether", 422, "90%"),
    ]:
        answer = ben.submit(text)
        assert answer.status_code == status
        assert reason in answer.json()["error"]
    headers = {"X-CSRF-Token": ben.data["csrf"], "Content-Type": "application/json"}
    for body, status in [
        (b'{"work": 1, "text": "\xff"}', 400),
        (b"[1]", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"work": 1e999}', 400),
        (b'{"work": 1, "verdict": ["edited"]}', 400),
        (b'{"work": 1, "verdict": "edited", "seconds": NaN}', 400),
    ]:
        assert ben.http.post("/api/submit", content=body, headers=headers).status_code == status, body[:60]
    for since, status in [(None, 400), (1, 400), ("x", 400), ({}, 400), ([{}, "x", None], 200)]:
        assert (
            ben.post("/api/draft", {"work": ben.data["work"], "at": 1, "since": since}).status_code == status
        )
    assert ben.submit("good", note="n" * 2001).status_code == 422
    assert ben.submit("good", verdict="perfect").status_code == 422
    assert (
        ben.http.post(
            "/api/submit", content=b"{}", headers=headers | {"Content-Type": "text/plain"}
        ).status_code
        == 415
    )


def test_nobody_comes_in_without_a_link(server: Server) -> None:
    with httpx.Client(base_url=server.base, headers={"Origin": server.base}) as stranger:
        for path in ("/", "/mine", "/work/1", "/practice/1", "/admin", "/admin/items", "/admin/item/1"):
            assert stranger.get(path).status_code == 401
        for path in (
            "/api/submit",
            "/api/draft",
            "/api/skip",
            "/api/skipped",
            "/api/undo",
            "/api/guided",
            "/api/preview",
            "/admin/return/1",
            "/admin/gold/1",
            "/admin/decide/1",
            "/admin/assign",
            "/admin/person",
            "/admin/revoke/2",
        ):
            assert stranger.post(path, json={"work": 1}).status_code == 401
        assert stranger.get("/open/" + "A" * 43).status_code == 401
        assert stranger.get("/open/%00").status_code == 401
        assert stranger.get("/static/../app.py").status_code == 404
        assert stranger.get("/static/%2e%2e/app.py").status_code == 404
        stranger.cookies.set(next(iter(server.client("ada").http.cookies)), "guess")
        assert stranger.get("/").status_code == 401


def test_anothers_work_and_token(server: Server) -> None:
    ada, eve = server.client("ada"), server.client("eve")
    recent = re.search(r"/work/(\d+)", ada.http.get("/mine").text)
    assert recent
    assert eve.http.get(recent[0]).status_code == 404
    found = re.search(r'name="csrf" value="(\w+)"', server.client("admin").http.get("/admin").text)
    assert found
    eve.data = {"csrf": found[1], "work": int(recent[1])}
    assert eve.submit("stolen").status_code == 403, "with another's CSRF token"
    own = re.search(r'"csrf": "(\w+)"', ada.http.get(recent[0]).text)
    assert own
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        ada.data = {"csrf": own[1], "work": int(recent[1])}
        forged = ada.post("/api/submit", {"work": int(recent[1]), "verdict": "fine"}, **headers)
        assert forged.status_code == 403
        assert "another site" in forged.json()["error"]
    del ada.http.headers["Origin"]
    assert ada.submit("good").status_code == 403, "a request that does not say where it comes from"
    assert eve.http.get("/admin").status_code == 403
    assert eve.http.post("/admin/person", data={"name": "mallory"}).status_code == 403


def test_requests_that_mean_nothing(server: Server) -> None:
    ada, admin = server.client("ada"), server.client("admin")
    for number in ("9" * 5000, "9" * 23, "9" * 15):
        assert ada.http.get(f"/work/{number}").status_code == 404
        assert admin.http.post(f"/admin/revoke/{number}", data={"csrf": "x"}).status_code in (403, 404)
    assert ada.post("/api/draft", {"work": 1}, Origin="http://[").status_code == 403


@pytest.mark.parametrize(
    "host", ["annotate.example.org", "127.0.0.1:8000"]
)  # as it was asked for, or of the server behind
def test_behind_a_proxy_that_says_nothing_of_tls(tmp_path: Path, host: str) -> None:
    engine = connect(f"sqlite:///{tmp_path}/edits.db")
    set_up(engine, "edit", None, None, None, None)
    app = build(engine, "https://annotate.example.org")
    admin = TestClient(app, f"http://{host}")
    token = people.new_link(engine, people.ensure(engine, "admin", admin=True))
    assert admin.get(f"/open/{token}").status_code == 200
    entered = admin.post(
        f"/open/{token}", headers={"Origin": "https://annotate.example.org"}, follow_redirects=False
    )
    cookie = entered.headers["set-cookie"]
    assert "; secure" in cookie.lower()
    headers = {
        "Cookie": cookie.partition(";")[0],
        "Origin": "https://annotate.example.org",
        "Sec-Fetch-Site": "same-origin",
    }
    csrf = re.search(r'name="csrf" value="(\w+)"', admin.get("/admin", headers=headers).text)[1]  # type: ignore[index]
    made = admin.post("/admin/person", data={"csrf": csrf, "name": "ada"}, headers=headers)
    assert made.url.path == "/admin", "the link is on a page that can be reloaded"
    page = admin.get("/admin", headers=headers).text
    assert 'value="https://annotate.example.org/open/' in page
    forged = admin.post(
        "/admin/person",
        data={"csrf": csrf, "name": "eve"},
        headers=headers | {"Origin": "https://evil.example"},
    )
    assert forged.status_code == 403


def test_headers(server: Server) -> None:
    client = server.client("eve")
    cookie = client.entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert server.links["eve"].rpartition("/")[2] not in client.http.get("/").text
    for page in (client.http.get("/"), client.http.get("/nowhere"), client.entered):
        policy = dict(
            part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert re.fullmatch(r"'self' 'nonce-[\w-]{22}'", policy["style-src"])
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["cache-control"] == "no-store"
    assert httpx.get(server.base, headers={"Host": "evil.example"}).status_code == 400


def test_link_taken_back(server: Server) -> None:
    eve, admin = server.client("eve"), server.client("admin")
    page = admin.http.get("/admin").text
    csrf = re.search(r'name="csrf" value="(\w+)"', page)[1]  # type: ignore[index]
    number = re.search(r"eve</a></th>.*?/admin/revoke/(\d+)", page, re.DOTALL)[1]  # type: ignore[index]
    assert "Take back the link of" in admin.http.get(f"/admin/revoke/{number}").text
    assert eve.http.get("/").status_code == 200, "asked, not done"
    assert admin.http.post(f"/admin/revoke/{number}", data={"csrf": csrf}).status_code == 200
    assert eve.http.get("/").status_code == 401
    assert Client(server.base, server.links["eve"]).entered.status_code == 401
    again = admin.http.post(f"/admin/link/{number}", data={"csrf": csrf}).text
    link = re.search(r'value="(http[^"]+/open/[^"]+)"', again)[1]  # type: ignore[index]
    assert link in admin.http.get("/admin").text, "a made link survives a reload"
    assert Client(server.base, link).entered.status_code == 303
    assert Client(server.base, server.links["eve"]).entered.status_code == 401, "the old link stays dead"
    made = admin.http.post("/admin/person", data={"csrf": csrf, "name": "<i>zoe</i>"}).text
    assert "&lt;i&gt;zoe" in made
    assert "<i>zoe" not in made
    assert admin.http.post("/admin/person", data={"csrf": csrf, "name": "a\0b"}).status_code == 422
    assert admin.http.post("/admin/person", data={"csrf": "0" * 64, "name": "x"}).status_code == 403


@pytest.mark.parametrize(
    "text",
    [
        "[a](javascript:alert(1))",
        "[a](&#106;avascript:alert(1))",
        "[a](java\nscript:alert(1))",
        "[a](data:text/html,x)",
        "[a](vbscript:x)",
        "[a](//evil.example)",
        "[a](\u0001javascript:alert(1))",
        "<javascript:alert(1)>",
        "![a](https://e.org/x.png)",
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a <b onclick=x>b</b>",
        "<style>*{}</style>",
        "<!-- x -->",
        "[a]: javascript:alert(1)\n\n[a]",
        "[x](https://e.org \"onmouseover='alert(1)'\")",
        "`<b>`",
        "```html\n<script>\n```",
    ],
)
def test_markdown_is_harmless(text: str) -> None:
    html = render(text)
    for tag, attributes in re.findall(r"<([a-z0-9]+)([^>]*)>", html):
        assert tag in {"p", "a", "code", "pre", "br"}
        for name, value in re.findall(r'([\w-]+)="([^"]*)"', attributes):
            assert name in {"href", "title", "rel", "target", "class"}
            assert name != "href" or value.startswith(("https://", "http://", "mailto:"))


def test_markdown_formats_and_is_quick() -> None:
    html = render(
        "**bold** and `code`\n\n- a\n- b\n\n[site](https://example.org)\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    )
    for part in (
        "<strong>bold</strong>",
        "<code>code</code>",
        "<li>a</li>",
        'rel="noopener noreferrer',
        "<td>1</td>",
    ):
        assert part in html
    assert render("*" * 20_000 + "<b>").startswith("<pre>")
    assert "&lt;b&gt;" in render("[" * 19_000 + "<b>")


def test_forms_that_mean_nothing(server: Server) -> None:
    """What no form of ours sends is refused with a reason, and is no error of the server's."""
    admin = server.client("admin")
    page = admin.http.get("/admin/items").text
    csrf = re.search(r'name="csrf" value="(\w+)"', page)[1]  # type: ignore[index]
    for path, values in [
        ("/admin/assign", {"percent": "²"}),
        ("/admin/assign", {"percent": "0"}),
        ("/admin/assign", {"percent": "10", "to": "9" * 40}),
        ("/admin/return/1", {"why": "x", "to": "²"}),
        ("/admin/return/1", {"why": "x", "to": "9" * 40}),
        ("/admin/return/1", {"why": " "}),
        ("/admin/return/1", {"why": "x" * 2001}),
        ("/admin/gold/999999", {}),
        ("/admin/decide/1", {"verdict": "perfect"}),
        ("/admin/decide/999999", {"verdict": "fine"}),
    ]:
        assert admin.http.post(path, data={"csrf": csrf} | values).status_code == 422, (path, values)
    back = admin.http.post(
        "/admin/undecide/1", data={"csrf": csrf, "back": "https://evil.example"}, follow_redirects=False
    )
    assert back.headers["location"] == "/admin"
    for query in ("?page=²", "?page=" + "9" * 30, "?text=%00%25_", "?state=nonsense", "?assigned=<b>"):
        answer = admin.http.get(f"/admin/items{query}")
        assert answer.status_code == 200
        assert "<b>" not in answer.text
    assert admin.http.get("/admin/item/999999").status_code == 404


def test_the_bundle_names_its_licences() -> None:
    """What is in the page's bundle is named with its licence, in the versions of the lock file; it asks no
    other host."""
    package = Path(annotate.__file__).parent
    lock = json.loads((package / "bundle" / "package-lock.json").read_text())
    notes = (package / "static" / "codemirror.bundle.LICENSE.txt").read_text()
    named = re.findall(r"^(\S+) (\S+) \(MIT\)$", notes, re.MULTILINE)
    assert {"@codemirror/commands", "@codemirror/state", "@codemirror/view"} <= {name for name, _ in named}
    for name, version in named:
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    bundle = (package / "static" / "codemirror.bundle.mjs").read_text()
    assert not re.search(r"\b(fetch|import)\s*\(|XMLHttpRequest|WebSocket", bundle)
