"""Citations, checked by program: what of an answer stands where in its documents. Pure functions; no model is asked.

Offsets count code points, the end is exclusive: `answer[start:end]` in Python, `[...answer].slice(start, end)` in
JavaScript. "Verbatim" is character by character; only runs of white space count as equal whatever they are made of, so
that a document's line breaks do not hide a quotation.

A word is a run of characters that are neither white space nor punctuation; hyphens, apostrophes and the points of
numbers inside it belong to it. Chinese and Japanese write no spaces: there each character counts as a word.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from chatbot_llm.rag.documents import Document

#: Fewest words that make a verbatim span: shorter ones come about by chance.
WORDS = 8
#: How many places with the same eight words are followed at once, so that documents that repeat themselves cost no more
#: than others. Beyond it a long span may be told in pieces; no word of it is missed.
PLACES = 16

#: Han, kana, and what is written among them.
_SPACELESS = (
    "\u3005-\u3007\u3041-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
#: White space, control characters and punctuation: ASCII's, Latin-1's, general, Chinese, full width.
_BREAK = (
    r"\x00-/:-@\[-`{-\xa1\xa7\xab\xb6\xb7\xbb\xbf\u1680\u2000-\u200a\u2010-\u2029\u202f-\u205f\u3000-\u3004\u3008-\u3020"
    r"\u3030\u30fb"
    r"\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
_LETTER = f"[^{_BREAK}{_SPACELESS}]"
_WORD = re.compile(rf"({_LETTER}+(?:(?:['\u2019-]|(?<=\d)[.,](?=\d)){_LETTER}+)*|[{_SPACELESS}])")
_IS_LETTER = re.compile(_LETTER).match
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)
#: [1], [1, 2], and as Chinese keyboards write them; no link of Markdown.
_MARK = re.compile(r"[\[\uff3b\u3010]\s*(\d{1,4}(?:\s*[,;\uff0c\u3001]\s*\d{1,4})*)\s*[\]\uff3d\u3011](?!\()")
#: Ends a sentence if white space follows, or if it is Chinese.
_STOP = re.compile(
    "[{0}][{0}]*+[\"'\u201d\u2019\u00bb)\\]\u300d\u300f\uff09]*+\\s*+".format(".!?\u2026\u3002\uff01\uff1f\n")
)
_CHINESE_STOPS = frozenset("\u3002\uff01\uff1f")
#: What a sentence does not begin with.
_BETWEEN = " \t\n.,;:!?\u3002\uff0c\uff1b\uff1a\uff01\uff1f\u3001"
#: Straight marks open before a character and close behind one; behind a digit they mean inches.
_QUOTE = re.compile(
    '(?<![0-9A-Za-z])"(?=\\S)([^"\n]+)(?<=\\S)"|\u201c([^\u201c\u201d\n]+)\u201d|\u201e([^\u201c-\u201e\n]+)[\u201c\u201d]'
    "|\u00ab([^\u00ab\u00bb\n]+)\u00bb|\u300c([^\u300c\u300d\n]+)\u300d|\u300e([^\u300e\u300f\n]+)\u300f"
)
_OPENING = '"\u201c\u201e\u00ab\u300c\u300e'
_LEFT_OUT = re.compile(r"\[?(?:\.\.\.|\u2026+)\]?")
#: Stands for each character of a mark or of code: neither a word nor white space.
_BLANK = "\x01"


Words = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Span:
    """`answer[start:end]` stands verbatim in the text number `document` (from 0), as `text[at:until]`."""

    start: int
    end: int
    document: int
    at: int
    until: int


@dataclass(frozen=True)
class Mark:
    """`answer[at:end]` is a mark such as [1]; the sentence that it closes begins at `start`."""

    start: int
    at: int
    end: int
    numbers: tuple[int, ...]


class Sources:
    """Texts, and titles that may be quoted, made ready once to be looked up in."""

    def __init__(self, texts: Sequence[str], titles: Sequence[str] = ()) -> None:
        self._texts, self._titles = texts, titles
        flat = [_flat(text) for text in texts]
        # An answer is looked up without line breaks, so nothing of it is found across two texts.
        self._flat = "\n".join(flat)
        self._begins = [0, *accumulate(len(text) + 1 for text in flat[:-1])]
        self._starts, self._ends = _words(self._flat)
        self._exact: dict[int, Words] = {}
        windows = self._windows = _windows(self._flat, self._starts, self._ends)
        self._first = dict(zip(reversed(windows), range(len(windows) - 1, -1, -1), strict=True))
        self._others: dict[str, list[int]] = {}
        if len(self._first) < len(windows):
            for place, window in enumerate(windows):
                if self._first[window] != place and len(others := self._others.setdefault(window, [])) < PLACES - 1:
                    others.append(place)

    def find(self, answer: str) -> tuple[list[Span], float]:
        """Every span of `WORDS` words or more that stands verbatim in a text, and is no part of a longer one.

        In order; of equal finds the first text's counts. And the part of the answer's words inside of them, 0 to 1.
        """
        flat = _flat(answer)
        words = _words(flat)
        runs = self._runs(_windows(flat, *words))
        starts, ends = words if flat == answer or not runs else _words(answer)
        spans: list[Span] = []
        reached = inside = 0
        for first, end, place in sorted(runs, key=lambda run: (run[0], -run[1], run[2])):
            if end > reached:
                inside += end - max(first, reached)
                reached = end
                spans.append(Span(starts[first], ends[end - 1], *self._original(place, end - first)))
        return spans, round(inside / len(starts), 4) if starts else 0.0

    def _runs(self, windows: list[str]) -> list[tuple[int, int, int]]:
        """What runs through an answer and a text alike: first word, end word, and the place of the first among ours."""
        runs = []
        running: dict[int, int] = {}  # by the place of a run's last window: the answer's word it began with
        at = -1
        for at, window in enumerate(windows):
            place = self._first.get(window)
            if place is None and not running:
                continue
            following: dict[int, int] = {}
            for last, first in running.items():
                if place is not None and last + 1 < len(self._windows) and self._windows[last + 1] == window:
                    following[last + 1] = first
                else:
                    runs.append((first, at - 1 + WORDS, last - (at - 1 - first)))
            if place is not None:
                for other in (place, *self._others.get(window, ())):
                    if len(following) >= PLACES:
                        break
                    following.setdefault(other, at)
            running = following
        return runs + [(first, at + WORDS, last - (at - first)) for last, first in running.items()]

    def _original(self, place: int, count: int) -> tuple[int, int, int]:
        """Text, start and end of `count` words from `place` on, as their owner wrote them."""
        start, end = self._starts[place], self._ends[place + count - 1]
        document = bisect_right(self._begins, start) - 1
        begin, text = self._begins[document], self._texts[document]
        if self._flat.startswith(text, begin):
            return document, start - begin, end - begin
        before = bisect_left(self._starts, begin)
        starts, ends = self._exact.get(document) or self._exact.setdefault(document, _words(text))
        return document, starts[place - before], ends[place - before + count - 1]

    def hold(self, passage: str) -> bool:
        """Whether a quoted passage stands in a text or is a title; where `...` leaves something out, each of its parts.

        Upper and lower case, and the punctuation at its ends, are the quoting sentence's.
        """
        parts = ((part, *_words(part)) for part in _LEFT_OUT.split(passage))
        return all(self._hold(part[starts[0] : ends[-1]]) for part, starts, ends in parts if starts)

    def _hold(self, part: str) -> bool:
        part = _flat(part.replace(_BLANK, "").casefold())
        at = -1
        for _ in range(PLACES):
            at = self._folded.find(part, at + 1)
            end = at + len(part)
            if at < 0 or not (_within(self._folded, at) or _within(self._folded, end)):
                return at >= 0
        return True  # it stands inside of so many words that it may be one, too

    @cached_property
    def _folded(self) -> str:
        return "\n".join([self._flat, *map(_flat, self._titles)]).casefold()


def marks(answer: str) -> Iterator[Mark]:
    """Every citation's mark, in order. What stands in code is code."""
    plain = _without_code(answer)
    start = floor = 0
    for found in _MARK.finditer(plain):
        if not floor or plain[floor : found.start()].strip(" ,\uff0c\u3001"):
            start = _sentence(plain, floor, found.start())
        floor = found.end()
        yield Mark(start, found.start(), floor, tuple(int(number) for number in re.findall(r"\d+", found[1])))


def _sentence(text: str, floor: int, mark: int) -> int:
    """Where the sentence begins that a mark at `mark` closes; not before `floor`, where another has closed one."""
    closed = floor + len(text[floor:mark].rstrip())
    start = floor
    for stop in _STOP.finditer(text, floor, closed):
        ended_by, end = stop[0], stop.end()
        ends = ended_by[-1].isspace() or not _CHINESE_STOPS.isdisjoint(ended_by)
        if ends and end < closed and not text[end].islower():  # "e.g. this" goes on
            start = end
    while start < closed and text[start] in _BETWEEN:
        start += 1
    return min(start, mark)


def quotes(answer: str) -> Iterator[tuple[int, int]]:
    """Start and end of every passage in quotation marks, the quotation marks left out."""
    if any(opening in answer for opening in _OPENING):
        for found in _QUOTE.finditer(_without_code(answer)):
            assert found.lastindex is not None
            yield found.span(found.lastindex)


def without(answer: str, found: Iterable[Mark]) -> str:
    """The answer with each mark blanked out: it is no word of the answer's. Offsets stay as they are."""
    pieces, at = [], 0
    for mark in found:
        pieces += [answer[at : mark.at], _BLANK * (mark.end - mark.at)]
        at = mark.end
    return "".join([*pieces, answer[at:]])


def check(answer: str, documents: Sequence[Document], sources: Sources) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Annotations and grounding of an answer; `sources` holds the texts of `documents`.

    An annotation is an OpenAI `url_citation`, with the document's id as its `url`, so that clients with strict types
    take it. `kind` says what it rests on: a `mark`, or a `verbatim` span, whose `document` has offsets, too.
    """
    annotations, unknown = [], []
    found = list(marks(answer))
    for mark in found:
        for number in mark.numbers:
            if 1 <= number <= len(documents):
                annotations.append(_annotation("mark", mark.start, mark.end, documents[number - 1]))
            else:
                unknown.append({"number": number, **_place(mark.at, mark.end)})
    plain = without(answer, found)
    spans, share = sources.find(plain)
    for span in spans:
        place = _place(span.at, span.until)
        annotations.append(_annotation("verbatim", span.start, span.end, documents[span.document], place))
    annotations.sort(key=lambda each: (each["url_citation"]["start_index"], each["url_citation"]["end_index"]))
    unsupported = [_place(start, end) for start, end in quotes(answer) if not sources.hold(plain[start:end])]
    return annotations, {
        "verbatim_share": share,
        "unknown_citations": unknown,
        "unsupported_quotes": unsupported,
    }


def _place(start: int, end: int) -> dict[str, int]:
    return {"start_index": start, "end_index": end}


def _annotation(
    kind: str, start: int, end: int, document: Document, place: dict[str, int] | None = None
) -> dict[str, Any]:
    return {
        "type": "url_citation",
        "kind": kind,
        "url_citation": {**_place(start, end), "title": document.title or document.id, "url": document.id},
        "document": {"number": document.number, "id": document.id, **(place or {})},
    }


def _within(text: str, at: int) -> bool:
    """Whether a place in a text lies inside a word."""
    return 0 < at < len(text) and bool(_IS_LETTER(text[at - 1]) and _IS_LETTER(text[at]))


def _words(text: str) -> Words:
    """Starts and ends of the words of a text."""
    places = list(accumulate(map(len, _WORD.split(text))))
    return places[0:-1:2], places[1::2]


def _windows(text: str, starts: list[int], ends: list[int]) -> list[str]:
    """`WORDS` words from each word on, with what stands between them."""
    return [text[start:end] for start, end in zip(starts, ends[WORDS - 1 :], strict=False)]


def _flat(text: str) -> str:
    return " ".join(text.split())


def _without_code(answer: str) -> str:
    return _CODE.sub(lambda found: _BLANK * len(found[0]), answer) if "`" in answer else answer
