r"""Take a picture for the documentation: of a run in MLflow or an artifact of it, of Ray Serve.

    python docs/screenshot.py --output run.png run --tracking-uri http://localhost:5000 --run-id 1f…
    python docs/screenshot.py --output a.png artifact --tracking-uri http://localhost:5000 \
        --run-id 1f… --path scan/report.html
    python docs/screenshot.py --output s.png serve --dashboard http://localhost:8265 --shows wine
    python docs/screenshot.py --output p.png --scheme dark page report.html

Needs ``pip install selenium``, Chromium and its driver (Debian: ``chromium chromium-driver``), and
a tracking server that asks for no sign-in. MLflow's page is its own with two changes: tags are
shown in full (MLflow cuts long ones and shows the rest when the mouse is over them), and the button
of its assistant is hidden.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.support.ui import WebDriverWait

LOAD_TIMEOUT_S = 60

# What a visitor has chosen before: the pages for training, and no assistant beside them.
CHOICES = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
}
STYLE = """
[data-component-type="tag"], [data-component-type="tag"] * {
    max-width: none !important; white-space: normal !important; overflow: visible !important;
    height: auto !important; overflow-wrap: anywhere;
}
[data-component-type="tag"] span { display: inline !important; }
[data-assistant-ui] { display: none !important; }
"""
TOKEN_COOKIE = "ray-authentication-token"  # Ray's name: _private/authentication
SHOWN = "return [...document.querySelectorAll('[title]')].map(element => element.title)"


def main() -> int:
    """Take the picture that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the PNG file to write")
    parser.add_argument("--width", type=int, default=1400, help="of the page, in CSS pixels")
    parser.add_argument("--height", type=int, default=1000, help="of the page, in CSS pixels")
    parser.add_argument("--scale", type=float, default=2, help="pixels of the PNG per CSS pixel")
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    pages = parser.add_subparsers(required=True)
    run = pages.add_parser("run", help="a run in MLflow's UI")
    run.add_argument("--tracking-uri", required=True, help="where the tracking server answers")
    run.add_argument("--run-id", required=True)
    run.set_defaults(open=open_run)
    artifact = pages.add_parser("artifact", help="an HTML artifact of a run in MLflow's UI")
    artifact.add_argument("--tracking-uri", required=True, help="where the tracking server answers")
    artifact.add_argument("--run-id", required=True)
    artifact.add_argument("--path", required=True, help="of the artifact in the run")
    artifact.set_defaults(open=open_artifact)
    page = pages.add_parser("page", help="an HTML file")
    page.add_argument("file", type=Path)
    page.add_argument("--at", default="", metavar="ID", help="scroll to the element of that id")
    page.set_defaults(open=open_page)
    serve = pages.add_parser("serve", help="the applications in the dashboard of a Ray")
    serve.add_argument("--dashboard", required=True, help="where it answers")
    serve.add_argument("--token-file", type=Path, help="with the token that it asks for")
    serve.add_argument("--shows", required=True, nargs="+", help="the applications to wait for")
    serve.set_defaults(open=open_serve)
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        browser = start_browser(Path(profile), options.width, options.height, options.scale)
        set_scheme(browser, options.scheme)
        try:
            options.open(browser, options)
            options.output.write_bytes(browser.get_screenshot_as_png())
        except (TimeoutException, URLError) as error:
            print(f"no picture: {error}", file=sys.stderr)
            return 1
        finally:
            browser.quit()
    return 0


def fetch_run(server: str, run_id: str) -> dict[str, Any]:
    """The run as MLflow's REST API describes it."""
    with urlopen(f"{server}/api/2.0/mlflow/runs/get?run_id={quote(run_id)}", timeout=30) as answer:
        run: dict[str, Any] = json.load(answer)["run"]
    return run


def start_browser(profile: Path, width: int, height: int, scale: float) -> webdriver.Chrome:
    """A Chromium without a window, a history or a connection to its maker."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return browser


def set_scheme(browser: webdriver.Chrome, scheme: str) -> None:
    """Have pages think that the visitor likes light or dark ones."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def set_choices(browser: webdriver.Chrome) -> None:
    """Have MLflow's pages think that the visitor was there before."""
    choose = (
        f"for (const [k, v] of Object.entries({json.dumps(CHOICES)})) localStorage.setItem(k, v)"
    )
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": choose})


def open_run(browser: webdriver.Chrome, options: argparse.Namespace) -> None:
    """Open the page of a run and return when it shows all that there is to show."""
    server = options.tracking_uri.rstrip("/")
    run = fetch_run(server, options.run_id)
    set_choices(browser)
    info, tags = run["info"], run["data"].get("tags", [])
    browser.get(f"{server}/#/experiments/{info['experiment_id']}/runs/{info['run_id']}")
    # MLflow shows no tag of its own among the tags.
    expected = {tag["key"] for tag in tags if not tag["key"].startswith("mlflow.")}

    def shows_all(text: str) -> bool:
        return info["run_id"] in text and expected <= set(browser.execute_script(SHOWN))

    wait_for(browser, shows_all, f"the page of run {info['run_id']} with its tags")
    set_style(browser)


def set_style(browser: webdriver.Chrome) -> None:
    """Make the changes to MLflow's page, and wait until they are drawn."""
    style = f"document.head.appendChild(document.createElement('style')).textContent = {STYLE!r}"
    browser.execute_script(style)
    # Two frames later the browser has drawn what the style has changed.
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    )


def open_page(browser: webdriver.Chrome, options: argparse.Namespace) -> None:
    """Open a file where the picture has to begin, without a journey there."""
    browser.get(options.file.absolute().as_uri())
    browser.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    if options.at:
        browser.execute_script(f"document.getElementById({options.at!r}).scrollIntoView()")


def open_artifact(browser: webdriver.Chrome, options: argparse.Namespace) -> None:
    """Open a run's HTML artifact and return when MLflow's frame shows it."""
    server = options.tracking_uri.rstrip("/")
    info = fetch_run(server, options.run_id)["info"]
    set_choices(browser)
    place = f"experiments/{info['experiment_id']}/runs/{info['run_id']}/artifacts/{options.path}"
    browser.get(f"{server}/#/{place}")
    frame = WebDriverWait(browser, LOAD_TIMEOUT_S).until(
        lambda b: b.find_element("css selector", "iframe.mlflow-html-iframe"),
        f"no sign of {options.path} in the artifacts",
    )
    set_style(browser)
    browser.switch_to.frame(frame)
    wait_for(browser, bool, f"the content of {options.path}")
    browser.switch_to.default_content()


def open_serve(browser: webdriver.Chrome, options: argparse.Namespace) -> None:
    """Open the page of Ray Serve's applications and return when it shows these."""
    dashboard = options.dashboard.rstrip("/")
    browser.get(f"{dashboard}/favicon.ico")  # a cookie is of a page's server
    if options.token_file:
        token = options.token_file.read_text(encoding="utf-8").strip()
        browser.add_cookie({"name": TOKEN_COOKIE, "value": token})
    browser.get(f"{dashboard}/#/serve")
    expected = set(options.shows)
    wait_for(
        browser,
        lambda text: expected <= set(text.split()) and "Loading" not in text,
        f"the applications {sorted(expected)}",
    )


def wait_for(browser: webdriver.Chrome, shows: Callable[[str], bool], what: str) -> None:
    """Wait until the page shows it, and nothing came to it since the last look.

    Raises:
        TimeoutException: It does not.
    """
    before = ""

    def complete(_: webdriver.Chrome) -> bool:
        nonlocal before
        last, text = before, browser.execute_script("return document.body.innerText")
        before = re.sub(r"\d+", "", text)  # the seconds since something go on
        return before == last and shows(text)

    WebDriverWait(browser, LOAD_TIMEOUT_S, poll_frequency=1).until(complete, f"no sign of {what}")


if __name__ == "__main__":
    sys.exit(main())
