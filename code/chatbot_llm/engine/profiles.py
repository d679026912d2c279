"""Default vLLM flags and environment for each kind of machine, each with its reason; whatever the user passes wins.

Also what became of flags that vLLM has renamed: they still do what the user meant, with a warning.
The numbers for the T4 (16 GB, sm_75) are argued in code/README.md, "Memory and flags on a T4".
"""

import ctypes
import importlib.metadata
import importlib.util
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from chatbot_llm.engine import tool_calls
from chatbot_llm.engine.weights import BUNDLED
from chatbot_llm.errors import UsageError

log = logging.getLogger(__name__)

Flags = dict[str, str | None]


def cpu_dtype(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """bfloat16 where the CPU computes in it, at 1.4 times the tokens/s; elsewhere float32 is the fastest, and exact."""
    with suppress(OSError):
        if {"avx512_bf16", "amx_bf16"} & set(cpuinfo.read_text().split()):
            return "bfloat16"
    return "float32"


#: On every machine.
COMMON: Flags = {
    # Tools: the format Qwen2.5 was trained on.
    "--enable-auto-tool-choice": None,
    "--tool-call-parser": tool_calls.PARSER,
    # Requests are logged by us, once, without their text.
    "--no-enable-log-requests": None,
    # Queue, first-token and decode times of every answer, for Server-Timing and the request log.
    "--enable-per-request-metrics": None,
    # `cached_tokens` in usage: what the prefix cache saved.
    "--enable-prompt-tokens-details": None,
    # llguidance builds the grammar of a schema in milliseconds and follows it lazily; xgrammar, vLLM's default, first
    # computes masks of the whole vocabulary: seconds, for a few strings with a maxLength, in the engine's process.
    "--structured-outputs-config": '{"backend":"guidance"}',
    # A progress bar is not a log line.
    "--no-use-tqdm-on-load": None,
    # Text only: nothing in a body makes the server fetch an address.
    "--limit-mm-per-prompt": '{"image":0,"video":0,"audio":0}',
}

_T4: Flags = {
    "--model": "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4",
    # Turing has no bfloat16.
    "--dtype": "half",
    # The only int4 kernel that is both fast and sound for Qwen in fp16 on sm_75.
    "--linear-backend": "marlin",
    # FlashAttention 2 needs sm_80 and FlashInfer dropped sm_75.
    "--attention-backend": "TRITON_ATTN",
    # 10 chats x 8192 tokens = 82 k, of about 127 k tokens of KV cache.
    "--max-model-len": "8192",
    "--max-num-seqs": "16",
    # Prefill in pieces, so that running chats keep their inter-token latency.
    "--max-num-batched-tokens": "2048",
    # 0.92, the default, can exceed what the driver leaves free on 16 GB.
    "--gpu-memory-utilization": "0.90",
    # No Dynamo and no Inductor at start; decode still replays whole CUDA graphs.
    "--compilation-config": json.dumps(
        {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 2, 4, 8, 16]}
    ),
}

_CPU: Flags = {
    "--model": BUNDLED,
    "--dtype": cpu_dtype(),
    # Compiling takes a minute at the first start and ten seconds at each later one (tests/bench/NOTES.md).
    "--enforce-eager": None,
    "--max-model-len": "4096",
    "--max-num-seqs": "16",
    "--max-num-batched-tokens": "1024",
}

FLAGS: dict[str, Flags] = {"t4": _T4, "cpu": _CPU, "gpu": {"--model": BUNDLED}, "none": {}}

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # What our own spans speak; vLLM would take gRPC.
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    # One banner and colour codes less in a log that machines read.
    "VLLM_LOGGING_COLOR": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Grammars of tool calls are ours (tool_calls.py): vLLM writes its own for xgrammar alone.
    "VLLM_ENFORCE_STRICT_TOOL_CALLING": "0",
}

ENVIRONMENT: dict[str, dict[str, str]] = {
    "t4": {
        # The sampler would be probed, found unfit for sm_75 and dropped with a warning.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        # Remember the memory profile of this card and these flags; the image carries it.
        "VLLM_ENABLE_STARTUP_PLAN": "1",
        "TORCHDYNAMO_DISABLE": "1",
    },
    "cpu": {
        # The worker lives inside EngineCore: one process and one import less.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # GiB: 23,300 tokens of the bundled model. Filling one with zeros is a second or two of each start.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # Weights and KV cache in huge pages: fewer page faults at start, fewer TLB misses in every step.
        "THP_MEM_ALLOC_ENABLE": "1",
        # Nothing is compiled at start, so nothing may be later either: the first request for logprobs would stall
        # the engine for half a minute while g++ builds one small kernel.
        "TORCHDYNAMO_DISABLE": "1",
        # Who asks for a compiled model all the same finds it again at the next start: what vLLM itself saves does not
        # load on a CPU (tests/bench/NOTES.md), Inductor's own cache does.
        "VLLM_USE_AOT_COMPILE": "0",
        # vLLM would serve with one thread of two "to leave room"; measured, all cores are faster.
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
    },
    "gpu": {},
    "none": {},
}

#: Old flag -> (new flag, value to pass or None to keep the user's). An empty new flag: it is the default now.
RENAMED: dict[str, tuple[str, str | None]] = {
    "--disable-log-requests": ("--no-enable-log-requests", ""),
    "--cuda-graph-sizes": ("--cudagraph-capture-sizes", None),
    "--guided-decoding-backend": ("--structured-outputs-config.backend", None),
    "--use-v2-block-manager": ("", ""),
    "--enable-chunked-prefill=True": ("--enable-chunked-prefill", ""),
    "--worker-use-ray": ("", ""),
    "--engine-use-ray": ("", ""),
    "--disable-frontend-multiprocessing": ("", ""),
    "--swap-space": ("", None),
    "--device": ("", None),
}


def pick(profile: str) -> str:
    """Resolve `auto`: `gpu` where an NVIDIA device is visible, else `cpu`."""
    if profile != "auto":
        return profile
    return "gpu" if Path("/dev/nvidia0").exists() or Path("/dev/nvidiactl").exists() else "cpu"


def nvidia() -> bool:
    """Whether an NVIDIA device may be here: its file, WSL's file for it, or the driver's library (in no image)."""
    if any(Path(name).exists() for name in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")):
        return True
    with suppress(OSError):
        ctypes.CDLL("libcuda.so.1")
        return True
    return False


def for_cpu() -> bool | None:
    """Whether the vLLM installed is a CPU build, by name and version as vLLM itself asks; None without one."""
    for name in ("vllm-cpu", "vllm"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return "cpu" in f"{name} {importlib.metadata.version(name)}"
    return None


def require_device(profile: str) -> None:
    """Say at once what vLLM says once it is imported, as "Failed to infer device type". Raises UsageError."""
    wants_a_card = profile in ("t4", "gpu") or (profile == "cpu" and for_cpu() is False)
    if wants_a_card and not nvidia():
        # vLLM's CUDA build has no kernels for a CPU.
        instead = "CHATBOT_ENGINE=scripted for a try without a model" if for_cpu() is False else "CHATBOT_PROFILE=cpu"
        raise UsageError(f"no NVIDIA device: run with --gpus all, or {instead}")


def modernise(argv: Sequence[str]) -> list[str]:
    """Replace flags that vLLM has renamed or dropped. Each replacement is logged as a warning."""
    out: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        flag, equals, inline = word.partition("=")
        key = word if word in RENAMED else flag
        if key not in RENAMED:
            out.append(word)
            continue
        new, fixed = RENAMED[key]
        value: str | None = None
        if fixed is None:
            value = inline if equals else (words.pop(0) if words and not words[0].startswith("--") else None)
        log.warning("%s is %s in this vLLM", key, f"called {new}" if new else "no longer needed, and ignored,")
        if new:
            out += [new] if value is None else [new, value]
    return out


def given(argv: Sequence[str]) -> set[str]:
    """The flags in `argv`, in the long dashed form, `--no-x` counted as `--x`."""
    short = {"-O": "--compilation-config", "-cc": "--compilation-config", "-tp": "--tensor-parallel-size"}
    flags = set()
    for word in argv:
        if not word.startswith("-"):
            continue
        name = word.split("=", 1)[0].split(".", 1)[0].replace("_", "-")
        name = short.get(name, name)
        flags.add(name)
        flags.add(name.replace("--no-", "--", 1) if name.startswith("--no-") else name.replace("--", "--no-", 1))
    return flags


def take(argv: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """(the last value of `flag` or None, `argv` without it). Raises UsageError when the flag has no value."""
    found, rest, words = None, [], list(argv)
    while words:
        word = words.pop(0)
        name, equals, inline = word.partition("=")
        if name.replace("_", "-") != flag:
            rest.append(word)
        elif equals:
            found = inline
        elif words and not words[0].startswith("--"):
            found = words.pop(0)
        else:
            raise UsageError(f"{flag} needs a value")
    return found, rest


def arguments(profile: str, argv: Sequence[str]) -> list[str]:
    """vLLM's argument list: the profile's flags, then the user's, which win."""
    user = modernise(argv)
    named = given(user)
    if user and not user[0].startswith("-"):  # `vllm serve MODEL ...`
        user = ["--model", *user]
        named.add("--model")
    out: list[str] = []
    for flag, value in {**COMMON, **FLAGS[profile]}.items():
        if flag in named:
            continue
        if flag == "--enforce-eager" and "--compilation-config" in named:
            continue
        out += [flag] if value is None else [flag, value]
    return out + user


def environment(profile: str, argv: Sequence[str]) -> None:
    """Set what vLLM reads from the environment, where the user has not set it."""
    compiles = "--compilation-config" in given(argv)
    for name, value in {**_OFFLINE, **ENVIRONMENT[profile]}.items():
        if not (compiles and name == "TORCHDYNAMO_DISABLE"):
            os.environ.setdefault(name, value)
    # vLLM does this for the processes it starts itself, once it knows the platform; the engine's is started earlier.
    if profile == "cpu" and "omp" not in os.environ.get("LD_PRELOAD", "") and (library := openmp()):
        os.environ["LD_PRELOAD"] = ":".join(filter(None, (os.environ.get("LD_PRELOAD"), library)))


def openmp() -> str:
    """torch's own OpenMP library, or "": loaded first, it is vLLM's too, and threads can be bound to their cores."""
    torch = importlib.util.find_spec("torch")
    site = Path(torch.origin).parents[1] if torch and torch.origin else Path("/nowhere")
    found = [*site.glob("torch.libs/libgomp*.so*"), *site.glob("torch/lib/libgomp*.so*")]
    return str(found[0]) if found else ""
