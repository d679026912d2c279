"""What an instance costs, from the published coefficients and prices.

Source: github.com/aliyun-fc/fc-docs 37ecbc6, docs/zh-CN/02.云函数/03 (billing), pages 03/001 and 03/003 of
2026-07-24, which are help.aliyun.com's billing overview. FC counts every resource in CU and sells CU:

    active      CU/s = vCPU + 0.15 x memory GB + 2.1 x GPU memory GB + 0.05 x disk GB above 10
    hibernated  CU/s =        0.10 x memory GB + 0.5 x GPU memory GB + 0.05 x disk GB above 10
    requests    75 CU per 10,000

Resources count as configured, not as used; the GPU is rounded up to whole seconds, requests that overlap on
one instance are counted once. The monthly price falls in steps over all functions of the account. These are
list prices: the promotion that ended on 2026-08-27 (20 % off) is left out, as are traffic, logs and registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import inf
from typing import Any

# CU/s of one vCPU, and of one GB of memory, of GPU memory (fc.gpu.tesla.1) and of disk.
RATES = {"active": (1.0, 0.15, 2.1, 0.05), "hibernated": (0.0, 0.10, 0.5, 0.05)}
FREE_DISK_GB = 10
CU_PER_REQUEST = 75 / 10_000
HOURS_PER_MONTH = 720  # 30 days, as the billing page's own examples
ROUNDED_S = 0.5  # a busy span is rounded up to whole seconds: on average by this much

# (CU of the month up to here, price of one CU). List prices: mainland China; international site.
PRICES: dict[str, list[tuple[float, Decimal]]] = {
    "CNY": [(200e6, Decimal("0.00011")), (1_000e6, Decimal("0.00010")), (inf, Decimal("0.00009"))],
    # A third step, 0.000014, begins somewhere above: then this is too much.
    "USD": [(100e6, Decimal("0.000020")), (inf, Decimal("0.000017"))],
}


@dataclass(frozen=True)
class Size:
    """What one instance is configured with."""

    vcpu: float
    memory_mb: int
    gpu_memory_mb: int
    disk_mb: int

    @classmethod
    def of(cls, props: Mapping[str, Any]) -> Size:
        """Of rendered props (`template.render`), or of a function as the API has it."""
        gpu = props.get("gpuConfig", {}).get("gpuMemorySize", 0)
        return cls(props["cpu"], props["memorySize"], gpu, props.get("diskSize", 512))

    def cu_per_second(self, state: str) -> float:
        """CU/s of one instance that is "active" or "hibernated"."""
        memory, gpu, disk = (size / 1024 for size in (self.memory_mb, self.gpu_memory_mb, self.disk_mb))  # MB -> GB
        configured = (self.vcpu, memory, gpu, max(0.0, disk - FREE_DISK_GB))
        return sum(rate * amount for rate, amount in zip(RATES[state], configured, strict=True))

    def cu(self, hours_active: float, hours_hibernated: float, requests: float = 0) -> float:
        active, hibernated = self.cu_per_second("active"), self.cu_per_second("hibernated")
        return 3600 * (hours_active * active + hours_hibernated * hibernated) + requests * CU_PER_REQUEST


def price(cu: float, currency: str) -> Decimal:
    """A month's CU through the price steps."""
    steps = PRICES[currency]
    begins = [0.0, *(limit for limit, _ in steps)]
    paid = (max(0.0, min(cu, limit) - begin) for begin, (limit, _) in zip(begins, steps, strict=False))
    return sum((Decimal(part) * unit for part, (_, unit) in zip(paid, steps, strict=True)), Decimal(0))
