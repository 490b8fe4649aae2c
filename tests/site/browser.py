"""The built site in headless Chromium, for `make test-site`."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import pytest

from pages import ROOT

SITE = ROOT / "build" / "site"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--remote-debugging-pipe"),
)
SECONDS = 20
# The texts of a page that have less contrast to what is behind them than WCAG 2.2 AA asks for, with their colours.
FAINT = r"""
(() => {
  const parts = (colour) => [...colour.match(/[\d.]+/g).map(Number), 1].slice(0, 4);
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = (colour) => {
    const [red, green, blue] = colour.map((value) => linear(value / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (element) => {
    const layers = [];
    for (; element; element = element.parentElement) layers.push(parts(getComputedStyle(element).backgroundColor));
    return layers.reduceRight((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const faint = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || element.closest("script, style, noscript")) continue;
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const below = behind(element), front = over(parts(style.color), below);
    const [dark, light] = [luminance(front), luminance(below)].sort((one, other) => one - other);
    const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    if ((light + 0.05) / (dark + 0.05) < least) faint.add(`${element.className} ${style.color} on ${below}`);
  }
  return [...faint];
})()
"""

# The pictures that are drawn at less than 0.6 of their size, or go beyond the text beside them and don't scroll.
SMALL = """
[...document.querySelectorAll("article img")].filter((picture) => {
  const around = picture.parentElement.getBoundingClientRect(), drawn = picture.getBoundingClientRect();
  const scrolls = getComputedStyle(picture.parentElement).overflowX === "auto";
  return drawn.width < 0.6 * picture.naturalWidth || (!scrolls && drawn.right > around.right + 1);
}).map((picture) => `${document.title}: ${picture.src} ${picture.width} of ${picture.naturalWidth}`)
"""


class Browser:
    """Chromium with one tab, controlled by the DevTools protocol."""

    def __init__(self, profile: str) -> None:
        read, self._write = os.pipe()
        answers, write = os.pipe()
        command = [
            "bash",
            "-c",
            f'exec "$@" 3<&{read} 4>&{write}',
            "_",
            "chromium",
            *FLAGS,
            f"--user-data-dir={profile}",
        ]
        self.process = subprocess.Popen(command, pass_fds=(read, write), stderr=subprocess.DEVNULL)
        os.close(read)
        os.close(write)
        self._answers = open(answers, "rb", buffering=0)  # noqa: SIM115
        self._rest, self._count, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result. Events that arrive meanwhile are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def open(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not self.happened("Page.loadEventFired"):
            self.events.append(self._read())

    def happened(self, event: str) -> list[dict[str, Any]]:
        """Return what is known of each event of a kind since a page was opened."""
        return [found["params"] for found in self.events if found.get("method") == event]

    def value(self, expression: str) -> Any:
        """Return the value of an expression in JavaScript."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Return the value of an expression once it is true."""
        end = time.monotonic() + SECONDS
        while not (found := self.value(expression)):
            assert time.monotonic() < end, expression
            time.sleep(0.05)
        return found

    def resize(self, width: int, *, dark: bool = False) -> None:
        """Set the screen's width, and whether the system is dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait(10)
        self._answers.close()
        os.close(self._write)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = self._answers.read(1 << 16)
            assert data, "Chromium ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        yield browser
        browser.close()


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture(scope="module", params=["file", "http"])
def root(request: pytest.FixtureRequest) -> Iterator[str]:
    """The site's address: a folder, or a server."""
    if request.param == "file":
        yield SITE.as_uri()
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("renew certificate", "reference/renew.html"),
        ("keygen", "reference/keygen.html"),
        ("trust policy", "how-to/aws.html"),
        ("HWSIGNER_PROFILE", "reference/files.html"),
        ("PcrPolicy", ""),
        ("exit status", "reference/errors.html"),
        ("BackgroundProvider", "reference/hwsigner.html"),
        ("storage root key", "how-to/tpm.html"),
        ("access denied", "reference/errors.html"),
        ("yubikey pin", "how-to/pins.html"),
        ("credential_process", "reference/config.html"),
        ("TPM lockout", "how-to/tpm.html"),
        ("proxy", "how-to/proxy.html"),
        ("behind a proxy", "how-to/proxy.html"),
        ("offline", "how-to/proxy.html"),
        ("faq", "how-to/faq.html"),
        ("cheat sheet", "reference/cheat-sheet.html"),
        ("jenkins", "how-to/job-certificates.html"),
        ("gitlab certificate", "how-to/job-certificates.html"),
        ("django", "how-to/fork.html"),
        ("celery", "how-to/fork.html"),
        ("gunicorn fork", "how-to/fork.html"),
        ("DynamicUser", "how-to/systemd.html"),
        ("LoadCredential", "how-to/systemd.html"),
        ("several accounts", "how-to/accounts.html"),
        ("terraform", "how-to/recipes.html"),
        ("packer credential_process", "how-to/recipes.html"),
        ("hardware tried", "reference/hardware.html"),
        ("uninstall", "how-to/debian-package.html"),
        ("aws_signing_helper", "reference/commands.html"),
        ("pkcs11 module", "how-to/pkcs11-in-use.html"),
    ],
)
def test_search_finds_the_page(query: str, page: str, root: str, browser: Browser) -> None:
    browser.resize(1400)
    browser.open(f"{root}/search.html?q={query}")
    browser.wait_for("/finished|did not match/.test(document.getElementById('search-results').textContent)")
    links = browser.value("[...document.querySelectorAll('#search-results li a')].slice(0, 3).map((a) => a.href)")
    assert any(f"/{page}" in link for link in links) if page else links == []


@pytest.mark.parametrize(
    ("query", "page"),
    [("install", "start/install.html"), ("pin file", "how-to/pins.html"), ("registrar", "how-to/registrar.html")],
)
def test_search_shows_the_page_for_users_first(query: str, page: str, browser: Browser) -> None:
    browser.open(f"{SITE.as_uri()}/search.html?q={query}")
    browser.wait_for("/finished/.test(document.getElementById('search-results').textContent)")
    assert page in browser.value("document.querySelector('#search-results li a').href")


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("hwsigner: wrong PIN for pkcs11:token=web. hwsigner does not send it again", "wrong PIN for NAME"),
        ("can't look up rolesanywhere.example.com: Name or service not known", "can't look up HOST: STRERROR"),
        ("no agent is running at /run/user/1000/hwsigner/agent.sock", "no agent is running at SOCKET"),
        ("the private key does not belong to certificate web.pem (CN=web)", "does not belong to certificate SOURCE"),
    ],
)
def test_search_for_an_error_leads_to_its_message(printed: str, found: str, root: str, browser: Browser) -> None:
    browser.open(f"{root}/search.html?q={quote(printed)}")
    browser.open(browser.wait_for("document.querySelector('#lead-to-messages a')?.href"))
    browser.wait_for("document.querySelector('#find-message output')?.textContent")
    shown = browser.value("[...document.querySelectorAll('article dt:not([hidden])')].map((term) => term.textContent)")
    assert any(found in term for term in shown)
    assert len(shown) <= 8


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1400, False)])
def test_every_page_fits_loads_only_its_own_files_follows_the_system_and_has_contrast(
    width: int, dark: bool, browser: Browser
) -> None:
    browser.resize(width, dark=dark)
    faults = []
    for page in PAGES:
        browser.open(f"{SITE.as_uri()}/{page}")
        wide = browser.value("document.scrollingElement.scrollWidth")
        colour = browser.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        requests = browser.happened("Network.requestWillBeSent")
        foreign = [
            url for event in requests if not (url := event["request"]["url"]).startswith((SITE.as_uri(), "data:"))
        ]
        faint = browser.value(FAINT)
        problems = [*browser.happened("Runtime.exceptionThrown"), *browser.happened("Log.entryAdded")]
        if wide > width or foreign or problems or faint or (int(colour) < 128) != dark:
            faults.append((page, wide, colour, foreign, problems[:1], faint))
    assert PAGES
    assert faults == []


@pytest.mark.parametrize("width", [390, 1280])
def test_pictures_fit_or_scroll_and_can_be_read(width: int, browser: Browser) -> None:
    browser.resize(width)
    faults = []
    for page in PAGES:
        browser.open(f"{SITE.as_uri()}/{page}")
        faults += browser.value(SMALL)
    assert faults == []


def test_long_cells_of_tables_are_wide_enough_to_read_on_a_phone(browser: Browser) -> None:
    browser.resize(390)
    long = "[...document.querySelectorAll('td')].filter((cell) => cell.innerText.length > 80)"
    faults = []
    for page in PAGES:
        browser.open(f"{SITE.as_uri()}/{page}")
        if count := browser.value(f"{long}.filter((cell) => cell.offsetWidth < 150).length"):
            faults.append((page, count))
    assert faults == []
