"""Bytes a decode step must read, and so the most tokens/s a card can give. Arithmetic only; no GPU, no torch.

A decode step reads every weight once, whatever the batch, and each sequence's KV cache. The embedding is a gather of
one row a sequence and counts as nothing. Groups are those of GPTQ: one half-precision scale per group and column, and
the packed zero points, which symmetric kernels do not read.
"""

from dataclasses import dataclass

HALF_BYTES = 2


@dataclass(frozen=True)
class Shapes:
    """A Qwen2 with GPTQ linear layers. The defaults are Qwen2.5-7B-Instruct-GPTQ-Int4's own config.json."""

    layers: int = 28
    hidden: int = 3584
    intermediate: int = 18944
    heads: int = 28
    kv_heads: int = 4
    vocabulary: int = 152064
    bits: int = 4
    group: int = 128

    @property
    def head(self) -> int:
        return self.hidden // self.heads

    def linears(self) -> dict[str, tuple[int, int, bool]]:
        """Name in a layer -> (inputs, outputs, has a bias)."""
        kv = self.kv_heads * self.head
        return {
            "self_attn.q_proj": (self.hidden, self.hidden, True),
            "self_attn.k_proj": (self.hidden, kv, True),
            "self_attn.v_proj": (self.hidden, kv, True),
            "self_attn.o_proj": (self.hidden, self.hidden, False),
            "mlp.gate_proj": (self.hidden, self.intermediate, False),
            "mlp.up_proj": (self.hidden, self.intermediate, False),
            "mlp.down_proj": (self.intermediate, self.hidden, False),
        }

    def weight_bytes(self) -> int:
        """Read in every step: packed weights, scales, the output layer in half precision."""
        parameters = sum(inputs * outputs for inputs, outputs, _ in self.linears().values())
        packed = parameters * self.bits // 8
        scales = parameters // self.group * HALF_BYTES
        return self.layers * (packed + scales) + self.vocabulary * self.hidden * HALF_BYTES

    def kv_bytes(self, tokens: int) -> int:
        """Keys and values of one sequence of this length, in half precision."""
        return 2 * self.layers * self.kv_heads * self.head * HALF_BYTES * tokens


def most_tokens_per_s(shapes: Shapes, bandwidth: float, streams: int, context: int) -> float:
    """The roofline: tokens/s of `streams` sequences of `context` tokens at `bandwidth` bytes/s."""
    step = shapes.weight_bytes() + streams * shapes.kv_bytes(context)
    return streams * bandwidth / step
