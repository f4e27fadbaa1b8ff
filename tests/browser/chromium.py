"""Drives headless Chromium by its DevTools protocol, over a pipe."""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT_S = 120


def browser():
    """The path of the browser; the test is skipped if none is installed."""
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium or Chrome is installed")
    return path


class Page:
    """A page of a browser. console: messages, errors and exceptions; requests: addresses it asked for."""

    def __init__(self, folder, *options):
        self._ids, self._events = itertools.count(1), []
        self._rest = b""
        self.console, self.requests = [], []
        reading, self._write = os.pipe()
        self._read, writing = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reading, writing)]  # not 3 or 4 themselves
        command = [
            browser(),
            *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"),
            *("--ignore-certificate-errors", "--use-fake-device-for-media-stream", "--mute-audio"),
            *("--use-fake-ui-for-media-stream", f"--user-data-dir={folder / 'profile'}", *options),
            "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command,
            close_fds=False,
            preexec_fn=lambda: [os.dup2(end, number) for number, end in enumerate(ends, start=3)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (reading, writing, *ends):
            os.close(end)
        self._session = None
        targets = self.call("Target.getTargets")["targetInfos"]
        (target,) = (each["targetId"] for each in targets if each["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Call a method of the protocol; returns its result."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + TIMEOUT_S
        while True:
            answer = self._next(end)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self, end):
        while b"\0" not in self._rest:
            ready = select.select([self._read], [], [], max(0, end - time.monotonic()))[0]
            assert ready, f"the browser did not answer within {TIMEOUT_S} s: {self.console}"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "the browser ended"
            self._rest += chunk
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method, details):
        if method == "Runtime.exceptionThrown":
            self.console.append(str(details["exceptionDetails"].get("exception", details)))
        elif method == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(each.get("value")) for each in details["args"]))
        elif method == "Log.entryAdded":
            entry = details["entry"]
            if entry["level"] == "error":  # a warning: that headless Chromium has no GPU
                self.console.append(f"{entry['text']} {entry.get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])

    def open(self, url):
        assert not self.call("Page.navigate", url=url).get("errorText")
        self.wait_for("document.readyState === 'complete'")

    def run(self, script):
        """The value of a JavaScript expression, awaited if it is a promise."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait_for(self, script, *, timeout_s=TIMEOUT_S):
        """Wait until an expression is true; returns its value."""
        end = time.monotonic() + timeout_s
        while not (value := self.run(script)):
            assert time.monotonic() < end, (
                f"{script} never became true: {self.text('#status')} {self.console}"
            )
            time.sleep(0.1)
        return value

    def text(self, selector):
        return self.run(f"document.querySelector({selector!r})?.textContent.trim().replace(/\\s+/g, ' ')")

    def choose_file(self, selector, path):
        """Choose a file for an input element."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path.resolve())])

    def resize(self, width, height, *, mobile=False, dark=False):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path):
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        with contextlib.suppress(OSError, AssertionError):
            self._session = None
            self.call("Browser.close")
        for handle in (self._write, self._read):
            os.close(handle)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def opened(folder, *options):
    """A page that is closed at the end; `folder` gets the browser's profile."""
    page = Page(folder, *options)
    try:
        yield page
    finally:
        page.close()
