"""A service with the scripted engine, and the page as a person sees it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

ROOT = Path(__file__).resolve().parents[2]
#: Far more than anything here takes; only a broken page waits this long, seconds.
PATIENCE_S = 30


class Process:
    """One service with the scripted engine, as `python -m chatbot_llm` starts it."""

    def __init__(self, script: dict[str, Any], port: int = 0, **settings: str) -> None:
        if not port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        env = {name: value for name, value in os.environ.items() if not name.startswith("CHATBOT_")}
        env |= {"PYTHONPATH": str(ROOT / "code"), "CHATBOT_ENGINE": "scripted", "CHATBOT_SCRIPT": json.dumps(script)}
        command = [sys.executable, "-m", "chatbot_llm", "--host", "127.0.0.1", "--port", str(port)]
        self._process = subprocess.Popen(
            command, env=env | settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        until(lambda: self.health() is not None, "the service listens")

    def health(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = requests.get(f"{self.url}/health", timeout=5).json()
            return found
        except requests.RequestException:
            return None

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def until(holds: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"it took more than {PATIENCE_S} s until {what}"
        time.sleep(0.05)


class Page:
    """The page as a person sees it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)

    def __getitem__(self, name: str) -> WebElement:
        found: WebElement = self.driver.find_element(By.ID, name)
        return found

    def wait(self, holds: Callable[[], Any], what: str) -> None:
        waiting = WebDriverWait(self.driver, PATIENCE_S, 0.05, ignored_exceptions=[StaleElementReferenceException])
        waiting.until(lambda _: holds(), what)

    def ask(self, question: str) -> None:
        self["question"].send_keys(question, Keys.ENTER)

    def turns(self, kind: str = "assistant") -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        found: list[str] = self.driver.execute_script(script, f".turn.{kind} .text")
        return found

    def foot(self) -> str:
        script = "return [...document.querySelectorAll('.turn .foot')].pop()?.textContent ?? ''"
        return str(self.driver.execute_script(script))

    def idle(self) -> bool:
        return self["send"].is_displayed() and not self["stop"].is_displayed()

    def record(self) -> None:
        """Keep every body the page sends, for `sent`."""
        self.driver.execute_script(
            "window.sent = []; const real = window.fetch;"
            "window.fetch = (url, o = {}) => { if (o.body) window.sent.push(JSON.parse(o.body)); return real(url, o); }"
        )

    def sent(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.driver.execute_script("return window.sent")
        return found

    def complaints(self) -> list[str]:
        """What the browser's console says about the policy or about scripts."""
        lines = [str(line["message"]) for line in self.driver.get_log("browser")]
        return [line for line in lines if "Content Security" in line or "Error" in line]
