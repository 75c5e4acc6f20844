"""Opens a report in headless Chromium from Debian, as a reader would, with no network to fall back on."""

import json
import re
import shutil
import time

import pytest
from archive_maker import make_row, make_rows, make_run

from hpsearch.archive import CONTROLS_FOLDER, write_trial
from hpsearch.report import write_report
from hpsearch.search_run import open_run

selenium = pytest.importorskip("selenium", reason="selenium is in the extra test")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs Debian's chromium and chromium-driver"),
]

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"),
    "--force-prefers-reduced-motion",  # a click lands where the point is, not where it scrolls past
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    rows = make_rows(150)
    rows.append(make_row(901, state="failed", error="<script>document.title = 'taken over'</script>"))
    storage = make_run(tmp_path_factory.mktemp("runs") / "run", rows)
    write_trial(storage, make_row(900, accuracy=0.98, energy_j=2e-3, control="dense"), CONTROLS_FOLDER)
    write_report(open_run(storage.location))
    return f"file://{storage.local}/report.html"


@pytest.fixture
def page(browser, address):
    resize(browser, 1280)
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get(address)
    wait_for(browser, "return document.documentElement.dataset.ready === 'true'")
    return browser


def resize(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def wait_for(browser, script, timeout_s=30.0):
    end = time.monotonic() + timeout_s
    while not browser.execute_script(script):
        assert time.monotonic() < end, f"never true: {script}"
        time.sleep(0.05)


def text_of(page, selector):
    return page.execute_script("return document.querySelector(arguments[0]).textContent.trim()", selector)


def front_points(page):
    return page.find_elements(
        "css selector", "[data-spec=front] .front_points_marks path, [data-spec=front] g[class*=front_points] path"
    )


def test_the_points_of_the_front_are_there_and_have_names(page):
    rows = page.find_elements("css selector", "#front tbody tr[data-trial]")
    points = front_points(page)
    assert len(points) == len(rows) > 5
    assert all(point.get_attribute("aria-label") for point in points)


def test_nothing_is_requested_and_no_error_is_logged(page, address):
    page.execute_script("document.querySelectorAll('details').forEach((fold) => { fold.open = true; });")
    wait_for(page, "return [...document.querySelectorAll('.slices .figure')].every((figure) => figure.view)")
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    requests = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert requests, "the page itself should have been logged"
    assert {url for url in requests if not url.startswith("data:")} <= {address, "about:blank"}
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_text_of_the_run_is_no_code(page):
    assert "taken over" not in page.title
    assert "taken over" in text_of(page, "#history table")


def test_hovering_shows_objectives_with_units(page):
    from selenium.webdriver import ActionChains

    point = front_points(page)[1]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(page).move_to_element(point).perform()
    wait_for(page, "return document.querySelector('#vg-tooltip-element.visible') !== null")
    lines = text_of(page, "#vg-tooltip-element")
    assert re.search(r"accuracy\s*[\d.]+ %", lines)
    assert re.search(r"energy\s*[\d.]+ [mµ]J", lines)


def test_the_control_is_marked_and_a_click_says_what_it_is(page):
    (diamond,) = page.find_elements("css selector", "[data-spec=front] g[class*=control_points] path")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", diamond)
    diamond.click()
    wait_for(page, "return !document.querySelector('#chosen').hidden")
    assert text_of(page, "#chosen h3") == "dense network (control, not searched)"


def test_dragging_the_line_changes_the_pick(page):
    from selenium.webdriver import ActionChains

    before, limit = text_of(page, "#picked"), text_of(page, "#budget-text")
    assert before.startswith("Picked")
    handle = page.find_element("css selector", "[data-spec=front] g[class*=budget_handle] line")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
    ActionChains(page).move_to_element(handle).click_and_hold().move_by_offset(-150, 0).release().perform()
    wait_for(page, f"return document.querySelector('#budget-text').textContent !== {json.dumps(limit)}")
    assert text_of(page, "#picked") != before
    assert page.find_elements("css selector", "tr.is-picked")


def test_the_slider_sets_the_budget_by_keyboard(page):
    from selenium.webdriver import Keys

    slider = page.find_element("css selector", "#budget")
    slider.send_keys(Keys.HOME)
    wait_for(
        page,
        "return document.querySelector('#picked').textContent.startsWith('Nothing fits')"
        " || document.querySelector('#picked').textContent.startsWith('Picked')",
    )
    low = text_of(page, "#budget-text")
    slider.send_keys(Keys.END)
    assert text_of(page, "#budget-text") == "no limit" != low
    assert slider.get_attribute("aria-valuetext") == "no limit"


def test_a_click_on_a_point_opens_its_card(page):
    point = front_points(page)[2]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    point.click()
    wait_for(page, "return document.querySelectorAll('details.card[open]').length === 1")
    label = text_of(page, "details.card[open] summary b")
    assert page.execute_script("return document.activeElement.textContent").strip().startswith(label)
    assert page.find_elements("css selector", "details.card[open] svg.network")


def test_a_link_in_the_table_opens_the_card_too(page):
    link = page.find_element("css selector", "#front tbody tr:nth-child(2) a")
    link.click()
    wait_for(page, "return document.querySelectorAll('details.card[open]').length === 1")
    assert text_of(page, "details.card[open] summary b") == link.text


def test_a_click_on_a_faint_point_shows_its_trial(page):
    page.execute_script("document.querySelector('#zoomed').click()")
    point = page.find_elements("css selector", "[data-spec=front] g[class*=trial_points] path")[0]
    page.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", point)
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    point.click()
    wait_for(page, "return !document.querySelector('#chosen').hidden")
    assert "not on the front" in text_of(page, "#chosen")


def test_stopped_trials_appear_when_asked(page):
    count = "return document.querySelectorAll('[data-spec=front] g[class*=stopped_points] path').length"
    assert page.execute_script(count) == 0
    page.find_element("css selector", "#show_stopped").click()
    wait_for(page, count)


def test_dark_mode_changes_page_and_pictures(page):
    colours = (
        "return [getComputedStyle(document.body).backgroundColor,"
        " document.querySelector('[data-spec=front] .role-axis-label text').getAttribute('fill')]"
    )
    light = page.execute_script(colours)
    page.find_element("css selector", "#theme").click()
    wait_for(page, "return document.querySelector('[data-spec=front]').view !== null")
    dark = page.execute_script(colours)
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    assert page.find_element("css selector", "#theme").get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_fits_its_window(page, width):
    resize(page, width)
    page.refresh()
    wait_for(page, "return document.documentElement.dataset.ready === 'true'")
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_everything_that_can_be_used_has_a_name_and_can_be_reached(page):
    nameless = page.execute_script(
        "return [...document.querySelectorAll('button, a, input, summary, [role]')].filter((element) =>"
        " !element.closest('svg') && !(element.textContent.trim() || element.getAttribute('aria-label')"
        " || (element.labels && element.labels.length))).map((element) => element.outerHTML.slice(0, 100))"
    )
    assert [element for element in nameless if 'id="picked"' not in element and 'id="chosen"' not in element] == []
    unreachable = page.execute_script(
        "return [...document.querySelectorAll('main button, main a, main input, main summary')]"
        ".filter((element) => element.tabIndex < 0).length"
    )
    assert unreachable == 0
