"""The report in Chromium: nothing sticks out, and every text can be read, light and dark."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from mlflow_exec.evaluation.report_html import as_html
from tests.unit.evaluation.reported import faulty, hostile

# The contrast of each visible text with what is behind it, after WCAG 2.2; those under its 4.5.
POOR = """
const parse = color => (color.match(/[\\d.]+/g) || []).map(Number);
const lightness = ([r, g, b]) => [r, g, b].map(c => c / 255)
  .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
const behind = element => {
  for (; element; element = element.parentElement) {
    const color = parse(getComputedStyle(element).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
  throw new Error("the page has no background");
};
const poor = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
  if (!text || !element.checkVisibility() || element.closest("title, desc, script")) continue;
  const style = getComputedStyle(element), isDrawn = element instanceof SVGElement;
  const pair = [parse(isDrawn ? style.fill : style.color), behind(element)].map(lightness);
  const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  if (contrast < 4.5) poor.push([text.slice(0, 40), contrast.toFixed(2)]);
}
return poor;
"""
OVERHANG = """
return [...document.querySelectorAll("body *")]
  .filter(e => !e.closest(".scroll, svg, details:not([open])"))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
  .map(e => e.outerHTML.slice(0, 80)).concat(
    document.documentElement.scrollWidth > innerWidth ? ["the page scrolls sideways"] : []);
"""
DARK = "return getComputedStyle(document.documentElement).backgroundColor"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        if os.environ.get("MLFLOW_EXEC_FORBID_SKIP") == "1":
            pytest.fail("chromium or its driver is missing (Debian: chromium chromium-driver)")
        pytest.skip("chromium or its driver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
                     "--disable-background-networking", f"--user-data-dir={profile}"):  # fmt: skip
        options.add_argument(argument)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    written = {}
    for name, result in (("faulty", faulty()), ("hostile", hostile())):
        written[name] = folder / f"{name}.html"
        written[name].write_text(as_html(result), encoding="utf-8")
    return written


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["faulty", "hostile"])
def test_every_text_can_be_read_and_nothing_sticks_out(
    browser: webdriver.Chrome, pages: dict[str, Path], name: str, scheme: str
) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(pages[name].as_uri())
    channels = [int(c) for c in browser.execute_script(DARK)[4:-1].split(",")]
    assert (max(channels) < 64) == (scheme == "dark")
    assert browser.execute_script(POOR) == []
    for width in (1200, 800, 400):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert browser.execute_script(OVERHANG) == []


def test_links_work_in_a_frame_without_rights_as_that_of_mlflow(
    browser: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    frame = """
        const frame = document.createElement("iframe");
        frame.sandbox = "allow-scripts";
        frame.src = URL.createObjectURL(new Blob([arguments[0]], {type: "text/html"}));
        frame.onload = () => arguments[1]();
        document.body.append(frame);
    """
    browser.get("data:text/html,<body></body>")
    browser.execute_async_script(frame, pages["faulty"].read_text(encoding="utf-8"))
    browser.switch_to.frame(0)
    browser.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    browser.find_element("css selector", "nav a[href='#finding-2']").click()
    top = "return document.getElementById('finding-2').getBoundingClientRect().top"
    assert abs(browser.execute_script(top)) < 20
