"""A headless Chromium, driven through chromedriver's protocol (W3C WebDriver): JSON over HTTP, no client library."""

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

#: A forge's machines have a browser: if theirs is gone, tests fail there, and are not skipped where nobody looks.
ON_FORGE = "GITHUB_ACTIONS" in os.environ
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    (CHROMIUM is None or DRIVER is None) and not ON_FORGE,
    reason="no chromium and chromedriver on this machine (apt-get install chromium chromium-driver)",
)

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]

# Keys of WebDriver, private-use characters by definition.
KEYS = {
    "Shift": "\ue008",
    "Escape": "\ue00c",
    "End": "\ue010",
    "Home": "\ue011",
    "ArrowLeft": "\ue012",
    "ArrowUp": "\ue013",
    "ArrowRight": "\ue014",
    "ArrowDown": "\ue015",
    "Tab": "\ue004",
}


class Browser:
    """One browser window; close it."""

    def __init__(self, profile: Path, size: tuple[int, int] = (1360, 1000)) -> None:
        assert CHROMIUM and DRIVER, "no chromium and chromedriver on this machine of the forge"
        self._driver = subprocess.Popen(
            [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._address = ""
        try:
            for line in self._driver.stdout:
                if found := re.search(r"started successfully on port (\d+)", line):
                    self._address = f"http://127.0.0.1:{found[1]}/session"
                    break
            flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
            options = {
                "browserName": "chrome",
                "goog:chromeOptions": {"binary": CHROMIUM, "args": flags},
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            session = self._post("", {"capabilities": {"alwaysMatch": options}})
            self._address += f"/{session['sessionId']}"
        except BaseException:
            self._stop_driver()
            raise

    def close(self) -> None:
        """Ends browser and driver."""
        try:
            self._send("DELETE", "", None)
        finally:
            self._stop_driver()

    def _stop_driver(self) -> None:
        # Asked to end, and not killed: it takes a browser that never answered with it.
        self._driver.terminate()
        try:
            self._driver.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()

    def open(self, page: Path) -> None:
        """Loads a file and waits until it is drawn."""
        self._post("/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments):
        """The value of the JavaScript function body `script`."""
        return self._post("/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, *keys: str) -> None:
        """Real key presses; "Shift+ArrowRight" holds the first while the second is pressed."""
        actions = []
        for combination in keys:
            codes = [KEYS.get(key, key) for key in combination.split("+")]
            actions += [{"type": "keyDown", "value": code} for code in codes]
            actions += [{"type": "keyUp", "value": code} for code in reversed(codes)]
        self._post("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def hover(self, selector: str, click: bool = False) -> None:
        """Moves the pointer to the middle of an element, and clicks there if asked."""
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
        x, y = self.run(
            "const r = document.querySelector(arguments[0]).getClientRects()[0];"
            "return [Math.round(r.left + r.width / 2), Math.round(r.top + r.height / 2)]",
            selector,
        )
        actions = [{"type": "pointerMove", "duration": 0, "x": x, "y": y}]
        if click:
            actions += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self._post("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": actions}]})

    def prefer(self, scheme: str) -> None:
        """Makes "light" or "dark" the system's colour scheme, as far as pages can tell."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self._post("/goog/cdp/execute", command)

    def resize(self, width: int, height: int) -> None:
        """Makes the page's viewport so many CSS pixels large; windows have a least width, which phones go below."""
        params = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": params}
        self._post("/goog/cdp/execute", command)

    def complaints(self) -> list[str]:
        """What the browser's console said since the last call."""
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        """The window as a PNG file."""
        path.write_bytes(base64.b64decode(self._send("GET", "/screenshot", None)))

    def _post(self, path: str, body: dict):
        return self._send("POST", path, body)

    def _send(self, method: str, path: str, body: dict | None):
        request = urllib.request.Request(
            self._address + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None
