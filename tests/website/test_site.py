"""The built site: links, anchors, nothing from elsewhere, and what a reader sees of it."""

import json
import re
import string
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import attention
from website import api

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SIZES = {"desktop": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class Page(HTMLParser):
    """Links, anchors and loaded files of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attributes}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADING and (address := given.get(LOADING[tag])) and given.get("rel") != "canonical":
            self.loaded.append(address)


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_link_and_anchor_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            known = pages[target].anchors if target in pages else {anchor}
            if not target.is_file() or (anchor and anchor not in known):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert dead == []


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    foreign = {address for page in pages.values() for address in page.loaded if urlsplit(address).netloc}
    assert foreign == set()
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), (
            sheet
        )


def test_there_is_a_page_of_every_mechanism_guide_and_name(site: Path, pages: dict[Path, Page]) -> None:
    names = {path.stem for path in (site / "mechanisms").glob("*.html")}
    assert names == {"index", *attention.names()}
    documents = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README", "mechanisms"}
    assert documents <= {path.stem for path in site.glob("*.html")}
    for chapter in api.PAGES:
        assert (site / chapter).with_suffix(".html") in pages
    library = pages[site / "api" / "attention.html"].anchors
    assert {f"attention.{name}" for name in attention.__all__ if not name.startswith("__")} <= library


def test_every_page_can_be_reached_from_home(site: Path, pages: dict[Path, Page]) -> None:
    reached, waiting = set(), [site / "index.html"]
    while waiting:
        path = waiting.pop()
        if path in reached or path not in pages:
            continue
        reached.add(path)
        links = (urlsplit(link) for link in pages[path].links)
        waiting += [
            (path.parent / unquote(link.path)).resolve() for link in links if not link.netloc and link.path
        ]
    assert set(pages) - reached == set()


def test_the_notebook_is_kept_without_outputs_and_shown_with_them(site: Path) -> None:
    for path in (ROOT / "docs").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
        page = (site / f"{path.stem}.html").read_text()
        assert page.count('<div class="output">') >= 4
        assert 'src="data:image/png;base64,' in page
        assert "<th>sink&gt;0.3</th>" in page
        assert 'srcdoc="&lt;!doctype html&gt;' in page.lower()
        assert "output-of-cell" not in page


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def open_page(browser: Any, site: Path) -> Iterator[Any]:
    """A function that opens an address; a request for another site, an error or a complaint fails the test."""
    complaints: list[str] = []

    def open_page(address: str, **options: Any) -> Any:
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(20_000)
        allowed = (address[: address.index("/", 8) + 1], site.as_uri(), "data:", "blob:", "about:")
        page.on("request", lambda x: None if x.url.startswith(allowed) else complaints.append(x.url))
        page.on("console", lambda x: complaints.append(x.text) if x.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page

    yield open_page
    for context in browser.contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("size", SIZES)
def test_no_page_is_wider_than_the_window(size: str, address: str, site: Path, open_page: Any) -> None:
    page = open_page(address, viewport=SIZES[size])
    names = [path.relative_to(site).as_posix() for path in site.glob("*.html") if path.name != "404.html"]
    wide = []
    for name in [*names, "mechanisms/index.html", "mechanisms/soft_lowrank.html", "api/attention.html"]:
        page.goto(address + name, wait_until="domcontentloaded")
        if page.evaluate("document.documentElement.scrollWidth") > SIZES[size]["width"]:
            wide.append(name)
    assert wide == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_and_their_drawings_follow_the_readers_scheme(
    scheme: str, address: str, open_page: Any
) -> None:
    page = open_page(f"{address}mechanisms/softpick.html", viewport=SIZES["phone"], color_scheme=scheme)
    colour = "getComputedStyle(document.querySelector({!r})).{}"
    background = _lightness(page.evaluate(colour.format("body", "backgroundColor")))
    ink = _lightness(page.evaluate(colour.format("figure.drawing svg", "color")))
    assert (background > 200, ink > 128) == ((True, False) if scheme == "light" else (False, True))


def _lightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


@pytest.mark.parametrize("from_disk", [False, True])
def test_the_search_finds_a_mechanism(from_disk: bool, address: str, site: Path, open_page: Any) -> None:
    page = open_page(f"{site.as_uri()}/index.html" if from_disk else address, viewport=SIZES["desktop"])
    page.locator("input.md-search__input").click()
    page.keyboard.type("softpick")
    page.wait_for_selector("a.md-search-result__link[href*='mechanisms/softpick']")


def test_the_search_has_an_answer_for_every_letter(address: str, open_page: Any) -> None:
    page = open_page(address, viewport=SIZES["desktop"])
    page.locator("input.md-search__input").click()
    said = ".md-search-result__meta:has-text('{}')"
    for letter in string.ascii_lowercase:
        page.wait_for_selector(said.format("Type to start searching"))
        page.keyboard.type(letter)
        page.wait_for_selector(said.format("matching document"))
        page.keyboard.press("Backspace")
