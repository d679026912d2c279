"""The GPU kit's pure parts: shapes, bytes, and a checkpoint that Transformers and vLLM can read."""

import json
from pathlib import Path

import pytest

from bench.gpu.__main__ import FLAGS
from bench.gpu.checkpoint import make
from bench.gpu.roofline import Shapes, most_tokens_per_s
from bench.servers import ROOT, running

#: The same architecture, small; every size divisible as the real one's are.
TINY = Shapes(layers=2, hidden=256, intermediate=512, heads=4, kv_heads=2, vocabulary=320)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("checkpoint") / "tiny", TINY, context=8192)


def test_the_real_shapes_have_the_parameters_of_qwen2_5_7b() -> None:
    shapes = Shapes()
    linear = shapes.layers * sum(inputs * outputs for inputs, outputs, _ in shapes.linears().values())
    assert linear == pytest.approx(6.525e9, rel=1e-3)
    assert shapes.head == 128
    assert shapes.kv_bytes(1) == 57_344  # 56 KiB a token, as vLLM reports it


def test_a_step_reads_the_packed_weights_their_scales_and_the_output_layer() -> None:
    assert Shapes().weight_bytes() == pytest.approx(4.455e9, rel=2e-3)


def test_a_t4_cannot_give_one_stream_more_than_72_tokens_a_second() -> None:
    assert most_tokens_per_s(Shapes(), 320e9, 1, 0) == pytest.approx(71.8, rel=5e-3)


def test_the_forecast_in_the_readme_is_this_arithmetic() -> None:
    """Bandwidth, and a step's time over that of reading, as code/README.md says they were seen on a T4."""
    most = most_tokens_per_s(Shapes(), 275.9e9, 1, 0)
    low, high = round(most / 1.69), round(most / 1.26)
    for document in ("README.md", "README.zh-CN.md", "code/README.md"):
        assert (
            f"{low} to {high} tokens/s" in (page := (ROOT / document).read_text())
            or f"{low} 到 {high} tokens/s" in page
        )


def test_ten_streams_share_the_weights_but_not_the_kv_cache() -> None:
    one, ten = (most_tokens_per_s(Shapes(), 320e9, streams, 1000) for streams in (1, 10))
    assert 8 < ten / one < 10


def test_every_linear_layer_is_packed_as_gptq_packs_it(tiny: Path) -> None:
    from safetensors import safe_open  # takes seconds, here and below, in each worker that collects tests

    index = json.loads((tiny / "model.safetensors.index.json").read_text())["weight_map"]
    for layer in range(TINY.layers):
        for name, (inputs, outputs, bias) in TINY.linears().items():
            at = f"model.layers.{layer}.{name}"
            with safe_open(tiny / index[f"{at}.qweight"], "pt") as file:
                assert file.get_slice(f"{at}.qweight").get_shape() == [inputs // 8, outputs]
                assert file.get_slice(f"{at}.qzeros").get_shape() == [inputs // 128, outputs // 8]
                assert file.get_slice(f"{at}.scales").get_shape() == [inputs // 128, outputs]
                assert (f"{at}.bias" in index) == bias
                zeros = file.get_tensor(f"{at}.qzeros")
                assert int(zeros[0, 0]) == 0x77777777  # seven, stored minus one, is the middle of four bits


def test_the_same_seed_gives_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "again", TINY, context=8192)
    assert (again / "model-00.safetensors").read_bytes() == (tiny / "model-00.safetensors").read_bytes()


def test_a_whole_checkpoint_is_not_made_again(tiny: Path) -> None:
    before = (tiny / "config.json").stat().st_mtime_ns
    make(tiny, TINY, context=8192)
    assert (tiny / "config.json").stat().st_mtime_ns == before


@pytest.mark.long
def test_transformers_reads_config_and_tokenizer_and_decodes_every_id(tiny: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(tiny)
    assert (config.num_key_value_heads, config.quantization_config["bits"]) == (2, 4)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    assert len(tokenizer) == TINY.vocabulary
    assert tokenizer.decode(tokenizer("Grüße, 你好")["input_ids"]) == "Grüße, 你好"
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True, tokenize=False)
    assert chat == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    assert all(tokenizer.decode([at]) for at in range(TINY.vocabulary))


@pytest.mark.engine
def test_the_service_loads_it_as_a_gptq_model(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the first token: vLLM's int4 kernel for CPUs is left out of its build for AVX2."""
    monkeypatch.setenv("BENCH_MODEL", str(tiny))
    try:
        with running("service", {"CHATBOT_SELF_TEST": "false"}, FLAGS) as server:
            assert server.first_token_s > 0
    except RuntimeError as error:
        assert "answers 500" in str(error) and "cpu_gemm_wna16" in str(error)
