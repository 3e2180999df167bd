"""Tiers of tests, and random examples: the same for everybody in `make test`, new ones in `python -m tests.search`.

    --tier check    nothing slow: no process is started, no model is trained
    --tier test     everything that a change can break; what `pytest` runs by itself
    --tier all      every variant of every mechanism, the whole cross products

A test that starts a process, trains, or takes seconds is marked `slow`, in the tier `check` a process is an error; a
variant of a case that stands in the tier `test` is marked `exhaustive`.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, not whether the code is right.
UNTIMED: dict[str, Any] = {
    "database": None,
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("tests", derandomize=True, **UNTIMED)
settings.register_profile("search", derandomize=False, print_blob=False, **UNTIMED)
settings.load_profile("tests")

LEFT_OUT = {"check": {"slow", "exhaustive"}, "test": {"exhaustive"}, "all": set()}
"""Marks that a tier leaves out."""

SLOW_FIXTURES = {"browser"}
"""What makes every test slow that asks for it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tier", choices=LEFT_OUT, default="test", help="which tests (default: test)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the tier does, and what needs a GPU where there is none."""
    left_out = set(LEFT_OUT[config.getoption("tier")])
    if not torch.cuda.is_available():
        left_out.add("gpu")
    kept, dropped = [], []
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            marks.add("slow")
        (dropped if marks & left_out else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=dropped)


@pytest.fixture(scope="session", autouse=True)
def _no_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """In the tier `check`, a test that starts a Python of its own fails; compilers may run."""
    if request.config.getoption("tier") != "check":
        yield
        return
    start = subprocess.Popen.__init__

    def refuse(self: subprocess.Popen, command: object, *args: object, **kwargs: object) -> None:
        program = command[0] if isinstance(command, list | tuple) else command
        assert str(program) != sys.executable, "it starts a process: mark it slow"
        start(self, command, *args, **kwargs)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", refuse)
        yield


CHROMIUM = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; where there is none, the tests that want it are skipped."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens a file; a request for anything else, a console message or an error fails the test."""
    complaints: list[str] = []

    def visit(path: Path, fragment: str = "", **options: Any) -> Any:
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(10_000)

        def check(route: Any) -> None:
            if route.request.url.partition("#")[0] == path.as_uri():
                route.continue_()
            else:
                complaints.append(f"requested {route.request.url}")
                route.abort()

        page.route("**/*", check)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri() + fragment)
        return page

    yield visit
    for context in browser.contexts:
        context.close()
    assert complaints == []
