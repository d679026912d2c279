"""The playground in a real browser (headless Chromium), served by a real process with the scripted engine."""

import time
from collections.abc import Callable

import pytest

pytest.importorskip("selenium", reason="selenium is not installed: `make setup` installs it")

from browsing import Page, Process, until  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

WORDS = "A heat pump moves heat instead of making it."
KEY = "a-key-of-the-playground-test"
Serve = Callable[..., Process]


def test_words_arrive_one_by_one_and_figures_follow(page: Page, serve: Serve) -> None:
    page.open(serve({"text": WORDS, "first_s": 0.2, "token_s": 0.2}).url)
    page.wait(lambda: page["badge"].text == "ready", "the page says ready")
    assert "scripted" in page["model"].text
    page.ask("What does a heat pump do?")
    page.wait(lambda: 0 < len(page.turns()[0]) < len(WORDS), "a part of the answer is there")
    assert WORDS.startswith(page.turns()[0].rstrip())
    assert page["stop"].is_displayed() and page["talk"].get_attribute("aria-busy") == "true"
    page.wait(page.idle, "the answer is over")
    assert page.turns("user") == ["What does a heat pump do?"] and page.turns() == [WORDS]
    assert page["talk"].get_attribute("aria-busy") == "false"
    for figure in ("first token", "tokens/s", "9 tokens", "prompt"):
        assert figure in page.foot()


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_ends_the_answer_and_frees_its_slot(how: str, page: Page, serve: Serve) -> None:
    process = serve({"text": WORDS, "loop": True, "token_s": 0.1})
    page.open(process.url)
    page.ask("Go on for ever.")
    page.wait(lambda: len(page.turns()[0]) > 10, "words arrive")
    assert (process.health() or {})["running"] == 1
    if how == "button":
        page["stop"].click()
    else:
        page["question"].send_keys(Keys.ESCAPE)
    page.wait(page.idle, "the page is ready for the next question")
    until(lambda: (process.health() or {})["running"] == 0, "the slot is free")
    stood = page.turns()[0]
    assert stood.startswith("A heat pump") and "stopped" in page.foot()
    assert page.driver.switch_to.active_element == page["question"]


def test_a_reload_while_loading_shows_the_phases_again_and_a_question_waits(page: Page, serve: Serve) -> None:
    page.open(serve({"text": WORDS, "load_s": 6}).url)
    page.wait(lambda: "loading" in page["badge"].text, "the page says loading")
    page.driver.refresh()
    page.wait(lambda: "loading" in page["badge"].text, "the page says loading again")
    now = "return document.querySelector('#phases [aria-current=step]')?.textContent ?? ''"
    page.wait(lambda: page.driver.execute_script(now), "a phase is marked as the current one")
    assert "so far" in page["start-text"].text
    page.ask("Asked early.")
    page.wait(lambda: page["badge"].text == "ready", "the page says ready")
    page.wait(lambda: page.turns() == [WORDS], "the early question is answered")
    assert not page["start"].is_displayed()


def test_the_settings_reach_the_model_and_the_conversation_goes_along(page: Page, serve: Serve) -> None:
    page.open(serve({"text": WORDS}).url)
    page.record()
    page["system"].clear()
    page["system"].send_keys("Be brief.")
    page["temperature"].send_keys(Keys.HOME)
    page["max-tokens"].clear()
    page["max-tokens"].send_keys("3")
    page.ask("One")
    page.wait(lambda: page.turns() == ["A heat pump"], "three words are there")
    page.wait(page.idle, "the answer is over")
    assert "cut at the limit" in page.foot()
    page.ask("Two")
    page.wait(lambda: len(page.turns()) == 2 and page.idle(), "the second answer is over")
    first, second = page.sent()
    assert (first["temperature"], first["max_tokens"], first["stream"]) == (0, 3, True)
    assert [(m["role"], m["content"]) for m in second["messages"]] == [
        ("system", "Be brief."),
        ("user", "One"),
        ("assistant", "A heat pump"),
        ("user", "Two"),
    ]
    page["fresh"].click()
    assert page.turns() == [] and page["empty"].is_displayed()


def test_a_missing_key_is_asked_for_and_forgotten_on_reload(page: Page, serve: Serve) -> None:
    page.open(serve({"text": WORDS}, CHATBOT_API_KEYS=KEY).url)
    page.wait(lambda: "needs an API key" in page["model"].text, "the page says that it needs a key")
    page.ask("Let me in.")
    page.wait(lambda: page.turns("error"), "the refusal is shown")
    assert "API key" in page.turns("error")[0] and page.turns("user") == ["Let me in."]
    page["key"].send_keys(KEY, Keys.TAB)
    page.driver.find_element(By.CSS_SELECTOR, ".turn.error button").click()
    page.wait(lambda: page.turns() == [WORDS] and page.idle(), "the question is answered with the key")
    assert page.turns("user") == ["Let me in."]
    kept = page.driver.execute_script("return [localStorage.length, sessionStorage.length, document.cookie]")
    assert kept == [0, 0, ""]
    page.driver.refresh()
    assert page["key"].get_attribute("value") == ""


def test_an_error_of_the_service_is_shown_and_the_question_can_be_asked_again(page: Page, serve: Serve) -> None:
    first = serve({"text": WORDS})
    page.open(first.url)
    page.wait(lambda: page["badge"].text == "ready", "the page says ready")
    first.kill()
    page.ask("Anybody there?")
    page.wait(lambda: page.turns("error"), "the failure is shown")
    assert "cannot be reached" in page.turns("error")[0]
    page.wait(lambda: page["badge"].text == "unreachable", "the page says that nobody answers")
    serve({"text": WORDS}, port=first.port)
    page.wait(lambda: page["badge"].text == "ready", "the page finds the service again")
    page.driver.find_element(By.CSS_SELECTOR, ".turn.error button").click()
    page.wait(lambda: page.turns() == [WORDS], "the question is answered")


def test_markup_in_an_answer_is_text_and_code_is_set_apart(page: Page, serve: Serve) -> None:
    text = "<img src=x onerror=alert(1)> is **bold** and `code`\n\n```python\nprint(1)\n```\n\nEnd."
    page.open(serve({"text": text}).url)
    page.ask("Show me.")
    page.wait(lambda: page.turns() and page.idle(), "the answer is over")
    count = "return ['img', 'strong', 'code', 'pre'].map(t => document.querySelectorAll('.turn ' + t).length)"
    assert page.driver.execute_script(count) == [0, 1, 1, 1]
    assert page.turns()[0].startswith("<img src=x") and page.turns()[0].endswith("End.")


def test_the_keyboard_alone_reaches_everything_and_every_control_has_a_name(page: Page, serve: Serve) -> None:
    page.open(serve().url)
    page.wait(lambda: page["badge"].text == "ready", "the page says ready")
    reached: dict[str, str] = {}
    for _ in range(30):
        element = page.driver.switch_to.active_element
        if element.tag_name != "body":
            reached[element.get_attribute("id") or element.text] = element.accessible_name
        element.send_keys(Keys.TAB)
    wanted = {"theme", "talk", "question", "send", "system", "temperature", "max-tokens", "key", "documents", "fresh"}
    assert wanted <= reached.keys()
    assert all(reached.values()), f"without a name: {[name for name, found in reached.items() if not found]}"


def test_colours_follow_the_system_and_the_button(page: Page, serve: Serve) -> None:
    url = serve().url
    background = "return getComputedStyle(document.body).backgroundColor"
    seen = {}
    for theme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": theme}]
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        page.open(url)
        seen[theme] = page.driver.execute_script(background)
    page["theme"].click()
    assert page.driver.execute_script(background) == seen["light"] != seen["dark"]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_page_asks_nobody_but_the_service_and_rests_once_it_is_ready(page: Page, serve: Serve) -> None:
    process = serve({"text": WORDS})
    page.open(process.url)
    page.wait(lambda: "scripted" in page["model"].text, "the model's name is there")
    page.ask("Hello")
    page.wait(lambda: page.turns() and page.idle(), "the answer is over")
    time.sleep(2.5)  # two of the page's polls, had it gone on polling
    names = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
    fetched: list[str] = page.driver.execute_script(names)
    assert {name.removeprefix(process.url) for name in fetched} <= {"/health", "/v1/models", "/chat"}
    assert sum(name.endswith("/health") for name in fetched) == 1


def test_citations_lead_to_the_marked_passage_and_false_quotations_stand_out(page: Page, serve: Serve) -> None:
    passage = "the moisture of the air freezes on the fins as frost"
    text = f"\U0001f642 **Cold:** {passage} [1]. It \u201cmelts by itself\u201d [7]."
    page.open(serve({"text": text}).url)
    page.record()
    document = f"\U0001f642 Outside, {passage}, and stays."
    typed = f"# Ice\n{document}\n---\nOther words"  # by script: the driver cannot type an emoji
    page.driver.execute_script("arguments[0].value = arguments[1]", page["documents"], typed)
    page.ask("Why?")
    page.wait(lambda: page.turns() and page.idle(), "the answer is over")
    sent = page.sent()[0]
    assert sent["documents"] == [{"title": "Ice", "text": document}, {"text": "Other words"}]
    shown = "return [...document.querySelectorAll(arguments[0])].map(e => e.firstChild.textContent)"
    assert page.driver.execute_script(shown, ".turn .verbatim") == [passage]
    assert page.driver.execute_script(shown, ".turn .cite") == ["[1]"]
    assert page.driver.execute_script(shown, ".turn .unsupported") == ["melts by itself", "[7]"]
    colour = "return getComputedStyle(document.querySelector(arguments[0])).color"
    assert page.driver.execute_script(colour, ".unsupported") != page.driver.execute_script(colour, ".verbatim")
    source = page.driver.find_element(By.CSS_SELECTOR, ".turn .source p")
    assert not source.is_displayed()
    page.driver.find_element(By.CSS_SELECTOR, ".turn .cite").click()
    assert source.is_displayed()
    focused = page.driver.switch_to.active_element
    assert focused.tag_name == "mark" and focused.text == passage
    assert "word for word" in page.foot()
