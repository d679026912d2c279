"""The retrieval half in miniature: `python code/examples/rag/rag.py 'Why do units ice up?'` (needs openai).

Picks passages and sends them along as documents; the service fits them into the prompt and checks what is cited.
"""

import argparse
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from openai import OpenAI

SYSTEM = "You help technicians who service heat pumps and air conditioners. Use plain words and at most six sentences."


def retrieve(passages: list[dict[str, str]], question: str, most: int = 6) -> list[dict[str, str]]:
    """The passages that share most words with the question, rare words first. Put your own search index here."""
    texts = [set(re.findall(r"\w{3,}", f"{passage['title']} {passage['text']}".lower())) for passage in passages]
    words = set(re.findall(r"\w{3,}", question.lower()))
    weight = {word: math.log(len(texts) / count) for word in words if (count := sum(word in text for text in texts))}
    scores = [sum(weight.get(word, 0) for word in text & words) for text in texts]
    best = sorted(range(len(texts)), key=lambda at: -scores[at])[:most]
    return [passages[at] for at in best if scores[at] > 0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer a question from passages, with checked sources.")
    parser.add_argument("question")
    parser.add_argument("--url", default="http://localhost:8000", help="the service (default: %(default)s)")
    parser.add_argument(
        "--passages", type=Path, default=Path(__file__).with_name("hvac.json"), help="JSON: title, text"
    )
    args = parser.parse_args()
    client = OpenAI(base_url=f"{args.url}/v1", api_key=os.environ.get("CHATBOT_API_KEY") or "none-needed")
    documents = retrieve(json.loads(args.passages.read_text()), args.question)
    stream = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": args.question}],
        max_tokens=200,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"documents": documents, "documents_policy": "drop_last"},
    )
    answer, usage = "", None
    found: dict[str, Any] = {}
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            answer += choice.delta.content or ""
            print(choice.delta.content or "", end="", flush=True)
            found |= choice.delta.model_extra or {}  # annotations and grounding, with the last one
    report(answer, found, usage)


def report(answer: str, found: dict[str, Any], usage: Any) -> None:
    """What of the answer stands where, and what does not."""
    grounding = found.get("grounding", {})
    cited = dict.fromkeys(each["url_citation"]["title"] for each in found.get("annotations", ()))
    print("\n\nSources:", "; ".join(cited) or "none")
    for quote in grounding.get("unsupported_quotes", ()):
        print("In no passage:", answer[quote["start_index"] : quote["end_index"]])
    if left_out := grounding.get("left_out"):
        print(f"{len(left_out)} passages did not fit")
    print(f"Word for word: {grounding.get('verbatim_share', 0):.0%}")
    if usage and usage.prompt_tokens_details:
        cached = usage.prompt_tokens_details.cached_tokens
        print(f"{cached} of {usage.prompt_tokens} prompt tokens came from the prefix cache")


if __name__ == "__main__":
    main()
