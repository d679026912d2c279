"""What somebody else's error may say about a request: where it is wrong and why, never what stood in it.

Redact where foreign words come in, as text, before they are encoded. Names of fields and numbers stay: the caller needs
them to find the place.
"""

import re
from typing import Any

#: What is shorter than this hides nothing, characters.
SHORTEST_SECRET = 6
#: A long text may be repeated in part; this much of its beginning gives it away, characters.
_PREFIX = 20
_WORD = re.compile(r"[a-z_]+")
#: Names as schemas and protocols have them, and numbers.
_NAME = re.compile(r"\$?[A-Za-z_][A-Za-z0-9_]{0,63}|\d+")
#: Sentences of the engine that hold nothing but its own words, names and numbers, whatever the request begins with.
_OWN = re.compile(r"This model's maximum context length is \d+ tokens[\w\s.,;:'()=/*+-]*")
#: How the engine shows its own objects at the end of a sentence.
_DUMP = re.compile(r"\s*\(parameter=.*\)\s*$", re.S)
#: An address of documentation says nothing about the request.
_LINK = re.compile(r"\s*(?:(?<=[.\n])[^.\n]*?\b(?:visit|see|refer to)\s+)?<?https?://\S+", re.I)
#: What is left when nothing of a sentence may be shown.
NOTHING_LEFT = "the engine refused this request, in words that repeat it"


def withhold(text: str, body: Any) -> str:
    """An error's text without what it repeats of the request's values; names of fields and plain words stay."""
    text = _LINK.sub("", _DUMP.sub("", text))
    if own := _OWN.match(text):
        return own.group().strip()
    kept = text
    for item in sorted(_texts(body), key=len, reverse=True):
        if len(item) <= _PREFIX or item in kept:
            kept = kept.replace(item, "...")
        elif (at := kept.find(item[:_PREFIX])) >= 0:  # what is long may have been cut
            kept = kept[:at] + "..."
    return kept if re.search(r"\w\w", kept) else NOTHING_LEFT


def _texts(body: Any) -> set[str]:
    """Every text of a body that may be a secret: values, and names that no schema would have."""
    found: set[str] = set()
    stack = [body]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.values())
            found |= {name for name in item if len(name) >= SHORTEST_SECRET and not _NAME.fullmatch(name)}
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, str) and len(item) >= SHORTEST_SECRET and not _WORD.fullmatch(item):
            found.add(item)
    return found
