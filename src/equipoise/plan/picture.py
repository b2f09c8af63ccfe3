"""Pictures of a plan: who does what when, and throughput against the split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.patches import Patch

from equipoise.plan.pipeline import LEARNER, Trace, sampler
from equipoise.plan.report import Window
from equipoise.plan.split import Tried
from equipoise.report.figures import DASHES, FAINT, PALETTE, Sheet

COLOURS = {
    "generate": PALETTE[0],
    "learn": PALETTE[2],
    "score": PALETTE[3],
    "record": PALETTE[5],
    "publish": PALETTE[1],
    "swap": PALETTE[4],
}
ROWS = 8  # samplers shown, at most
STEPS = 4  # steps shown


def gantt(trace: Trace, w: Window, path: Path, title: str) -> None:
    """Some steps within the window: a row for the learners and for each of the first samplers. White is waiting."""
    shown = min(trace.drawn.shape[1], ROWS)
    rows = [LEARNER, *(sampler(i) for i in range(shown))]
    if any(s.who == "link" for s in trace.spans):
        rows.insert(1, "link")
    sheet = Sheet(11.0, 1.2 + 0.34 * len(rows))
    [ax] = sheet.axes
    last = float(trace.learned[min(w.first + STEPS, w.last)])
    for y, who in enumerate(rows):
        for s in trace.of(who):
            if s.end > w.start and s.start < last:
                ax.barh(y, s.end - s.start, left=s.start - w.start, height=0.72, color=COLOURS[s.state], linewidth=0)
                if s.state in ("generate", "learn") and s.end - s.start > 0.05 * (last - w.start):
                    middle = (max(s.start, w.start) + min(s.end, last)) / 2 - w.start
                    ax.text(middle, y, str(s.step), ha="center", va="center", color="white", fontsize=7.5)
    ax.set_yticks(range(len(rows)), rows)
    ax.invert_yaxis()
    ax.set_xlim(0, last - w.start)
    ax.set_xlabel("seconds; numbers are steps; white: waiting")
    ax.grid(axis="y", visible=False)
    ax.set_title(title, pad=24)
    used = [state for state in COLOURS if any(s.state == state and s.end > s.start for s in trace.spans)]
    ax.legend(
        handles=[Patch(color=COLOURS[state], label=state) for state in used],
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=len(used),
        borderaxespad=0.2,
    )
    sheet.png(path)


def curve(curves: Sequence[tuple[str, Sequence[Tried]]], path: Path) -> None:
    """Throughput against the share of accelerators that learn: an axes each, a line for each size of a sampler."""
    sheet = Sheet(11.0, 3.4, columns=len(curves))
    for ax, (title, tried) in zip(sheet.axes, curves, strict=True):
        for k, size in enumerate(sorted({t.cluster.sampler_gpus for t in tried})):
            mine = [t for t in tried if t.cluster.sampler_gpus == size]
            x = [t.cluster.learners / t.cluster.gpus for t in mine]
            y = [t.tokens_a_second for t in mine]
            ax.plot(x, y, DASHES[0], marker="o", markersize=3, color=PALETTE[k], label=f"samplers of {size}")
        top = max(tried, key=lambda t: t.tokens_a_second)
        ax.axvline(top.cluster.learners / top.cluster.gpus, color=FAINT, linewidth=1.2, zorder=0)
        ax.set_title(title)
        ax.set_xlim(0, 1)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("share of accelerators that learn")
        ax.set_ylabel("generated tokens a second")
        ax.legend(fontsize=8)
    sheet.png(path)
