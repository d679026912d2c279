"""README.md as data: its blocks and how each is tried, and the parts that are generated from code and measurements.

    <!-- try: curl expect=Paris -->       before a block: how the tests run it, and words its output must hold
    <!-- generated: settings -->          up to <!-- /generated -->: written by `python tests/docs/readme.py`

How a block is tried: `run` (make run), `make`, `curl` and `bash` (a shell against the real CPU engine), `python` and
`node` (in the environment `env=`), `infra` (needs no account), `cloud` (needs one), `gpu` (needs a GPU and Docker).
"""

import json
import re
import shlex
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
LOCAL = "http://localhost:8000"
RESULTS = ROOT / "tests" / "bench" / "results" / "cpu.json"
#: What happens in each phase of a start.
MEANINGS = {
    "listen": "from the start of the process until the port answers",
    "model": "finding the model's files",
    "import": "importing torch and vLLM; the engine's process does so beside it",
    "config": "reading the engine's flags",
    "spawn": "checking the model; the engine's process gets its work",
    "weights": "reading the weights",
    "kv_cache": "measuring memory, laying out the KV cache",
    "compile": "compiling and capturing graphs, as far as the flags ask for it",
    "warm_up": "vLLM's request handlers and the self-test",
}

_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S)
_TRY = re.compile(r"<!-- try: (.*?) -->\s*\Z")
_GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- /generated -->)", re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block. `how` is its `try:` comment, as words; empty when it has none."""

    line: int
    language: str
    code: str
    how: tuple[str, ...]

    @property
    def kind(self) -> str:
        return self.how[0] if self.how else ""

    def all(self, name: str) -> list[str]:
        """The values of `name=value` in the comment."""
        return [word.split("=", 1)[1] for word in self.how if word.startswith(f"{name}=")]

    def __str__(self) -> str:
        return f"line-{self.line}-{self.kind}"


def text() -> str:
    return README.read_text(encoding="utf-8")


def blocks() -> list[Block]:
    page = text()
    found = []
    for match in _BLOCK.finditer(page):
        mark = _TRY.search(page[: match.start()])
        how = tuple(shlex.split(mark[1].replace('"', '\\"'))) if mark else ()
        line = page.count("\n", 0, match.start()) + 1
        found.append(Block(line, match["language"], dedent(match["code"]), how))
    return found


def generated() -> dict[str, str]:
    """What stands in each generated part."""
    return {match[2]: match[3].strip() for match in _GENERATED.finditer(text())}


def wanted(name: str) -> str:
    """What the code, or the last measurement, says should stand there."""
    if name == "settings":
        from chatbot_llm import settings

        return settings.table()
    if name == "limits":
        from chatbot_llm.routes import limits

        return limits.table()
    if name == "fields":
        from chatbot_llm.routes import fields

        return fields.table()
    if name == "start":
        return start_table(json.loads(RESULTS.read_text(encoding="utf-8")))
    if name == "promises":
        import promises

        return promises.table()
    return {"t4": t4_flags, "cost": cost_table}[name]()


def start_table(results: dict[str, Any]) -> str:
    """Where the seconds of a start go, from the section that `make bench ARGS=start` has written."""
    from bench import report

    section = results.get("start")
    if not section:
        return "not measured yet: `make bench ARGS=start`"
    starts = {peer: [cell for cell in section["data"] if cell["peer"] == peer] for peer in ("service", "vllm")}

    def median(peer: str, key: str) -> str:
        return f"{statistics.median(cell[key] for cell in starts[peer]):.1f}"

    rows = ["| phase | service, s | vLLM's own server, s | what happens |", "|---|---|---|---|"]
    for phase, meaning in MEANINGS.items():
        spent = statistics.median(cell["phases_s"].get(phase, 0.0) for cell in starts["service"])
        rows.append(f"| {phase} | {spent:.1f} | | {meaning} |")
    for key, words in (("ready_s", "start to ready"), ("first_token_s", "start to first token")):
        meaning = "`/health` says 200" if key == "ready_s" else "one token of a chat has arrived"
        rows.append(f"| **{words}** | {median('service', key)} | {median('vllm', key)} | {meaning} |")
    counts = f"n = {len(starts['service'])} starts of the service and {len(starts['vllm'])} of vLLM's own server"
    return "\n".join(
        [
            *rows,
            "",
            f"Medians; {counts}, in turn, with the same model and engine flags, files in the page cache.",
            f"Measured {section['when'][:10]}, load before {section['load_before']}, on: "
            f"{report.machine(section['machine'])}.",
            f"Again: `make bench ARGS=start` on a quiet machine ({section['took_s']} s); it writes this table anew.",
        ]
    )


def t4_flags() -> str:
    from chatbot_llm.engine import profiles

    rows = ["| flag | value |", "|---|---|"]
    rows += [f"| `{flag}` | {f'`{value}`' if value else ''} |" for flag, value in profiles.FLAGS["t4"].items()]
    rows += [f"| `{name}` | `{value}` |" for name, value in profiles.ENVIRONMENT["t4"].items()]
    return "\n".join(rows)


def cost_table() -> str:
    import yaml

    from infra.fc.prices import HOURS_PER_MONTH, Size, price

    template = yaml.safe_load((ROOT / "s.yaml").read_text(encoding="utf-8"))
    (resource,) = template["resources"].values()
    props = template["template"][resource["extend"]["name"]] | resource["props"]
    size = Size(props["cpu"], props["memorySize"], props["gpuConfig"]["gpuMemorySize"], props["diskSize"])
    rows = ["| one instance | CU a second | CNY | USD |", "|---|---|---|---|"]
    for state in ("active", "hibernated"):
        rate = size.cu_per_second(state)
        rows.append(
            f"| {state}, an hour | {rate:g} | {price(rate * 3600, 'CNY'):.2f} | {price(rate * 3600, 'USD'):.2f} |"
        )
    for hours in (0, 60, HOURS_PER_MONTH):
        cu = size.cu(hours, HOURS_PER_MONTH - hours)
        rest = "" if hours == HOURS_PER_MONTH else ", hibernated otherwise"
        rows.append(
            f"| a month of {HOURS_PER_MONTH} h, {hours} h active{rest} | "
            f"| {price(cu, 'CNY'):,.0f} | {price(cu, 'USD'):,.0f} |"
        )
    return "\n".join(rows)


def main() -> None:
    page = _GENERATED.sub(lambda match: f"{match[1]}{wanted(match[2])}\n{match[4]}", text())
    README.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "code"), str(ROOT / "tests")]
    main()
