"""An engine as vLLM is one, played one step after the other, and what its service would log: a check of fc/fleet.py.

Slow and plain on purpose: every step is taken, every token counted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from infra.fc.fleet import PROMPT_STEP
from infra.fc.service_times import Times
from log_lines import line


@dataclass
class Arrival:
    """A request, seconds since `log_lines.BEGAN`, and what became of it."""

    came: float
    prompt: int
    answer: int
    instance: str = "c-1"
    granted: float = 0.0
    first: float = 0.0
    ended: float = 0.0
    running: int = 0
    unread: int = field(default=0)
    written: int = field(default=0)

    def line(self) -> str:
        marks = {
            "queue": (self.came, self.granted),
            "ttft": (self.granted, self.first),
            "decode": (self.first, self.ended),
        }
        marks["total"] = (self.came, self.ended)
        times = {f"{name}_ms": round(1000 * (until - since), 1) for name, (since, until) in marks.items()}
        tokens = {"prompt_tokens": self.prompt, "completion_tokens": self.answer}
        return line(self.ended, instance=self.instance, running=self.running, **tokens, **times)


def play(arrivals: list[Arrival], times: Times, slots: int = 10, noise: float = 0.0) -> list[Arrival]:
    """What one engine does with requests in order of their time; a step takes up to the share `noise` more or less."""
    chance, now, freed, inside, coming = random.Random(3), 0.0, 0.0, [], list(arrivals)
    while inside or coming:
        if not inside:
            now = max(now, coming[0].came)
        while coming and coming[0].came <= now and len(inside) < slots:
            one = coming.pop(0)
            one.granted, one.unread = max(one.came, freed), one.prompt
            inside.append(one)
            one.running = len(inside)
        left, tokens = PROMPT_STEP, [one for one in inside if not one.unread]
        reads = any(one.unread for one in inside)
        for one in inside:
            if one.unread and left:
                part = min(left, one.unread)
                one.unread, left = one.unread - part, left - part
                tokens += [one] * (one.unread == 0)
        took = times.step_s + times.per_running_s * len(tokens)
        took += reads * times.per_prompt_token_s * (PROMPT_STEP - left)
        now += took * chance.uniform(1 - noise, 1 + noise)
        full = len(inside) == slots
        for one in tokens:
            one.written += 1
            if one.written == 1:
                one.first = now + times.first_s
            if one.written == one.answer:
                one.ended = now + times.first_s
                inside.remove(one)
                freed = now if full else freed
    return arrivals
