"""Draw the pictures of README and docs from a run: its front, and its report on a screen, at night and on a phone.

    python docs/make_pictures.py runs/demo docs/img

Needs Chromium with its driver and the package selenium.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from selenium import webdriver

import hpsearch
from hpsearch.report.files import draw_pictures
from hpsearch.report.page import render_page

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
SHOTS = {  # name: width, height, is dark, is a card open
    "report.png": (1600, 1400, False, False),
    "report-dark.png": (1600, 1400, True, False),
    "report-card.png": (1600, 1100, False, True),
    "report-phone.png": (400, 1300, False, False),
}


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("target", type=Path, help="folder for the pictures")
    arguments = parser.parse_args()
    run = hpsearch.open_run(arguments.run)
    arguments.target.mkdir(parents=True, exist_ok=True)
    (arguments.target / "front.png").write_bytes(draw_pictures(run)[0])
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        page.write_text(render_page(run), encoding="utf-8")
        browser = _start(folder)
        try:
            for name, shot in SHOTS.items():
                _shoot(browser, page, arguments.target / name, *shot)
                print(f"wrote {arguments.target / name}")
        finally:
            browser.quit()


def _start(folder: str) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, "--hide-scrollbars", "--force-prefers-reduced-motion", f"--user-data-dir={folder}/profile"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def _shoot(
    browser: webdriver.Chrome, page: Path, target: Path, width: int, height: int, is_dark: bool, has_card: bool
) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    _wait(browser)
    if is_dark:
        browser.find_element("css selector", "#theme").click()
    if has_card:
        browser.execute_script("const card = document.querySelector('.card'); card.open = true; card.scrollIntoView();")
    time.sleep(1.0)  # pictures of the other theme are drawn anew
    browser.save_screenshot(str(target))


def _wait(browser: webdriver.Chrome) -> None:
    end = time.monotonic() + 30
    while not browser.execute_script("return document.documentElement.dataset.ready"):
        if time.monotonic() > end:
            raise TimeoutError("the page did not get ready in 30 s")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
