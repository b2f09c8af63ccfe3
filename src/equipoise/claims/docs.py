"""``docs/claims.md`` and its picture, made from the stored results and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from equipoise.claims import ledger
from equipoise.claims.claim import Claim
from equipoise.report.figures import FAINT, INK, PALETTE, START_COLOUR, STYLE, Sheet

PICTURE = "claims-rl.png"
COLOURS = {"holds here": PALETTE[2], "fails here": PALETTE[1], "cannot tell": START_COLOUR}
Pair = tuple[Claim, Mapping[str, Any]]  # a claim and one of its results

READING = """# Claims

What papers say of their methods, put to the test here. This page is made by `equipoise claims docs` from the specs in
`src/equipoise/claims/specs` and the results in `src/equipoise/claims/results`. A result is of this model, this task and
this budget: where a claim fails, the paper may still be right about its own.

    equipoise claims [WORDS]        what has been tested, and the verdicts
    equipoise claims show P386      what the paper says, what was run, curves, interval, verdict
    equipoise claims smoke [ID ...] try every arm small, see that a verdict could be told; store nothing
    equipoise claims run P386       run it again, on fresh seeds

## How to read a verdict

A spec says beforehand which two arms are compared, on which metric, in which direction, and the smallest difference
that matters. It is committed before its result, and the result names that commit. d is how far the better arm is above
the worse one (below it, where less is better), with its 95% interval over fresh seeds and fresh prompts
([trials](trials.md) says how it is computed). One contrast decides; the others are reported and decide nothing, and
their intervals are not adjusted for their number.

| verdict | when | what it means |
|-|-|-|
| holds here | the interval is above 0, and d is at least what matters | an effect, and large enough |
| fails here | the whole interval is below what matters | an effect that matters is excluded; a small one is not |
| cannot tell | otherwise | too few seeds for this; about how many more would settle it is said where they would |

Every arm has the same budget, the same training prompts and the same held-out items. Each arm's learning rate is tuned
first: every multiple in the spec is a run of its own on a quarter of the budget, with a seed that is used for nothing
else, judged on the validation split; among those within a standard error of the best, the one nearest the default is
taken. The test split is looked at once, after training. A claim that is run again draws
seeds that no stored result has used, and the newest result is the one shown."""


def write(folder: Path, specs: Path | None = None, results: Path | None = None) -> list[Path]:
    """Write the page, and the picture when there is a result; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [(c, ledger.results(c.id, results)) for c in ledger.claims(specs)]
    done = [(c, past[-1]) for c, past in found if past]
    written = [folder / "claims.md"]
    if done:
        forest(done).png(folder / PICTURE)
        written.append(folder / PICTURE)
    sections = [READING, _overview(found, bool(done)), *(_section(c, past) for c, past in found)]
    written[0].write_text("\n\n".join(sections) + "\n")
    return written


def forest(done: Sequence[Pair]) -> Sheet:
    """Every claim's d with its interval, a line each; a tick marks the smallest effect that matters."""
    sheet = Sheet(9.0, 1.3 + 0.42 * len(done))
    ax = sheet.axes[0]
    with mpl.rc_context(STYLE):
        ax.axvline(0, color=FAINT, linewidth=1.4, zorder=1)
        for y, (_, r) in enumerate(done):
            colour = COLOURS[r["verdict"]]
            ax.plot([r["low"], r["high"]], [y, y], color=colour, zorder=3)
            ax.plot([r["estimate"]], [y], "o", color=colour, zorder=4)
            ax.plot([r["contrast"]["matters"]] * 2, [y - 0.28, y + 0.28], color=INK, linewidth=1.2, zorder=2)
        for verdict, colour in COLOURS.items():
            ax.plot([], [], "o-", color=colour, label=verdict)
        ax.plot([], [], color=INK, linewidth=1.2, label="smallest that matters")
        ax.set_yticks(range(len(done)), [_label(c, r) for c, r in done])
        ax.set_ylim(len(done) - 0.4, -0.6)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("d, in favour of the claim (95% interval)")
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, handlelength=1.4, columnspacing=1.2)
    return sheet


def _label(c: Claim, r: Mapping[str, Any]) -> str:
    of = r["contrast"]
    return f"{c.id}  {of['better']} {'>' if of['higher'] else '<'} {of['worse']}, {of['metric']}"


def _overview(found: Sequence[tuple[Claim, Sequence[Mapping[str, Any]]]], pictured: bool) -> str:
    head = ["## All of them", ""]
    if pictured:
        head += [f"![difference with interval of every claim, and the smallest that matters]({PICTURE})", ""]
    head += ["| claim | method | says | d [95% interval] | matters | seeds | verdict |", "|-|-|-|-|-|-|-|"]
    for c, past in found:
        last = past[-1] if past else None
        cells = [f"[{c.id}](#{_anchor(c)})", f"`{c.method}`", c.title]
        told = (
            [_interval(last), f"{c.matters:g}", str(len(last["seeds"])), _verdict(c, last)]
            if last
            else ["", "", "", ""]
        )
        head.append("| " + " | ".join(cells + (told if last else ["", f"{c.matters:g}", "", "not run"])) + " |")
    return "\n".join(head)


def _anchor(c: Claim) -> str:
    return "".join(ch for ch in f"{c.id} {c.title}".lower().replace(" ", "-") if ch.isalnum() or ch in "-_")


def _interval(r: Mapping[str, Any]) -> str:
    return f"{r['estimate']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]"


def _words(r: Mapping[str, Any]) -> str:
    """The verdict, with the seeds that would settle it."""
    if r["verdict"] != "cannot tell":
        return str(r["verdict"])
    more = r["more_seeds"]
    return f"cannot tell; {f'about {more} more seeds would' if more else 'more seeds alone would not, or over 100'}"


def _verdict(c: Claim, r: Mapping[str, Any]) -> str:
    """The verdict; of another contrast than the spec now has, with that said."""
    of = r["contrast"]
    now = (c.better, c.worse, c.metric, c.higher)
    return _words(r) + (
        "" if now == (of["better"], of["worse"], of["metric"], of["higher"]) else ", on an earlier spec"
    )


def _section(c: Claim, past: Sequence[Mapping[str, Any]]) -> str:
    budget = ", ".join(f"{limit:.3g} {unit.replace('_', ' ')}" for unit, limit in c.budget.items())
    knobs = "".join(f", {name} {value}" for name, value in c.knobs.items())
    arms = "; ".join(f"{a.label}: `{a.method}`{_arguments(a.arguments)}" for a in c.arms)
    lines = [
        f"## {c.id} {c.title}",
        "",
        f"arXiv {c.arxiv}. {c.says}",
        "",
        f"- *Tested:* {c.deciding}, by at least {c.matters:g}.",
        f"- *Arms:* {arms}.",
        f"- *Setting:* `{c.model}` on {c.task}{knobs}; {budget} a run; {c.items} test items x {c.samples} samples.",
        f"- *Differs from the paper:* {c.differs}",
    ]
    return "\n".join(lines + [line for r in reversed(past) for line in _told(r)])


def _arguments(arguments: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{k} {v}' for k, v in arguments.items())})" if arguments else ""


def _told(r: Mapping[str, Any]) -> list[str]:
    """A result: verdict, arms, further contrasts."""
    metric, commit = r["contrast"]["metric"], r["commit"] if " " in r["commit"] else r["commit"][:10]
    span = f"{len(r['seeds'])} seeds ({min(r['seeds'])} to {max(r['seeds'])})"
    what = f"{_contrast(r['contrast'])}: d = {_interval(r)}"
    lines = ["", f"**{_words(r)}**: {what}; {span}, {r['date']}, spec at {commit}", ""]
    lines += [f"| arm | {metric} | learning rate, of those tried |", "|-|-|-|"]
    for name, m in r["measured"].items():
        lines.append(f"| {name} | {_value(m['metrics'].get(metric))} | {_rates(r, name)} |")
    lines += ["", *(f"- {_contrast(x)}: {_interval(x)}" for x in r["also"])]
    return lines


def _contrast(x: Mapping[str, Any]) -> str:
    return f"{x['metric']}, {x['better']} {'above' if x['higher'] else 'below'} {x['worse']}"


def _value(m: Mapping[str, float | None] | None) -> str:
    if m is None or m["value"] is None:
        return ""
    return f"{m['value']:.3f}" + (f" [{m['low']:.3f}, {m['high']:.3f}]" if m["low"] is not None else "")


def _rates(r: Mapping[str, Any], name: str) -> str:
    lr, tried = r["arms"].get(name, {}).get("arguments", {}).get("lr"), r["tuning"].get(name, {})
    return f"{lr:.3g} of {', '.join(tried)}" if lr and tried else ""
