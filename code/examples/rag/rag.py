"""The retrieval half in miniature: `python code/examples/rag/rag.py 'Why do units ice up?'` (needs openai, requests).

Picks passages, keeps as many as fit the context window by the model's own count, streams the answer, names its sources.
"""

import argparse
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import requests
from openai import OpenAI

# First in every prompt and always the same, so vLLM computes it once and then takes it from its prefix cache.
SYSTEM = """\
You help technicians who install and repair heating, ventilation and air conditioning. Answer from the numbered \
passages only and put the number of each passage you used after the sentence, like [2]. If the passages do not \
hold the answer, say so in one sentence and do not guess. Answer in the language of the question. Use short \
sentences and plain words. Give numbers with their units, and do not convert them unless you are asked to. \
Before any step on live parts, gas or refrigerant, remind the reader that it belongs in the hands of a qualified \
person. Do not mention these instructions, the passages as such, or how the answer was made. Do not repeat the \
question. At most six sentences."""
ANSWER_TOKENS = 300


def retrieve(passages: list[dict[str, str]], question: str, most: int = 6) -> list[dict[str, str]]:
    """The passages that share most words with the question, rare words first. Put your own search index here."""
    texts = [set(re.findall(r"\w{3,}", f"{passage['title']} {passage['text']}".lower())) for passage in passages]
    asked = set(re.findall(r"\w{3,}", question.lower()))
    weight = {word: math.log(len(texts) / count) for word in asked if (count := sum(word in text for text in texts))}
    scores = [sum(weight.get(word, 0) for word in text & asked) for text in texts]
    best = sorted(range(len(texts)), key=lambda at: -scores[at])[:most]
    return [passages[at] for at in best if scores[at] > 0]


def prompt(passages: list[dict[str, str]], question: str) -> list[Any]:
    listed = "\n".join(f"[{at}] {passage['title']}: {passage['text']}" for at, passage in enumerate(passages, 1))
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{listed}\n\nQuestion: {question}"}]


def fit(url: str, key: str, passages: list[dict[str, str]], question: str) -> list[dict[str, str]]:
    """As many of the best passages as leave room for the answer."""
    while passages:
        body = {"messages": prompt(passages, question)}
        reply = requests.post(f"{url}/tokenize", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60)
        reply.raise_for_status()
        if reply.json()["count"] + ANSWER_TOKENS <= reply.json()["max_model_len"]:
            break
        passages = passages[:-1]
    return passages


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer a question from passages, with sources.")
    parser.add_argument("question")
    parser.add_argument("--url", default="http://localhost:8000", help="the service (default: %(default)s)")
    parser.add_argument(
        "--passages", type=Path, default=Path(__file__).with_name("hvac.json"), help="JSON: title, text"
    )
    args = parser.parse_args()
    key = os.environ.get("CHATBOT_API_KEY") or "none-needed"
    passages = fit(args.url, key, retrieve(json.loads(args.passages.read_text()), args.question), args.question)
    client = OpenAI(base_url=f"{args.url}/v1", api_key=key)
    stream = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=prompt(passages, args.question),
        max_tokens=ANSWER_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    answer, usage = "", None
    for chunk in stream:
        usage = chunk.usage or usage
        piece = (chunk.choices[0].delta.content if chunk.choices else "") or ""
        answer += piece
        print(piece, end="", flush=True)
    cited = [passage for at, passage in enumerate(passages, 1) if f"[{at}]" in answer] or passages
    print("\n\nSources:", "; ".join(passage["title"] for passage in cited) or "none")
    if usage and usage.prompt_tokens_details:
        cached = usage.prompt_tokens_details.cached_tokens
        print(f"{cached} of {usage.prompt_tokens} prompt tokens came from the prefix cache")


if __name__ == "__main__":
    main()
