"""A real browser for the tests of pages: chromium without a window, driven by its own protocol over two pipes."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
    "--disable-extensions", "--disable-component-update", "--disable-background-networking", "--disable-sync",
    "--hide-scrollbars", "--remote-debugging-pipe", "about:blank",
)  # fmt: skip
# It reads from the third file that it is started with and writes to the fourth.
LAUNCH = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(reads, 3), os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def found() -> str | None:
    """Find a browser; None when there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of one browser. `said` gathers what the page wrote to its console, and what went wrong in it."""

    def __init__(self) -> None:
        self.home = tempfile.mkdtemp()
        (mine, theirs), (their_end, my_end) = os.pipe(), os.pipe()
        ends = (their_end, theirs)
        command = [sys.executable, "-c", LAUNCH, *map(str, ends), str(found()), f"--user-data-dir={self.home}", *FLAGS]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, pass_fds=ends, **quiet)
        os.close(theirs)
        os.close(their_end)
        self.heard, self.told = os.fdopen(mine, "rb"), os.fdopen(my_end, "wb")
        self.number, self.session, self.rest = 0, "", b""
        self.said: list[str] = []
        self.events: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log"):
            self.ask(f"{part}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        self.told.write(json.dumps(message).encode() + b"\0")
        self.told.flush()
        while (answer := self._hear()).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, page: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Open a page from disk on a screen of this size, and wait until it has loaded."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while "Page.loadEventFired" not in self.events:
            self._hear()

    def run(self, script: str) -> Any:
        """Run a piece of script in the page; returns its value."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, as a person would."""
        code = {"ArrowDown": 40, "ArrowUp": 38, "Tab": 9, "Enter": 13}[key]
        written = {"text": "\r"} if key == "Enter" else {}  # without a character a button does not take it for a click
        for kind, more in (("keyDown", written), ("keyUp", {})):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def shoot(self, file: Path) -> None:
        """Take a picture of the whole page."""
        taken = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        """End the browser."""
        self.process.kill()
        self.process.wait()
        for end in (self.heard, self.told):
            end.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def _hear(self) -> dict[str, Any]:
        """Read the next message, and keep what the page said."""
        while b"\0" not in self.rest:
            more = os.read(self.heard.fileno(), 1 << 20)
            assert more, "the browser has ended"
            self.rest += more
        raw, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(raw)
        method, params = message.get("method", ""), message.get("params", {})
        self.events.append(method)
        if method == "Runtime.exceptionThrown":
            self.said.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.said.append(" ".join(str(a.get("value")) for a in params["args"]))
        elif method == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        return message
