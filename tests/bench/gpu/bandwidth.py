"""The card's memory bandwidth as a copy measures it: bytes read and written per second, the best of some runs."""

BYTES = 1 << 30
RUNS = 20


def measured() -> float:
    """Bytes/s. Needs an NVIDIA GPU."""
    import torch

    source = torch.empty(BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(RUNS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        best = min(best, begin.elapsed_time(end) / 1000)
    return 2 * BYTES / best


if __name__ == "__main__":
    print(measured())
