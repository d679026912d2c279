"""Three ways to find what of an answer stands verbatim in documents, side by side: `python tests/rag/matchers.py`.

The service looks windows of eight words up in a hash index (`rag/citations.py`). Here stand the two that it was chosen
over: a suffix automaton, whose finds are the same (the tests hold one against the other), and difflib, which aligns two
texts as a whole and so finds less. All three are plain Python: no kept library does this job.
"""

import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "code"))

from chatbot_llm.rag import citations

Spans = list[tuple[int, int]]
#: English prose has about three words for four tokens.
WORDS_A_TOKEN = 0.75


def units(text: str) -> list[tuple[int, int]]:
    """Words, and every other character, of a text without double spaces."""
    found, at = [], 0
    for start, end in zip(*citations._words(text), strict=True):
        found += [(place, place + 1) for place in range(at, start)] + [(start, end)]
        at = end
    return found + [(place, place + 1) for place in range(at, len(text))]


class Automaton:
    """A suffix automaton over the units of all texts, which a unit of its own keeps apart."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.next: list[dict[str, int]] = [{}]
        self.link, self.length = [-1], [0]
        last = 0
        for number, text in enumerate(texts):
            flat = citations._flat(text)
            for unit in [*(flat[start:end] for start, end in units(flat)), f"\n{number}"]:
                last = self._extend(last, unit)

    def _extend(self, last: int, unit: str) -> int:
        new = self._state({}, self.length[last] + 1, 0)
        at = last
        while at >= 0 and unit not in self.next[at]:
            self.next[at][unit] = new
            at = self.link[at]
        if at >= 0:
            target = self.next[at][unit]
            if self.length[at] + 1 == self.length[target]:
                self.link[new] = target
            else:
                clone = self._state(dict(self.next[target]), self.length[at] + 1, self.link[target])
                while at >= 0 and self.next[at].get(unit) == target:
                    self.next[at][unit] = clone
                    at = self.link[at]
                self.link[target] = self.link[new] = clone
        return new

    def _state(self, following: dict[str, int], length: int, link: int) -> int:
        self.next.append(following)
        self.length.append(length)
        self.link.append(link)
        return len(self.next) - 1

    def spans(self, answer: str) -> Spans:
        """Spans of an answer without double spaces."""
        cut = units(answer)
        words = {span: number for number, span in enumerate(zip(*citations._words(answer), strict=True))}
        state = length = 0
        longest = []
        for start, end in cut:
            unit = answer[start:end]
            while state and unit not in self.next[state]:
                state = self.link[state]
                length = self.length[state]
            if unit in self.next[state]:
                state, length = self.next[state][unit], length + 1
            else:
                length = 0
            longest.append(length)
        found = []
        for at, length in enumerate(longest):
            if length and (at + 1 == len(longest) or longest[at + 1] <= length):
                inside = [words[span] for span in cut[at + 1 - length : at + 1] if span in words]
                if len(inside) >= citations.WORDS:
                    found.append((inside[0], inside[-1]))
        spans, reached = [], -1
        order = list(words)
        for first, last in sorted(set(found), key=lambda run: (run[0], -run[1])):
            if last > reached:
                reached = last
                spans.append((order[first][0], order[last][1]))
        return spans


def aligned(texts: Sequence[str], answer: str) -> Spans:
    """difflib's blocks of eight words or more."""
    cut, spans = units(answer), []
    known = set(zip(*citations._words(answer), strict=True))
    ours = [answer[start:end] for start, end in cut]
    for text in texts:
        flat = citations._flat(text)
        theirs = [flat[start:end] for start, end in units(flat)]
        for block in SequenceMatcher(None, theirs, ours, autojunk=False).get_matching_blocks():
            inside = [span for span in cut[block.b : block.b + block.size] if span in known]
            if len(inside) >= citations.WORDS:
                spans.append((inside[0][0], inside[-1][1]))
    return spans


def material(documents: int = 8_000, answer: int = 1_000, texts: int = 10, seed: int = 1) -> tuple[list[str], str]:
    """Documents and an answer of so many tokens: words as often as in English, half of the answer quoted."""
    chance = random.Random(seed)
    vocabulary = ["".join(chance.choices("etaoinshrdlcum", k=chance.randint(2, 9))) for _ in range(5_000)]
    often = [1 / rank for rank in range(1, len(vocabulary) + 1)]

    def prose(words: int) -> list[str]:
        chosen = chance.choices(vocabulary, often, k=words)
        return [word + chance.choices(("", ",", "."), (14, 1, 1))[0] for word in chosen]

    passages = [prose(int(documents * WORDS_A_TOKEN / texts)) for _ in range(texts)]
    written: list[str] = []
    while len(written) < answer * WORDS_A_TOKEN:
        passage = chance.choice(passages)
        at = chance.randrange(len(passage) - 40)
        written += [*prose(chance.randint(10, 30)), *passage[at : at + chance.randint(10, 40)], "[1]."]
    return [" ".join(passage) for passage in passages], " ".join(written)


def milliseconds(work: Callable[[], object], rounds: int = 15) -> float:
    """The median processor time of one run."""
    took = []
    for _ in range(rounds):
        begun = time.thread_time()
        work()
        took.append(time.thread_time() - begun)
    return statistics.median(took) * 1000


def main() -> None:
    texts, answer = material()
    plain = citations.without(answer, citations.marks(answer))
    sources, automaton = citations.Sources(texts), Automaton(texts)
    assert automaton.spans(plain) == [(span.start, span.end) for span in sources.find(plain)[0]]
    exact = len(sources.find(plain)[0])
    rows = [
        ("hash index of eight words", lambda: citations.Sources(texts), lambda: sources.find(plain), exact),
        ("suffix automaton", lambda: Automaton(texts), lambda: automaton.spans(plain), exact),
        ("difflib", lambda: None, lambda: aligned(texts, plain), len(aligned(texts, plain))),
    ]
    print("8,000 tokens of documents, 1,000 of answer; medians of processor time, ms")
    print("| | made ready | looked up | spans |\n|---|---|---|---|")
    for name, prepare, look, found in rows:
        rounds = 3 if name == "difflib" else 15
        print(f"| {name} | {milliseconds(prepare, rounds):.2f} | {milliseconds(look, rounds):.2f} | {found} |")


if __name__ == "__main__":
    main()
