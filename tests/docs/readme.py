"""The README files as data: their blocks and how each is tried, and the parts generated from code and measurements.

    <!-- try: curl expect=Paris -->       before a block: how the tests run it, and words its output must hold
    <!-- generated: settings -->          up to <!-- /generated -->: written by `python tests/docs/readme.py`

How a block is tried: `run` (make run), `make`, `curl` and `bash` (a shell against the real CPU engine), `clients` (the
same among the client libraries), `python` and `node` (with these libraries; `env=openai2`: those that want an older one
of OpenAI's), `infra` (needs no account), `cloud` (needs one), `gpu` (needs a GPU and Docker).
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
#: README.md first: the curl of its first screen is what `make run` prints.
DOCUMENTS = ("README.md", "code/README.md", "infra/README.md", "tests/README.md", "CONTRIBUTING.md")
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

    document: str
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
        return f"{self.document}-line-{self.line}-{self.kind}"


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks() -> list[Block]:
    """The fenced blocks of all documents."""
    found = []
    for document in DOCUMENTS:
        page = text(document)
        for match in _BLOCK.finditer(page):
            mark = _TRY.search(page[: match.start()])
            how = tuple(shlex.split(mark[1].replace('"', '\\"'))) if mark else ()
            line = page.count("\n", 0, match.start()) + 1
            found.append(Block(document, line, match["language"], dedent(match["code"]), how))
    return found


def generated() -> list[tuple[str, str, str]]:
    """(document, name, what stands there) of every generated part."""
    return [
        (document, match[2], match[3].strip())
        for document in DOCUMENTS
        for match in _GENERATED.finditer(text(document))
    ]


def wanted(name: str) -> str:
    """What the code, or the last measurement, says should stand there."""
    if name == "settings":
        from chatbot_llm import settings

        return settings.table()
    if name == "start":
        return start_table(json.loads(RESULTS.read_text(encoding="utf-8")))
    if name in ("promises", "reliability"):
        import promises

        return promises.table() if name == "promises" else promises.short_table()
    tables = {"t4": t4_flags, "cost": cost_table}
    tables |= {"limits": limits_table, "fields": fields_table, "connection": connection_table}
    return tables[name]()


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


def limits_table() -> str:
    """Every limit of a request: what, most and where it is set; settings are shown with their defaults."""
    from chatbot_llm.engine import schema_check, schema_helper
    from chatbot_llm.rag import documents
    from chatbot_llm.routes import generate, structures, validation
    from chatbot_llm.settings import Settings

    default = {name: field.default for name, field in Settings.model_fields.items()}
    rows = [
        ("body, bytes", default["max_body_bytes"], "`CHATBOT_MAX_BODY_BYTES`"),
        ("text of a request, characters", default["max_prompt_chars"], "`CHATBOT_MAX_PROMPT_CHARS`"),
        (
            "`max_tokens`, `max_completion_tokens`, `max_output_tokens`, `min_tokens`",
            default["max_tokens_cap"],
            "`CHATBOT_MAX_TOKENS_CAP`",
        ),
        ("`n`; prompts in one completion", default["max_choices"], "`CHATBOT_MAX_CHOICES`"),
        ("messages and content parts; blocks of `system`", validation.MAX_MESSAGES, ""),
        *((f"`{name}`", most, "") for name, most in validation.MAX_ITEMS.items()),
        ("nesting of a body", validation.MAX_DEPTH, ""),
        ("one schema, or all tools, characters", structures.MAX_SCHEMA, ""),
        ("turning a request's schemas into a grammar, ms", round(schema_helper.COMPILE_S * 1000), ""),
        ("what a schema may add to a token, ms: on average", round(schema_check.STEP_S * 1000), ""),
        ("what a schema may add to a token, ms: at worst", round(schema_check.WORST_S * 1000), ""),
        ("documents", documents.MAX_DOCUMENTS, ""),
        ("tokens kept for an answer to documents that names no `max_tokens`", documents.ANSWER_TOKENS, ""),
        ("prompts that `/generate` sends back, bytes for one sent", generate.MAX_ECHO, ""),
    ]
    return "\n".join(["| what | most | setting |", "|---|---|---|", *(f"| {a} | {b:,} | {c} |" for a, b, c in rows)])


def fields_table() -> str:
    """What becomes of every field of a request that is not simply obeyed."""
    from chatbot_llm.routes import fields

    rows = ["| field | | why, or what to do instead |", "|---|---|---|"]
    merged = {**fields.DETOKENIZE, **fields.TOKENIZE, **fields.COMPLETION, **fields.CHAT}
    shown = [(f"`{name}`", field) for name, field in merged.items()]
    for protocol, known in (("Responses", fields.RESPONSES), ("Messages", fields.MESSAGES)):
        own = {name: field for name, field in known.items() if merged.get(name) != field}
        shown += [(f"`{name}` ({protocol})", field) for name, field in own.items()]
    for use in ("harmless", "refused"):
        reasons: dict[str, list[str]] = {}
        for name, field in shown:
            if field.use == use:
                reasons.setdefault(field.why, []).append(name)
        rows += [f"| {', '.join(names)} | {use} | {why} |" for why, names in reasons.items()]
    return "\n".join(rows)


def connection_table() -> str:
    from chatbot_llm.server import connection, door

    hours = _gunicorn_keepalive() // 3600
    rows: list[tuple[str, str, str]] = [
        ("path and query, bytes", f"{connection.MAX_URL:,}", "414"),
        ("one header field, bytes", f"{connection.MAX_FIELD:,}", "431"),
        ("header fields", f"{connection.MAX_FIELDS}", "431"),
        ("all header fields, bytes", f"{connection.MAX_HEAD:,}", "431"),
        ("chunks of one body", f"{connection.MAX_CHUNKS:,}", "413"),
        ("all bodies that arrive at once", f"{door.BODIES} times `CHATBOT_MAX_BODY_BYTES`", "429"),
        ("requests sent ahead on one connection", f"{connection.MAX_PIPELINED}", "it is read on when one is answered"),
        (
            "connections",
            f"{connection.MAX_CONNECTIONS:,}; more where twice `CHATBOT_MAX_RUNNING` and "
            "`CHATBOT_MAX_WAITING` is more; at most half of the files that the process may open",
            "never-used ones are closed first, begun uploads last, those being answered never",
        ),
        (
            "time until a request is wholly there, from its first byte, or from the connection's start",
            "`CHATBOT_READ_TIMEOUT_S`",
            "closed",
        ),
        ("time in which a reader takes nothing", "`CHATBOT_READ_TIMEOUT_S`", "closed"),
        ("time for a client that goes on sending what was refused", f"{door.LINGER_S:g} s", "closed"),
        (
            "time for a client that has shut its sending side",
            f"{connection.HALF_CLOSED_S:g} s",
            "it gets what is answered at once, then counts as gone",
        ),
        ("time between two requests (keep-alive)", f"{hours} h", "closed"),
    ]
    return "\n".join(["| what | most | beyond it |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)])


def _gunicorn_keepalive() -> int:
    """Seconds, from gunicorn.conf.py, which only gunicorn can run."""
    (found,) = re.findall(r"^keepalive = (\d+) \* 3600$", text("code/gunicorn.conf.py"), re.M)
    return int(found) * 3600


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
    for document in DOCUMENTS:
        page = _GENERATED.sub(lambda match: f"{match[1]}{wanted(match[2])}\n{match[4]}", text(document))
        (ROOT / document).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "code"), str(ROOT / "tests")]
    main()
