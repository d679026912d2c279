"""The playground page as text: what it may not contain, and what stands in its headers. No browser, no process."""

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from chatbot_llm.engine.base import Phase
from chatbot_llm.routes import playground
from in_process import Client, Make

PAGE = playground.PAGE.read_text(encoding="utf-8")
#: WCAG 2.1, 1.4.3 and 1.4.11: text on its background; borders of controls.
TEXT_CONTRAST, EDGE_CONTRAST = 4.5, 3.0


Loading = Callable[..., Client]


@pytest.fixture
def client(make_app: Make) -> Loading:
    """Make clients of a service that has just begun to load, and will not be done."""
    return lambda **settings: make_app({"load_s": 60}, wait=False, **settings).test_client()


def test_the_page_is_shown_before_the_engine_is_ready_and_without_a_key(client: Loading) -> None:
    answer = client(api_keys="0123456789abcdef").get("/")
    assert answer.status_code == 200
    assert answer.content_type == "text/html; charset=utf-8"
    assert answer.text == PAGE


def test_the_playground_can_be_switched_off(client: Loading) -> None:
    answer = client(playground=False).get("/")
    assert answer.status_code == 404
    assert answer.json is not None and answer.json["error"]["type"] == "not_found_error"


def test_the_policy_allows_this_page_and_nothing_else(client: Loading) -> None:
    policy = client().get("/").headers["Content-Security-Policy"]
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["connect-src"] == "'self'"
    assert directives["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    for kind in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[\w+/]{43}='", directives[kind]), directives[kind]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags() -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(PAGE)
    return parser.found


def test_nothing_in_the_page_needs_a_laxer_policy_or_another_host() -> None:
    for tag, attributes in tags():
        inline = [name for name in attributes if name.startswith("on") or name == "style"]
        assert not inline, f"<{tag}> has {inline}"
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), f"<{tag} {name}> leads elsewhere"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|url\(|@import", PAGE)
    assert re.findall(r"https?://[^\s'\"]+", PAGE) == ["http://www.w3.org/2000/svg"]


def test_every_control_has_a_name_and_every_name_a_control() -> None:
    found = tags()
    ids = {attributes["id"] for _, attributes in found if "id" in attributes}
    labelled = {attributes["for"] for tag, attributes in found if tag == "label"}
    controls = {attributes["id"] for tag, attributes in found if tag in ("input", "textarea")}
    assert controls == labelled <= ids
    used = set(re.findall(r'\$\("([\w-]+)"\)', PAGE))
    assert used <= ids


def test_the_phase_bar_knows_every_phase_of_a_start() -> None:
    listed = re.search(r"const PHASES = \[(.*?)\]", PAGE)
    assert listed and re.findall(r'"(\w+)"', listed[1]) == [phase.value for phase in Phase]


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("selector", [":root {", ':root[data-theme="dark"] {'])
def test_colours_can_be_told_apart_in_both_themes(selector: str) -> None:
    block = PAGE.split(selector, 1)[1].split("}", 1)[0]
    colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    text = [("ink", "bg"), ("ink", "panel"), ("ink", "mine"), ("ink", "code"), ("dim", "bg"), ("dim", "panel")]
    text += [
        ("dim", "mine"),
        ("on-accent", "accent"),
        ("bad", "bad-bg"),
        ("dim", "bad-bg"),
        ("bad", "panel"),
        ("accent", "panel"),
        ("ink", "hit"),
    ]
    for one, other in text:
        assert contrast(colour[one], colour[other]) >= TEXT_CONTRAST, f"{one} on {other}"
    for one, other in (("edge", "panel"), ("edge", "bg"), ("accent", "bg"), ("accent", "panel")):
        assert contrast(colour[one], colour[other]) >= EDGE_CONTRAST, f"{one} on {other}"
