"""cost: the arithmetic of the published examples."""

from __future__ import annotations

from decimal import Decimal

import pytest

from infra.fc.prices import Size, price

T4_4 = Size(4, 16384, 16384, 10240)
T4_8 = Size(8, 32768, 16384, 10240)


def test_the_billing_pages_own_example_comes_out() -> None:
    # 8 vCPU, 32 GB, one T4: 10 h active, 40 h hibernated, 1 M requests = 3,290,700 CU = 361.977 CNY.
    cu = T4_8.cu(10, 40, 1_000_000)
    assert cu == pytest.approx(3_290_700)
    assert price(cu, "CNY") == pytest.approx(Decimal("361.977"))


@pytest.mark.parametrize(("state", "rate"), [("active", 40.0), ("hibernated", 9.6)])
def test_the_rates_of_4_vcpu_with_16_gb(state: str, rate: float) -> None:
    assert T4_4.cu_per_second(state) == pytest.approx(rate)


def test_disk_above_the_free_ten_gb_costs_in_both_states() -> None:
    bigger = Size(4, 16384, 16384, 20480)
    for state in ("active", "hibernated"):
        assert bigger.cu_per_second(state) - T4_4.cu_per_second(state) == pytest.approx(0.5)


def test_a_small_disk_gives_nothing_back() -> None:
    assert Size(4, 16384, 16384, 512).cu_per_second("active") == T4_4.cu_per_second("active")


def test_each_price_step_counts_only_what_is_above_the_last() -> None:
    assert price(200e6, "CNY") == pytest.approx(Decimal(22_000))
    assert price(201e6, "CNY") == pytest.approx(Decimal(22_100))
    assert price(1_001e6, "CNY") == pytest.approx(Decimal(22_000 + 80_000 + 90))
    assert price(0, "USD") == 0


def test_a_month_never_hibernated_costs_four_times_a_hibernated_one() -> None:
    awake, asleep = T4_4.cu(720, 0), T4_4.cu(0, 720)
    assert price(asleep, "CNY") == pytest.approx(Decimal("2737.152"))
    assert price(awake, "CNY") == pytest.approx(Decimal("11404.8"))
