"""The plots, drawn once with matplotlib and used twice: as inline SVG with hover titles, and as PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter, StrMethodFormatter

from equipoise.report.folders import UNITS, Floats, Run

# Okabe and Ito's palette for colour-blind readers, without its yellow, which is too light for lines on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C510A", "#5E4FA2")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
START_COLOUR, INK, FAINT = "#6B7280", "#1F2933", "#D5DAE0"
WIDE = (11.0, 4.4)  # inches; a page shows them at 1.3 times their size
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9AA5B1",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "grid.color": "#E9ECEF",
    "grid.linewidth": 0.8,
    "xtick.color": "#52606D",
    "ytick.color": "#52606D",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "equipoise",
    "figure.facecolor": "white",
}
NAMES = {  # metric -> words on an axis
    "eval/pass@1": "pass@1, validation",
    "eval/reward": "reward, validation",
    "eval/loss": "loss, validation (nats a token)",
    "eval/preference_accuracy": "preference accuracy, validation",
    "pass@1": "pass@1, test",
    "reward": "mean reward",
    "loss": "loss, test (nats a token)",
    "preference_accuracy": "preference accuracy, test",
}


@dataclass(frozen=True)
class Look:
    """How an arm is drawn, everywhere the same."""

    colour: str
    dash: Any = "-"


def looks(arms: Sequence[str]) -> dict[str, Look]:
    """A colour for each arm, and another dash for each round through the palette; the start model is grey."""
    trained = [arm for arm in arms if arm != "start"]
    rounds = {arm: divmod(k, len(PALETTE)) for k, arm in enumerate(trained)}
    return {"start": Look(START_COLOUR)} | {
        arm: Look(PALETTE[k], DASHES[turn % len(DASHES)]) for arm, (turn, k) in rounds.items()
    }


class Sheet:
    """One or more axes in the house style; remembers what its points say when hovered over."""

    def __init__(self, width: float, height: float, columns: int = 1, widths: Sequence[float] | None = None) -> None:
        with mpl.rc_context(STYLE):
            self.figure = Figure(figsize=(width, height), layout="constrained")
            made = self.figure.subplots(1, columns, squeeze=False, width_ratios=widths)
        self.axes: list[Axes] = list(made[0])
        self.titles: dict[str, list[str]] = {}

    def points(self, ax: Axes, x: Floats, y: Floats, says: Sequence[str], **style: Any) -> None:
        """Scatter, each point with a title of its own."""
        gid = f"hover-{len(self.titles)}"
        self.titles[gid] = list(says)
        ax.scatter(x, y, gid=gid, **{"s": 26, "linewidths": 0, "zorder": 4, **style})

    def png(self, path: Path) -> None:
        """Write the picture, at twice the resolution of a screen."""
        with mpl.rc_context(STYLE):
            self.figure.savefig(path, dpi=170, metadata={"Software": "Equipoise"})

    def svg(self, label: str) -> Markup:
        """The picture as an SVG element that scales to its place, titled for readers who cannot see it."""
        buffer = io.StringIO()
        with mpl.rc_context(STYLE):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return Markup(_inline(buffer.getvalue(), self.titles, label))


SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def _inline(text: str, titles: Mapping[str, Sequence[str]], label: str) -> str:
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(text)
    for gone in root.findall(f"{{{SVG}}}metadata"):
        root.remove(gone)
    for group in root.iter(f"{{{SVG}}}g"):
        for mark, words in zip(group.iter(f"{{{SVG}}}use"), titles.get(group.get("id", ""), ()), strict=False):
            ElementTree.SubElement(mark, f"{{{SVG}}}title").text = words
        if re.fullmatch(r"(hover-\d+|figure_\d+|axes_\d+|patch_\d+|.*_\d+)", group.get("id", "")):
            del group.attrib["id"]  # would be double in a page with several pictures
    del root.attrib["width"], root.attrib["height"]
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def _x_axis(ax: Axes, against: str) -> None:
    unit = against.removeprefix("spent/")
    if against == "fraction":
        ax.set_xlabel("share of the budget spent")
        ax.set_xlim(0, 1.02)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    else:
        words, name = UNITS[unit]
        ax.set_xlabel(f"{words} spent" if words.endswith(name) else f"{words} spent ({name})")
        ax.set_xlim(left=0)
        plain = StrMethodFormatter("{x:g}")  # nobody reads micro-dollars
        ax.xaxis.set_major_formatter(plain if unit == "usd" else EngFormatter(sep=""))
    ax.xaxis.set_major_locator(MaxNLocator(6))


def _legend(ax: Axes, columns: int = 4) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        ax.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=columns,
            borderaxespad=0.2,
            handlelength=1.6,
            columnspacing=1.4,
            frameon=False,
            labelcolor=INK,
        )


# -- one run ---------------------------------------------------------------------------------------------------------


def learning_curve(run: Run, against: str = "fraction", colour: str = PALETTE[0]) -> Sheet:
    """Training reward of every step, its running mean, and the held-out score with its interval."""
    sheet = Sheet(*WIDE)
    ax = sheet.axes[0]
    x, reward = run.curve("reward", against=against)
    if len(x):
        ax.plot(x, reward, color=PALETTE[4], linewidth=0.8, alpha=0.55)
        window = max(1, len(x) // 15)
        label = "training reward" if window == 1 else f"training reward (mean of {window} steps)"
        ax.plot(x, running_mean(reward, window), color=PALETTE[4], label=label)
    if run.held_out is not None:
        _held_out(sheet, ax, run, run.held_out, against, colour)
    _x_axis(ax, against)
    ax.set_ylabel("score")
    _legend(ax, 2)
    return sheet


def _held_out(sheet: Sheet, ax: Axes, run: Run, name: str, against: str, colour: str) -> None:
    x, y = run.curve(name, against=against)
    xi, low, high = run.curve(f"{name}_low", f"{name}_high", against=against)
    ax.fill_between(xi, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.plot(x, y, color=colour, label=f"{NAMES.get(name, name)} (95% interval)", zorder=3)
    ends = {float(a): f" [{b:.3f}, {c:.3f}]" for a, b, c in zip(xi, low, high, strict=True)}
    sheet.points(ax, x, y, [f"{b:.3f}{ends.get(float(a), '')}" for a, b in zip(x, y, strict=True)], color=colour)


def running_mean(x: Floats, window: int) -> Floats:
    """Mean of the last ``window`` values, fewer at the beginning."""
    total = np.concatenate([[0.0], np.cumsum(x)])
    end = np.arange(1, len(x) + 1)
    begin = np.maximum(end - window, 0)
    return np.asarray((total[end] - total[begin]) / (end - begin), dtype=np.float64)


def diagnostic(run: Run, name: str, unit: str) -> Sheet:
    """A small plot of one logged number against the budget spent."""
    sheet = Sheet(3.6, 2.2)
    ax = sheet.axes[0]
    x, y = run.curve(name)
    ax.plot(x, y, color=PALETTE[0], linewidth=1.4)
    if len(x) < 40:
        sheet.points(ax, x, y, [f"{v:.4g}" for v in y], color=PALETTE[0], s=9)
    _x_axis(ax, "fraction")
    ax.set_ylabel(unit)
    ax.yaxis.set_major_locator(MaxNLocator(4))
    return sheet


# -- a trial ---------------------------------------------------------------------------------------------------------


def seeds_band(runs: Sequence[Run], name: str, against: str) -> tuple[Floats, Floats, Floats, Floats] | None:
    """x, mean, lowest and highest over the seeds where all of them have values, linear between steps; or None."""
    curves = [(x, y) for x, y in (run.curve(name, against=against) for run in runs) if len(x) and x.max() > 0]
    if not curves or len(curves) < len(runs):
        return None
    begin, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if end <= begin:
        return None
    grid = np.linspace(begin, end, 101)
    values = np.stack([np.interp(grid, x, y) for x, y in curves])
    return grid, values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def arm_curves(arms: Mapping[str, Sequence[Run]], name: str, against: str, sheet: Sheet | None = None) -> Sheet:
    """Every arm's mean curve over seeds, with a band from the lowest to the highest seed."""
    sheet = sheet or Sheet(*WIDE)
    ax = sheet.axes[0]
    style = looks(list(arms))
    for arm, runs in arms.items():
        band = seeds_band(runs, name, against)
        if band is None:
            continue
        x, mean, low, high = band[0], *((running_mean(y, 10) if name == "reward" else y) for y in band[1:])
        ax.fill_between(x, low, high, color=style[arm].colour, alpha=0.13, linewidth=0)
        ax.plot(x, mean, color=style[arm].colour, linestyle=style[arm].dash, label=arm, zorder=3)
        marks = slice(0, None, 10)
        says = [f"{arm}: {v:.3f}" for v in mean[marks]]
        sheet.points(ax, x[marks], mean[marks], says, color=style[arm].colour, s=10)
    _x_axis(ax, against)
    ax.set_ylabel("training reward" if name == "reward" else NAMES.get(name, name))
    _legend(ax, 8)
    return sheet


@dataclass(frozen=True)
class Scored:
    """An arm's held-out score with its interval, each seed's, and what each seed spent."""

    name: str
    value: float
    low: float | None
    high: float | None
    seeds: tuple[float, ...] = ()
    spent: tuple[Mapping[str, float], ...] = ()


def score_dots(arms: Sequence[Scored], metric: str, sheet: Sheet | None = None, column: int = 0) -> Sheet:
    """Held-out score of each arm: mean and 95% interval, and every seed as a faint dot."""
    sheet = sheet or Sheet(WIDE[0], 0.9 + 0.42 * len(arms))
    ax = sheet.axes[column]
    style = looks([arm.name for arm in arms])
    for row, arm in enumerate(arms):
        colour = style[arm.name].colour
        if arm.low is not None and arm.high is not None:
            ax.plot([arm.low, arm.high], [row, row], color=colour, linewidth=2.4, zorder=3)
        seeds = np.array(arm.seeds)
        says = [f"{arm.name}, one seed: {v:.3f}" for v in seeds]
        sheet.points(ax, seeds, np.full(len(seeds), row + 0.2), says, color=colour, alpha=0.45, s=14)
        sheet.points(ax, np.array([arm.value]), np.array([row]), [_says(arm)], color=colour, s=46)
    for arm in arms:
        if arm.name == "start":
            ax.axvline(arm.value, color=START_COLOUR, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    ax.set_yticks(range(len(arms)), [arm.name for arm in arms], color=INK)
    ax.set_ylim(len(arms) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(f"{NAMES.get(metric, metric)}, mean and 95% interval")
    return sheet


def _says(arm: Scored) -> str:
    ends = "" if arm.low is None or arm.high is None else f" [{arm.low:.3f}, {arm.high:.3f}]"
    return f"{arm.name}: {arm.value:.3f}{ends}"


def differences(verdicts: Sequence[Mapping[str, Any]]) -> Sheet:
    """Each pair's difference with its adjusted interval; coloured by the arm that wins, grey where none does."""
    sheet = Sheet(WIDE[0], 0.95 + 0.34 * len(verdicts))
    ax = sheet.axes[0]
    style = looks(list(dict.fromkeys([v["a"] for v in verdicts] + [v["b"] for v in verdicts])))
    for row, v in enumerate(verdicts):
        won = str(v["verdict"]).split(" beats ")[0]
        colour = style[won].colour if won in style else "#B0B8C1"
        if v["low"] is not None:
            ax.plot([v["low"], v["high"]], [row, row], color=colour, linewidth=2.4, zorder=3)
        says = f"{v['a']} − {v['b']}: {v['verdict']}"
        sheet.points(ax, np.array([v["estimate"]]), np.array([row]), [says], color=colour, s=40)
    ax.axvline(0, color=INK, linewidth=0.9, zorder=2)
    ax.set_yticks(range(len(verdicts)), [f"{v['a']} − {v['b']}" for v in verdicts], color=INK)
    ax.set_ylim(len(verdicts) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    metric = verdicts[0]["metric"]
    ax.set_xlabel(f"difference in {NAMES.get(metric, metric)}, interval at the adjusted level")
    return sheet


def pareto(arms: Sequence[Scored], metric: str, unit: str, higher: bool = True) -> Sheet:
    """Held-out score against what it cost, with a step line along the best score for each cost.

    Arms that cost about the same are drawn side by side."""
    sheet = Sheet(*WIDE)
    ax = sheet.axes[0]
    style = looks([arm.name for arm in arms])
    at = {arm.name: float(np.mean([s.get(unit, 0.0) for s in arm.spent])) if arm.spent else 0.0 for arm in arms}
    widest = max(at.values()) or 1.0
    best = _frontier([(at[arm.name], arm.value) for arm in arms], higher)
    best.append((1.2 * widest, best[-1][1]))
    ax.plot(*zip(*best, strict=True), color=FAINT, linewidth=5, drawstyle="steps-post", zorder=1)
    beside = _dodged(at, 0.022 * widest)
    for arm in arms:
        _costed(sheet, ax, arm, beside[arm.name], unit, style[arm.name].colour)
    _x_axis(ax, f"spent/{unit}")
    ax.set_xlim(min(beside.values()) - 0.03 * widest, max(1.08 * widest, max(beside.values()) + 0.03 * widest))
    ax.margins(y=0.12)
    ax.set_ylabel(NAMES.get(metric, metric))
    return sheet


def _costed(sheet: Sheet, ax: Axes, arm: Scored, x: float, unit: str, colour: str) -> None:
    if arm.low is not None and arm.high is not None:
        ax.plot([x, x], [arm.low, arm.high], color=colour, linewidth=2.2, alpha=0.8, zorder=3)
    if len(arm.seeds) == len(arm.spent) > 1:
        says = [
            f"{arm.name}, one seed: {v:.3f} for {s.get(unit, 0):,.6g}"
            for v, s in zip(arm.seeds, arm.spent, strict=True)
        ]
        sheet.points(ax, np.full(len(arm.seeds), x), np.array(arm.seeds), says, color=colour, alpha=0.5, s=12)
    sheet.points(ax, np.array([x]), np.array([arm.value]), [_says(arm)], color=colour, s=52)
    top = arm.value if arm.high is None else arm.high
    ax.annotate(
        arm.name,
        (x, top),
        (0, 5),
        textcoords="offset points",
        color=colour,
        ha="center",
        va="bottom",
        fontweight="bold",
    )


def _dodged(at: Mapping[str, float], gap: float) -> dict[str, float]:
    """Positions at least ``gap`` apart: those nearer to each other are spread evenly about their mean."""
    clusters: list[list[str]] = []
    for name in sorted(at, key=lambda n: at[n]):
        near = clusters and at[name] - at[clusters[-1][-1]] < gap
        clusters = [*clusters[:-1], [*clusters[-1], name]] if near else [*clusters, [name]]
    return {
        name: float(np.mean([at[n] for n in those])) + gap * 1.9 * (k - (len(those) - 1) / 2)
        if len(those) > 1
        else at[name]
        for those in clusters
        for k, name in enumerate(sorted(those, key=list(at).index))
    }


def _frontier(points: Sequence[tuple[float, float]], higher: bool) -> list[tuple[float, float]]:
    """Points that none beats at the same or a lower cost, by cost."""
    sign: Callable[[float], float] = (lambda y: y) if higher else (lambda y: -y)
    found: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0], -sign(p[1]))):
        if not found or sign(y) > sign(found[-1][1]):
            found.append((x, y))
    return found


def trial_picture(arms: Mapping[str, Sequence[Run]], name: str | None, scored: Sequence[Scored], metric: str) -> Sheet:
    """The main plot of a trial: learning curves beside final scores; only the scores where there are no curves."""
    if name is None:
        return score_dots(scored, metric)
    sheet = Sheet(11.0, 4.2, columns=2, widths=(1.25, 1.0))
    arm_curves(arms, name, "fraction", sheet)
    score_dots(scored, metric, sheet, column=1)
    with mpl.rc_context(STYLE):
        sheet.axes[1].set_title("After the budget: held-out test", pad=28)
        sheet.axes[0].set_title("While learning: validation", pad=28)
    return sheet
