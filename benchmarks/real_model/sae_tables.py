"""Tables of the stand-in's SAEs: the published ones beside them, recipes beside each other, and another model."""

from __future__ import annotations

from statistics import mean, median
from typing import Any, Final, NamedTuple

import numpy
from scipy.stats import spearmanr


class Published(NamedTuple):
    """One layer's row in the table of the published SAEs."""

    loss: float
    mse: float
    l0: int


PUBLISHED: Final = (
    *(Published(3.4457, 3.1244, 1225), Published(2.0052, 1.9042, 1386), Published(0.1182, 0.0759, 1546)),
    *(Published(0.1182, 0.0758, 3096), Published(0.0361, 0.0170, 1635), Published(0.0414, 0.0351, 399)),
    *(Published(0.0318, 0.0138, 1807), Published(0.0877, 0.0661, 1120), Published(0.0733, 0.0445, 1379)),
    *(Published(0.0561, 0.0317, 1569), Published(0.0997, 0.0852, 591), Published(0.0252, 0.0097, 3658)),
    *(Published(0.0565, 0.0395, 962), Published(0.0924, 0.0619, 1403), Published(0.2711, 0.2504, 709)),
    *(Published(0.1501, 0.1062, 1576), Published(0.1670, 0.1426, 870), Published(0.0385, 0.0218, 1470)),
)
"""Final loss, MSE and L0 by layer, as the card of mindchain/functiongemma-270m-sae prints them: SAEs of
google/functiongemma-270m-it at o_proj, 4,096 features, 5 epochs, batch size 1, AdamW at 1e-4, MSE + 0.01 * L1."""


def table(titles: list[str], rows: list[list[str]]) -> None:
    """Print a table in Markdown."""
    print("\n| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def show_seed(found: dict[str, Any]) -> None:
    """The published table beside ours, and how they go together over the layers."""
    rows = found["training"]
    published = [PUBLISHED[row["layer"]] for row in rows]
    cells = [
        [
            str(row["layer"]),
            *(f"{value:.4f}" for value in (theirs.loss, row["loss"], theirs.mse, row["mse"])),
            f"{theirs.l0:,}",
            f"{row['l0']:,.0f}",
        ]
        for row, theirs in zip(rows, published, strict=True)
    ]
    table(["layer", "loss, published", "here", "MSE, published", "here", "L0, published", "here"], cells)
    for name in ("loss", "mse", "l0"):
        theirs, ours = [float(getattr(one, name)) for one in published], [float(row[name]) for row in rows]
        rank = spearmanr(theirs, ours)
        log = numpy.corrcoef(numpy.log(theirs), numpy.log(ours))[0, 1]
        print(f"{name}: rank correlation {rank.statistic:.2f} (p {rank.pvalue:.2g}), of the logarithms {log:.2f}")


def show_recipes(found: dict[str, Any]) -> None:
    """What each recipe keeps, over the layers and layer by layer."""
    rows = []
    for recipe, one in found.items():
        health, calls = one["health"], one["calls"]
        if not health:
            continue
        same = "-" if calls is None else f"{median(calls['by_layer'].values()):g} of {calls['calling']}"
        every = "-" if calls is None else f"{calls['every_layer']} of {calls['calling']}"
        rows.append(
            [
                recipe,
                f"{mean(part['fvu'] for part in health):.3f}",
                f"{mean(part['l0'] for part in health):,.0f}",
                f"{mean(part['dead'] for part in health):,.0f}",
                f"{mean(part['recovered'] for part in health):.3f}",
                f"{min(part['recovered'] for part in health):.3f}",
                same,
                every,
                f"{one['seconds'] / 60:.0f} min",
                f"{one['peak_mib']:,} MiB",
            ]
        )
    titles = ["recipe", "FVU", "L0", "dead", "loss recovered", "worst layer", "same calls, one layer (median)"]
    table([*titles, "all layers at once", "training, CPU time", "peak memory"], rows)
    cells = []
    for number, part in enumerate(next(iter(found.values()))["health"]):
        each = [one["health"][number] for one in found.values()]
        cells.append([str(part["layer"]), *(f"{one['fvu']:.3f} ({one['l0']:,.0f})" for one in each)])
    table(["layer: FVU (L0) on held-out conversations", *found], cells)


def show_drift(recipe: str, rows: list[dict[str, Any]], against: str) -> None:
    """What the SAEs make of the other model, layer by layer."""
    print(f"\n{recipe} against {against}:")
    cells = [
        [
            str(one["layer"]),
            f"{one['moved']:.3f}",
            *(f"{value:.3f}" for value in one["fvu"]),
            *(f"{value:,.0f}" for value in one["l0"]),
            *(str(len(one[name])) for name in ("died", "alive", "rates", "means")),
        ]
        for one in rows
    ]
    table(["layer", "moved", "FVU", "there", "L0", "there", "died", "alive", "rates", "means"], cells)
