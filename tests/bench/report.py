"""What a run found, as a table, as JSON and as a picture."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from bench.figures import Findings, Ratio

_HOLDS: Final = {True: "yes", False: "NO", None: ""}


def table(found: Findings) -> Table:
    """The ratios, and the figures that they are made of."""
    shown = Table("row", "figure", "against", "median", "spread", "bound", "holds")
    for each in sorted(found.ratios, key=lambda ratio: int(ratio.row)):
        low, high = each.spread
        shown.add_row(
            each.row, each.what, each.against, f"{each.median:.2f} x", f"{low:.2f} to {high:.2f}",
            str(each.bound or "reported"), _HOLDS[each.holds],
        )  # fmt: skip
    shown.add_section()
    for figure in sorted(found.absolutes, key=lambda absolute: int(absolute.row)):
        low, high = figure.spread
        shown.add_row(
            figure.row, figure.what, "", f"{figure.median:,.6g} {figure.unit}", f"{low:,.6g} to {high:,.6g}", "", ""
        )
    return shown


def as_json(found: Findings) -> str:
    """All figures, each with its rounds."""
    ratios = [{**asdict(each), "median": each.median, "holds": each.holds} for each in found.ratios]
    absolutes = [{**asdict(each), "median": each.median} for each in found.absolutes]
    return json.dumps({"ratios": ratios, "absolutes": absolutes}, indent=1) + "\n"


def markdown(found: Findings) -> str:
    """The ratios as a table for documents."""
    lines = [
        "| row | figure | against | median | spread | bound | holds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in sorted(found.ratios, key=lambda ratio: int(ratio.row)):
        low, high = each.spread
        lines.append(
            f"| {each.row} | {each.what} | {each.against} | {each.median:.2f} x | {low:.2f} to {high:.2f} "
            f"| {each.bound or 'reported'} | {_HOLDS[each.holds].lower()} |"
        )
    return "\n".join(lines) + "\n"


def draw(found: Findings, file: Path) -> None:
    """A picture of the ratios: a bar each with its rounds as dots, and a line where its bound is."""
    import matplotlib as mpl

    mpl.use("svg")
    # So that the same figures make the same file.
    mpl.rcParams["svg.hashsalt"] = "calltag"
    from matplotlib import pyplot as plt

    ratios = sorted(found.ratios, key=lambda ratio: int(ratio.row), reverse=True)
    figure, axes = plt.subplots(figsize=(10, 1 + 0.45 * len(ratios)))
    for place, each in enumerate(ratios):
        _bar(axes, place, each)
    axes.set_yticks(range(len(ratios)), [f"{each.row}: {each.what}\nagainst {each.against}" for each in ratios])
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xscale("log")
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.set_xlabel("ratio; the short line is the bound, dots are the rounds")
    figure.tight_layout()
    figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)


def _bar(axes: Any, place: int, ratio: Ratio) -> None:
    colour = {True: "#3a7d44", False: "#b33a3a", None: "#7a7a7a"}[ratio.holds]
    axes.barh(place, ratio.median, color=colour, height=0.55)
    axes.plot(ratio.values, [place] * len(ratio.values), "o", color="black", markersize=3)
    if ratio.bound is not None:
        axes.plot([ratio.bound.value] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.5)
