"""What of an answer stands in its documents: exact for every text, and quick."""

from collections import Counter
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matchers import Automaton, material, milliseconds
from openai.types.chat import ChatCompletionMessage

from chatbot_llm.rag import citations
from chatbot_llm.rag.citations import Sources, check
from chatbot_llm.rag.documents import Document

FROST = "Below about 5 \u00b0C outside, the moisture of the air freezes on the fins as frost."
CHINESE = (
    "\u5728\u5236\u70ed\u8fd0\u884c\u65f6\uff0c"
    "\u7a7a\u6c14\u4e2d\u7684\u6c34\u5206\u4f1a\u5728\u7fc5\u7247\u4e0a\u7ed3\u971c\u3002"
)


def found(answer: str, *texts: str, title: str = "") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    documents = [Document(number, f"id-{number}", title, text) for number, text in enumerate(texts, 1)]
    return check(answer, documents, Sources(texts, [title] if title else []))


def marked(answer: str, *texts: str) -> list[tuple[str, int]]:
    """The sentence and the document of every mark."""
    annotations, _ = found(answer, *(texts or ("a", "b", "c")))
    cited = [(each["url_citation"], each["document"]) for each in annotations if each["kind"] == "mark"]
    return [(answer[place["start_index"] : place["end_index"]], document["number"]) for place, document in cited]


def verbatim(answer: str, *texts: str) -> list[str]:
    annotations, _ = found(answer, *texts)
    spans = []
    for each in annotations:
        if each["kind"] == "verbatim":
            place, source = each["url_citation"], each["document"]
            quoted = answer[place["start_index"] : place["end_index"]]
            stands = texts[source["number"] - 1][source["start_index"] : source["end_index"]]
            assert quoted.split() == stands.split()
            spans.append(quoted)
    return spans


def unsupported(answer: str, *texts: str, title: str = "") -> list[str]:
    _, grounding = found(answer, *texts, title=title)
    return [answer[each["start_index"] : each["end_index"]] for each in grounding["unsupported_quotes"]]


# marks


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("It ices up [1].", [("It ices up [1]", 1)]),
        ("It ices up. It thaws [2].", [("It thaws [2]", 2)]),
        ("It ices up.[1] It thaws. [2]", [("It ices up.[1]", 1), ("It thaws. [2]", 2)]),
        ("It ices up [1] and thaws [2].", [("It ices up [1]", 1), ("and thaws [2]", 2)]),
        ("It ices up [1][3].", [("It ices up [1]", 1), ("It ices up [1][3]", 3)]),
        ("It ices up [1, 2].", [("It ices up [1, 2]", 1), ("It ices up [1, 2]", 2)]),
        ("At 2.5 bar, e.g. in winter, it ices up [1].", [("At 2.5 bar, e.g. in winter, it ices up [1]", 1)]),
        ("First\n\n- it ices up [1]\n- it thaws [2]", [("- it ices up [1]", 1), ("- it thaws [2]", 2)]),
        ("[1] It ices up.", [("[1]", 1)]),
        ("\u4f1a\u7ed3\u971c\u3002\u4f1a\u5316\u971c\u30102\u3011\u3002", [("\u4f1a\u5316\u971c\u30102\u3011", 2)]),
        ("\U0001f642\U0001f642 hot! Icy \U0001f642 [1]", [("Icy \U0001f642 [1]", 1)]),
        ("Take `a[1]` and [1](https://example.org).", []),
        ("```\na[1] = 2\n```", []),
    ],
)
def test_a_mark_cites_the_sentence_that_it_closes(answer: str, wanted: list[tuple[str, int]]) -> None:
    assert marked(answer) == wanted


def test_a_mark_of_no_document_is_told() -> None:
    _, grounding = found("It ices up [1][7].", FROST)
    assert grounding["unknown_citations"] == [{"number": 7, "start_index": 14, "end_index": 17}]


def test_annotations_have_the_form_that_openais_clients_take() -> None:
    annotations, _ = found(f"{FROST} [1]", FROST)
    message = {"role": "assistant", "content": FROST, "annotations": annotations}
    kinds = [each["kind"] for each in annotations]
    cited = ChatCompletionMessage.model_validate(message, strict=True).annotations
    assert kinds == ["verbatim", "mark"] and cited is not None
    assert cited[0].url_citation.url == cited[0].url_citation.title == "id-1"


# verbatim spans


def test_eight_words_are_a_span_and_seven_are_none() -> None:
    eight = "the moisture of the air freezes on the"
    assert verbatim(f"Here {eight} pipe.", FROST) == [eight]
    assert verbatim(f"Here {eight.removesuffix(' the')} a pipe.", FROST) == []


def test_a_line_break_hides_nothing_and_another_sign_does() -> None:
    quoted = "the moisture of\nthe  air freezes on the fins"
    assert verbatim(f"Well: {quoted}!", FROST.replace("air ", "air\n ")) == [quoted]
    assert verbatim("Below about 5 \u00b0C outside; the moisture of the air", FROST) == []


def test_a_chinese_character_is_a_word() -> None:
    quoted = "\u7a7a\u6c14\u4e2d\u7684\u6c34\u5206\u4f1a\u5728\u7fc5\u7247\u4e0a\u7ed3\u971c"
    assert verbatim(f"\u56e0\u4e3a{quoted}\u4e86", CHINESE) == [quoted]
    assert verbatim(f"\u56e0\u4e3a{quoted[:7]}\u4e86", CHINESE) == []
    _, grounding = found(f"\u56e0\u4e3a{quoted}\u4e86", CHINESE)
    assert grounding["verbatim_share"] == round(13 / 16, 4)


def test_a_span_ends_at_a_mark_and_the_mark_is_no_word() -> None:
    annotations, grounding = found(f"{FROST} [1]", FROST)
    assert annotations[0]["url_citation"]["end_index"] == len(FROST) - 1
    assert grounding["verbatim_share"] == 1


def test_of_two_documents_the_first_is_cited_and_the_longer_find_wins() -> None:
    annotations, _ = found(FROST, FROST[:60], FROST, FROST)
    assert [each["document"]["number"] for each in annotations] == [2]


WORDS = [
    "heat",
    "pump",
    "a",
    "can't",
    "2.5",
    "x-y",
    "e\u0301",
    "\u70ed",
    "\u6cf5",
    "\U0001f642",
    "\u0646",
    "\u0e19\u0e49",
]
GAPS = [" ", "  ", "\n", ", ", ". ", "\uff0c", "\u2028", ""]
prose = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), max_size=40).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)


def by_hand(answer: str, texts: list[str]) -> set[tuple[int, int]]:
    """Every maximal span, found by looking everywhere: word numbers, the end exclusive."""

    def pieces(text: str) -> dict[tuple[int, int], str]:
        flat = citations._flat(text)
        words = list(zip(*citations._words(flat), strict=True))
        pairs = product(range(len(words)), range(len(words) + 1))
        return {(a, b): flat[words[a][0] : words[b - 1][1]] for a, b in pairs if b - a >= citations.WORDS}

    known = {piece for text in texts for piece in pieces(text).values()}
    there = {place for place, piece in pieces(answer).items() if piece in known}
    return {(a, b) for a, b in there if not any((c, d) != (a, b) and c <= a and b <= d for c, d in there)}


@settings(max_examples=300, deadline=None)
@given(st.lists(prose, min_size=1, max_size=3), prose, st.data())
def test_every_span_is_found_and_exact_in_both_texts(texts: list[str], answer: str, data: st.DataObject) -> None:
    for text in texts:
        start = data.draw(st.integers(0, len(text)))
        answer += text[start : start + 60] + data.draw(prose)
    sources = Sources(texts)
    assume(max(Counter(sources._windows).values(), default=0) < citations.PLACES)
    spans, _ = sources.find(answer)
    words = list(zip(*citations._words(answer), strict=True))
    for span in spans:
        assert answer[span.start : span.end].split() == texts[span.document][span.at : span.until].split()
    numbers = {start: number for number, (start, _) in enumerate(words)}
    ends = {end: number + 1 for number, (_, end) in enumerate(words)}
    assert {(numbers[span.start], ends[span.end]) for span in spans} == by_hand(answer, texts)


@settings(max_examples=300, deadline=None)
@given(st.text(), st.text(), st.text())
def test_offsets_are_exact_for_every_text(before: str, text: str, after: str) -> None:
    answer = f"{before} {text} {after} [1] \u201c{text}\u201d [2]"
    annotations, grounding = found(answer, text)
    for each in annotations:
        place = each["url_citation"]
        quoted = answer[place["start_index"] : place["end_index"]]
        assert 0 <= place["start_index"] < place["end_index"] <= len(answer)
        if each["kind"] == "verbatim":
            assert quoted.split() == text[each["document"]["start_index"] : each["document"]["end_index"]].split()
        else:
            assert quoted.endswith(("]", "\uff3d", "\u3011"))
    for each in grounding["unknown_citations"]:
        assert str(each["number"]) in answer[each["start_index"] : each["end_index"]] or not answer.isascii()
    assert 0 <= grounding["verbatim_share"] <= 1


@pytest.mark.long
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_an_automaton_finds_the_same(seed: int) -> None:
    texts, answer = material(400, 120, 3, seed)
    plain = citations._flat(citations.without(answer, citations.marks(answer)))
    assert [(span.start, span.end) for span in Sources(texts).find(plain)[0]] == Automaton(texts).spans(plain)


def test_documents_that_repeat_themselves_cost_no_more() -> None:
    texts = ["ice " * 100_000, "ice and snow " * 30_000]
    sources = Sources(texts)
    answer = "ice " * 3_000 + "ice and snow " * 300
    assert milliseconds(lambda: sources.find(answer), 1) < 2_000
    assert sources.find(answer)[1] == 1, "no word is missed"


# quotations


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ('It "freezes on the fins".', []),
        ('It "Freezes on the fins."', []),
        ("It \u201cfreezes on\nthe fins\u201d.", []),
        ('It "melts on the fins".', ["melts on the fins"]),
        ("It \u201cfreezes \u2026 as frost\u201d and \u201cfreezes ... as snow\u201d.", ["freezes ... as snow"]),
        ('It "freezes on the fin".', ["freezes on the fin"]),
        ('A 5" pipe and a 3" pipe.', []),
        ("\u00abthe air\u00bb, \u201eof the wind\u201c", ["of the wind"]),
        ('`"code"` and {"key": 1}', ["key"]),
        ('Look into "Why units ice up".', []),
        ('It "freezes on [1] the fins".', []),
    ],
)
def test_a_quotation_that_stands_nowhere_is_told(answer: str, wanted: list[str]) -> None:
    assert unsupported(answer, FROST, title="Why units ice up") == wanted


def test_a_chinese_quotation_may_begin_anywhere() -> None:
    assert unsupported(
        '\u624b\u518c\u8bf4\u201c\u4f1a\u5728\u7fc5\u7247\u4e0a\u201d\u548c"\u4f1a\u5316\u4e86"\u3002', CHINESE
    ) == ["\u4f1a\u5316\u4e86"]
