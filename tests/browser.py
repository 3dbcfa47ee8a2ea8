"""A headless Chromium, spoken to through its own pipe: the DevTools protocol, JSON objects with a NUL behind each."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell", "chrome-headless-shell")


def program() -> str | None:
    """The Chromium that CHROMIUM names, else the first of the usual names in PATH; None where there is none."""
    named = os.environ.get("CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of one browser. ``events`` are all that it has told, in their order."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers = commands, answers
        self.buffer = b""
        self.events: list[dict[str, Any]] = []
        self.number = 0
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """Send one command and give its answer."""
        self.number += 1
        sent = {"id": self.number, "method": method, "params": values}
        if self.session:
            sent["sessionId"] = self.session
        os.write(self.commands, json.dumps(sent).encode() + b"\0")
        while True:
            told = self._next(30)
            if told.get("id") == self.number:
                assert "error" not in told, f"{method}: {told['error']}"
                return dict(told["result"])
            self.events.append(told)

    def open(self, page: Path) -> None:
        """Load a file, and wait until all of it is there. What was told before is forgotten."""
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(one.get("method") == "Page.loadEventFired" for one in self.events):
            self.events.append(self._next(30))

    def ask(self, expression: str) -> Any:
        """What JavaScript says in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def size(self, width: int, height: int = 800, *, mobile: bool = False) -> None:
        """Be a screen of this size, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def scheme(self, name: str, media: str = "") -> None:
        """Prefer ``light`` or ``dark``; ``media`` is ``print`` for paper."""
        self.call("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": name}])

    def press(self, key: str, code: int) -> None:
        """One key, pressed and let go."""
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, file: Path) -> None:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def paper(self, file: Path) -> None:
        """The page as it would be printed."""
        file.write_bytes(
            base64.b64decode(self.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)["data"])
        )

    def _next(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], max(end - time.monotonic(), 0))
            assert ready, "the browser says nothing"
            read = os.read(self.answers, 1 << 16)
            assert read, "the browser has gone"
            self.buffer += read
        told, _, self.buffer = self.buffer.partition(b"\0")
        return dict(json.loads(told))


@contextmanager
def opened(path: str) -> Iterator[Browser]:
    """A browser of its own, with an empty profile; it is gone afterwards."""
    folder = tempfile.mkdtemp(prefix="mcp-browser-")
    arguments = [
        path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
        "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank",
    ]  # fmt: skip
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    quiet = os.open(os.devnull, os.O_RDWR)
    # It reads from 3 and writes to 4; a number that is free of both keeps one pipe from falling on the other.
    kept = [os.dup2(one, place) for one, place in ((theirs_in, 60), (theirs_out, 61))]
    actions = [
        (os.POSIX_SPAWN_DUP2, kept[0], 3), (os.POSIX_SPAWN_DUP2, kept[1], 4),
        *((os.POSIX_SPAWN_DUP2, quiet, place) for place in (0, 1, 2)),
    ]  # fmt: skip
    pid = os.posix_spawn(path, arguments, {**os.environ, "HOME": folder}, file_actions=actions, setpgroup=0)
    for one in (theirs_in, theirs_out, quiet, *kept):
        os.close(one)
    try:
        yield Browser(commands, answers)
    finally:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(commands)
        os.close(answers)
        shutil.rmtree(folder, ignore_errors=True)
