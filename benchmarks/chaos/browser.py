"""A real browser by its debugging protocol: Chromium without a window, told what a person does, and photographed."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CLICKABLE = "button, a, [role=button], [role=option], [role=menuitem], [role=combobox], [role=tab], label"


@dataclass(frozen=True)
class Page:
    """One tab."""

    socket: ClientConnection
    pictures: Path
    numbers: "count[int]" = field(default_factory=lambda: count(1))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            RuntimeError: the browser says no.
        """
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self.socket.recv(timeout=60))
            if said.get("id") == number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                found: dict[str, Any] = said["result"]
                return found

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", "a fault in the page"))
        return found["result"].get("value")

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=url)

    def text(self) -> str:
        """What a person reads."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Wait until a text is on the page.

        Raises:
            TimeoutError: it is not, with what is there.
        """
        self.wait_until(f"(document.body ? document.body.innerText : '').includes({json.dumps(text)})", text, seconds)

    def wait_until(self, script: str, what: str, seconds: float = 60) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(script):
            if time.monotonic() > deadline:
                self.picture("not-found")
                raise TimeoutError(f"{what!r} is not on the page within {seconds:.0f} s, but: {self.text()[:1500]}")
            time.sleep(0.3)

    def click(self, label: str, which: str = CLICKABLE, seconds: float = 30) -> None:
        """Click, with the mouse, on the last visible thing of that label (a dialogue lies above the rest)."""
        script = f"""(() => {{
            const shown = [...document.querySelectorAll({json.dumps(which)})].filter(e => {{
                const box = e.getBoundingClientRect();
                const said = (e.innerText || e.getAttribute('aria-label') || e.value || '').trim();
                return box.width > 0 && box.height > 0 && said === {json.dumps(label)} && !e.disabled;
            }});
            if (!shown.length) return null;
            const box = shown[shown.length - 1]; box.scrollIntoView({{block: 'center'}});
            const at = box.getBoundingClientRect();
            return [at.x + at.width / 2, at.y + at.height / 2];
        }})()"""
        self.wait_until(f"{script} !== null", f"{label} to click", seconds)
        self.click_at(*self.run(script))

    def click_on(self, selector: str, which: int = 0, seconds: float = 30) -> None:
        """Click on a visible element that a CSS selector finds: the first, or another."""
        script = f"""(() => {{
            const shown = [...document.querySelectorAll({json.dumps(selector)})].filter(e => e.getBoundingClientRect().width > 0);
            if (shown.length <= {which}) return null;
            const one = shown[{which}]; one.scrollIntoView({{block: 'center'}});
            const at = one.getBoundingClientRect();
            return [at.x + at.width / 2, at.y + at.height / 2];
        }})()"""
        self.wait_until(f"{script} !== null", selector, seconds)
        self.click_at(*self.run(script))

    def click_at(self, x: float, y: float) -> None:
        """Press and release the mouse."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        time.sleep(0.5)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)
        time.sleep(0.2)

    def press(self, key: str) -> None:
        """Press and release Enter, ArrowDown or ArrowUp."""
        code = {"Enter": 13, "ArrowUp": 38, "ArrowDown": 40}[key]
        for kind in ("keyDown" if key == "Enter" else "rawKeyDown", "keyUp"):
            more = {"text": "\r"} if kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)
        time.sleep(0.5)

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of the first list that a CSS selector finds, with the keyboard.

        Raises:
            RuntimeError: it cannot be chosen.
        """
        field = f"document.querySelector({json.dumps(selector)})"
        for key in ("ArrowDown", "Enter", "ArrowDown", "Enter", "ArrowUp", "Enter", "ArrowUp", "Enter"):
            if self.run(f"{field}.value") == value:
                return
            self.run(f"{field}.focus()")
            self.press(key)
        raise RuntimeError(f"{value!r} cannot be chosen in {selector}: it is {self.run(f'{field}.value')!r}")

    def picture(self, name: str) -> None:
        """A photograph of the whole window, NAME.png."""
        found = self.call("Page.captureScreenshot", format="png")
        (self.pictures / f"{name}.png").write_bytes(base64.b64decode(found["data"]))


@contextmanager
def browser(folder: Path, width: int = 1400, height: int = 1000) -> Iterator[Page]:
    """A fresh Chromium with one tab; profile and pictures in the folder.

    Raises:
        SystemExit: there is no Chromium.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("no chromium on the path: install Debian's package `chromium`")
    profile, pictures = folder / "browser", folder / "pictures"
    shutil.rmtree(profile, ignore_errors=True)
    for path in (profile, pictures):
        path.mkdir(parents=True, exist_ok=True)
    options = ["--headless=new", "--no-first-run", "--disable-gpu", "--disable-background-networking", "--no-proxy-server"]
    options += [
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
        "--disable-dev-shm-usage",
    ]
    options += ["--no-sandbox"] if os.geteuid() == 0 else []
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen([program, *options, "about:blank"], stdout=log, stderr=log, start_new_session=True)
        try:
            with connect(_address(profile), max_size=None) as socket:
                page = Page(socket, pictures)
                page.call("Page.enable")
                page.call("Emulation.setFocusEmulationEnabled", enabled=True)
                yield page
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)


def _address(profile: Path, seconds: float = 60) -> str:
    """Where the tab listens."""
    import urllib.request

    deadline, file = time.monotonic() + seconds, profile / "DevToolsActivePort"
    while time.monotonic() < deadline:
        if file.exists() and (lines := file.read_text(encoding="utf-8").splitlines()):
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(f"http://127.0.0.1:{lines[0]}/json/list", timeout=10) as answer:
                tabs = [tab for tab in json.loads(answer.read()) if tab["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.2)
    raise TimeoutError(f"Chromium does not listen within {seconds:.0f} s; see {profile.parent / 'browser.log'}")
