"""Take a picture of an HTML page of this project with a headless Chromium.

    python docs/images/screenshot.py runs/short/viewer.html docs/images/viewer.png --height 1100

What the viewer shows follows the address: `runs/short/viewer.html#view=difference&a=0&b=1`.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

SWITCHES = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
)


def main() -> None:
    """Read the command line, write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", help="path of the page, with # and what to show")
    parser.add_argument("picture", help=".png to write")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--point", metavar="X,Y", help="where the pointer is, in pixels")
    options = parser.parse_args()
    path, _, fragment = options.page.partition("#")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        parser.error("there is no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=SWITCHES.split())
        page = browser.new_page(viewport={"width": options.width, "height": options.height})
        page.goto(f"{Path(path).resolve().as_uri()}#{fragment}")
        if options.point:
            page.mouse.move(*map(float, options.point.split(",")))
        page.screenshot(path=options.picture)
        browser.close()


if __name__ == "__main__":
    main()
