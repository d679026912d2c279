"""Draws results as SVG: tokens/s and TTFT against concurrency, one line a peer, median of the rounds."""

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any


def draw(results: dict[str, Any], folder: Path) -> None:
    """Write `throughput.svg` into `folder` when there is something to draw."""
    cells = results.get("throughput", {}).get("data")
    if not cells:
        return
    import matplotlib

    matplotlib.use("svg")
    # Same numbers, same file: no date and no random ids.
    matplotlib.rcParams["svg.hashsalt"] = "chatbot-llm"
    from matplotlib import pyplot

    shapes = list(dict.fromkeys(cell["shape"] for cell in cells))
    figure, axes = pyplot.subplots(2, len(shapes), figsize=(5 * len(shapes), 7), squeeze=False, sharex=True)
    for column, shape in enumerate(shapes):
        for row, (key, label) in enumerate((("tokens_per_s", "tokens/s"), ("ttft_p50_ms", "TTFT p50, ms"))):
            axis = axes[row][column]
            for peer in dict.fromkeys(cell["peer"] for cell in cells):
                points: dict[int, list[float]] = defaultdict(list)
                for cell in cells:
                    if cell["peer"] == peer and cell["shape"] == shape:
                        points[cell["concurrency"]].append(cell[key])
                levels = sorted(points)
                axis.plot(levels, [statistics.median(points[level]) for level in levels], marker="o", label=peer)
            axis.set_ylabel(label)
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
        axes[0][column].set_title(shape)
        axes[1][column].set_xlabel("concurrent requests")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(folder / "throughput.svg", metadata={"Date": None})
    pyplot.close(figure)
