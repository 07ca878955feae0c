"""A real browser for tests: Debian's Chromium without a window, spoken to over the DevTools protocol through two pipes.

Every host name is blocked; what a page asks for, says on its console or raises is kept.
"""

from __future__ import annotations

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
from pathlib import Path
from typing import Any

DEADLINE = 60.0  # seconds: a browser starts slowly on a busy machine

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)


def why_not() -> str | None:
    """Why there is no browser here; None where there is one."""
    return None if shutil.which("chromium") else "needs Chromium: apt-get install --no-install-recommends chromium"


class Browser:
    """One page of a running browser."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._rest = to, back, b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self._loaded = False
        self.requests: list[str] = []
        """addresses that were asked for since the page was opened"""
        self.complaints: list[str] = []
        """since then: what the console, uncaught errors, and the log (with what a Content-Security-Policy forbade) said"""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, width: int = 1400, height: int = 1000) -> None:
        """Loads a file and waits until all that is in it has run."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._loaded = False
        self.requests.clear(), self.complaints.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            self._keep(self._read())
        self.run("new Promise(requestAnimationFrame)")

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Moves the mouse from one point of the window to another, the left button held."""
        steps = (
            ("mouseMoved", start, 0),
            ("mousePressed", start, 1),
            ("mouseMoved", end, 1),
            ("mouseReleased", end, 0),
        )
        for kind, (x, y), held in steps:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=held, clickCount=1)
            self.run("new Promise(requestAnimationFrame)")  # a page follows the mouse a frame later

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """The page, or what the window shows of it, as a PNG file."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"clip": {**size, "scale": 1}} if whole else {}
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol and its result; events that come meanwhile are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._keep(answer)

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + DEADLINE
        while b"\0" not in self._rest:
            assert select.select([self._back], [], [], until - time.monotonic())[0], "the browser does not answer"
            data = os.read(self._back, 1 << 20)
            assert data, "the browser has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _keep(self, event: dict[str, Any]) -> None:
        about = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(about["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(json.dumps(about["args"]))
            case "Log.entryAdded":
                self.complaints.append(about["entry"]["text"])


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A running browser that keeps its profile in ``folder``."""
    (theirs_in, to), (back, theirs_out) = os.pipe(), os.pipe()

    # a shell puts the pipes at descriptors 3 and 4, where the browser looks for them
    joined = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", "chromium", *ARGUMENTS]
    process = subprocess.Popen(
        [*joined, f"--user-data-dir={folder / 'profile'}"],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in), os.close(theirs_out)
    try:
        yield Browser(to, back)
    finally:
        process.kill()
        process.wait()
        os.close(to), os.close(back)
