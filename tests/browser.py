"""A real headless Chromium, spoken to over its debugging pipe (DevTools protocol): no further library, no port."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--remote-debugging-pipe"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars"),
)


@dataclass
class Page:
    """A page as it was shown: what its console said, what it asked the network for, and what a script may ask of it."""

    browser: "Browser"
    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.browser.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page from top to bottom as a PNG file."""
        shot = self.browser.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


class Browser:
    """Commands to Chromium and events from it, JSON messages that end in a zero byte."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._buffer = to, back, b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer)

    def show(self, url: str, width: int, scheme: str = "light", height: int = 900) -> Page:
        """Open a page in a window `width` pixels wide, for a reader of a light or dark scheme, until it has loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._events.clear()
        page = Page(self)
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next())
        page.ask("new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))")
        for event in self._events:
            match event.get("method"), event.get("params", {}):
                case "Network.requestWillBeSent", params if not params["request"]["url"].startswith("data:"):
                    page.requests.append(params["request"]["url"])
                case "Runtime.consoleAPICalled", params:
                    page.said.append(json.dumps(params["args"]))
                case "Runtime.exceptionThrown", params:
                    page.said.append(json.dumps(params["exceptionDetails"]))
                case "Log.entryAdded", params:
                    page.said.append(json.dumps(params["entry"]))
        return page

    def _next(self, timeout: float = 60) -> dict[str, Any]:
        limit = time.monotonic() + timeout
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._back], [], [], max(0, limit - time.monotonic()))
            assert ready, "Chromium does not answer"
            received = os.read(self._back, 1 << 20)
            assert received, "Chromium has ended"
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """A browser with its profile in a folder of the test's own; it ends with the block."""
    assert CHROMIUM is not None
    (read_commands, to), (back, write_answers) = os.pipe(), os.pipe()
    # Chromium reads its commands from descriptor 3 and answers on 4.
    shell = ["bash", "-c", f'exec "$@" 3<&{read_commands} 4>&{write_answers}', "bash"]
    process = subprocess.Popen(
        [*shell, CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(read_commands, write_answers),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Browser(to, back)
    finally:
        os.close(to)  # the pipe's end is Chromium's
        os.close(back)
        process.wait(30)
