"""Fixtures of the playground's tests: services, one browser, its page. Only they need Selenium and Chromium."""

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from browsing import Page, Process

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")


@pytest.fixture
def serve() -> "Iterator[Callable[..., Process]]":
    from browsing import Process

    started: list[Process] = []

    def start(script: dict[str, Any] | None = None, **more: Any) -> "Process":
        started.append(Process(script or {}, **more))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    if not (BROWSER and DRIVER):
        pytest.skip("no Chromium with chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,800",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options, Service(DRIVER))
    yield made
    made.quit()


@pytest.fixture
def page(driver: Any) -> "Iterator[Page]":
    from browsing import Page

    shown = Page(driver)
    yield shown
    assert not shown.complaints()
    driver.get("about:blank")
