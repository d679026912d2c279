"""Makes a checkpoint with the exact shapes of Qwen2.5-7B-Instruct-GPTQ-Int4 and random weights from a fixed seed.

Speed does not depend on what the weights say. The words do: such a model repeats itself, so the service is started
with CHATBOT_SELF_TEST=false. The tokenizer is real in format (byte-level BPE, ChatML) and knows only bytes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.gpu.roofline import Shapes

SEED = 20260101
#: Scales small enough that activations of 28 random layers stay finite in float16.
SCALE = 0.002
#: Layers in one file.
LAYERS_A_FILE = 4
IM_START, IM_END, END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(folder: Path, shapes: Shapes, context: int = 32768) -> Path:
    """Write the checkpoint into `folder` unless it is there whole; returns `folder`. About 5.6 GB for the 7B."""
    if (folder / "model.safetensors.index.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(shapes, context), indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "eos_token_id": [256]}))
    _tokenizer(folder, shapes)
    _weights(folder, shapes)
    return folder


def config(shapes: Shapes, context: int) -> dict[str, Any]:
    """config.json as Qwen's own checkpoint has it."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": shapes.hidden,
        "intermediate_size": shapes.intermediate,
        "num_hidden_layers": shapes.layers,
        "num_attention_heads": shapes.heads,
        "num_key_value_heads": shapes.kv_heads,
        "vocab_size": shapes.vocabulary,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "bos_token_id": 256,
        "eos_token_id": 256,
        "quantization_config": {
            "quant_method": "gptq",
            "bits": shapes.bits,
            "group_size": shapes.group,
            "desc_act": False,
            "sym": True,
            "damp_percent": 0.01,
            "static_groups": False,
            "true_sequential": True,
        },
    }


def tensors(shapes: Shapes, layers: range, generator: Any) -> Iterator[tuple[str, Any]]:
    """GPTQ's tensors of some layers: weights packed eight to an int32 along the inputs, symmetric zero points."""
    import torch

    pack = 32 // shapes.bits
    # GPTQ v1 stores the zero point minus one: 7 in every nibble for symmetric four bits.
    zero = sum(((1 << (shapes.bits - 1)) - 1) << (shapes.bits * at) for at in range(pack))
    for layer in layers:
        prefix = f"model.layers.{layer}"
        for name, (inputs, outputs, bias) in shapes.linears().items():
            at = f"{prefix}.{name}"
            yield (
                f"{at}.qweight",
                torch.randint(-(1 << 31), (1 << 31) - 1, (inputs // pack, outputs), generator=generator).to(
                    torch.int32
                ),
            )
            groups = inputs // shapes.group
            yield f"{at}.qzeros", torch.full((groups, outputs // pack), zero, dtype=torch.int32)
            yield (
                f"{at}.scales",
                (SCALE * (0.5 + torch.rand((groups, outputs), generator=generator))).to(torch.float16),
            )
            yield f"{at}.g_idx", (torch.arange(inputs, dtype=torch.int32) // shapes.group)
            if bias:
                yield f"{at}.bias", torch.zeros(outputs, dtype=torch.float16)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}.{norm}.weight", torch.ones(shapes.hidden, dtype=torch.float16)


def _weights(folder: Path, shapes: Shapes) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(SEED)
    index: dict[str, str] = {}
    total = 0

    def save(name: str, some: dict[str, Any]) -> None:
        nonlocal total
        save_file(some, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(some, name))
        total += sum(tensor.nbytes for tensor in some.values())

    for first in range(0, shapes.layers, LAYERS_A_FILE):
        layers = range(first, min(first + LAYERS_A_FILE, shapes.layers))
        save(f"model-{first:02d}.safetensors", dict(tensors(shapes, layers, generator)))
    rows = (shapes.vocabulary, shapes.hidden)
    ends = {
        name: (0.02 * torch.randn(rows, generator=generator)).to(torch.float16)
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    save("model-ends.safetensors", ends | {"model.norm.weight": torch.ones(shapes.hidden, dtype=torch.float16)})
    # Last: a folder with an index is whole.
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)


def _tokenizer(folder: Path, shapes: Shapes) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in (END, IM_START, IM_END)])
    # Ids beyond the bytes exist in the model; they must decode to something.
    missing = shapes.vocabulary - tokenizer.get_vocab_size()
    tokenizer.add_tokens([f" w{at}" for at in range(missing)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": END,
                "pad_token": END,
                "chat_template": TEMPLATE,
                "model_max_length": 32768,
            }
        )
    )
