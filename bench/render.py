"""From the results to benchmarks.md, benchmarks.json, and pictures."""

import json
from pathlib import Path
from statistics import median

from bench import goals
from bench.host import IMAGES, RELOADS
from bench.sections import SECTIONS, Results, Section, ways_of
from bench.values import cell, number

OURS, OTHERS, REFERENCE = "#1b6ca8", "#9aa0a6", "#d4d7da"

HOW = (
    "Made by `make bench` ([bench/](../bench)); do not edit. "
    "One run measures all ways in turn, each time in a new network namespace, in a random order from a seed. "
    "Each number is a median, with the minimum and the maximum in brackets. "
    "Compare the ratios: another machine has other numbers. "
    "The paragraphs that explain the numbers were written in November 2026."
)


def origin(results: Results) -> str:
    """Say when, on what and how often."""
    machine, run = results["machine"], results["run"]
    repetitions = run["size"]["repetitions"]
    return (
        f"{run['at']}, {run['seconds'] // 60} min {run['seconds'] % 60} s, {repetitions} "
        f"repetition{'s' * (repetitions != 1)}, seed {run['seed']}; {machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['memory_mib'] / 1024:.1f} GiB, Linux {machine['kernel']}, {machine['system']}; "
        f"{machine['haproxy']}; Python {machine['python']}; {machine['tini']}; {machine['safe_reload']}"
        f"{' (' + run['commit'] + ')' if run.get('commit') else ''}. "
        f"Load average before the run: {machine['load_average_before']:.1f}."
    )


def apart(results: Results, measure: str) -> list[str]:
    """Say of a section that it is from another run than the page, if it is."""
    run = results.get("apart", {}).get(measure)
    if not run:
        return []
    words = (
        f"This section is from a run of its own: {run['at']}, {run['repetitions']} repetitions, {run['commit']}. "
        f"Load average before it: {run['load_average_before']:.1f}."
    )
    return [words, ""]


def markdown(results: Results, pictures: dict[str, str]) -> str:
    """Write the page."""
    run, sizes = results["run"], results.get("sizes")
    lines = [
        "# Benchmarks",
        "",
        HOW,
        "",
        origin(results),
    ]
    if run["quick"]:
        lines += [
            "",
            "**A quick run: one repetition of a second or less each. It only shows that everything works.**",
        ]
    lines += [f"\n**Failed:** {' '.join(error.split())}" for error in run["errors"]]
    if run["left_out"]:
        lines += ["", f"**Left out, because the time was up: {run['left_out']} trials.**"]
    if run["skipped"]:
        ways = "; ".join(f"{results['ways'][key]} ({why})" for key, why in run["skipped"].items())
        lines += ["", f"Not measured, because it is not installed: {ways}."]
    lines += ["", "## Goals", "", "The goals of safe_reload apply to medians; sums count every run."]
    words = (
        "Ratios are medians of the per-run ratios. For reload times they are the ratio of the two medians, which are "
        "rounded in their table. A reload may take 1.1 times as long as the parent's, and 3 ms more. "
        "Where another way is ahead, the paragraph below its table says why."
    )
    lines += [words, ""]
    lines += [goals.table(results)]
    for section in SECTIONS:
        if not results["results"].get(section.measure):
            continue
        lines += ["", f"## {section.title}", "", *apart(results, section.measure), section.words, ""]
        lines += ["\n\n".join(make(results) for make in section.tables)]
        lines += ["", section.remark] if section.remark else []
        if section.measure in pictures:
            lines += ["", f"![{section.title}]({pictures[section.measure]})"]
    if results.get("images"):
        lines += ["", *images_table(results)]
    if sizes:
        mib = {key: value / 1024 for key, value in sizes.items()}
        lines += [
            "",
            "## Size added to the image",
            "",
            "| | MiB |",
            "| --- | ---: |",
            f"| safe_reload's own files | {mib['own_kib']:.1f} |",
            f"| Debian's Python, with all that only it needs | {mib['python_kib']:.1f} |",
            f"| for comparison: Debian's haproxy package | {mib['haproxy_kib']:.1f} |",
            f"| Debian's tini package | {mib['tini_kib']:.1f} |",
            f"| the whole image | {mib['image_kib']:.1f} |",
            "",
            "This is the cost of Python; haproxy's own master adds nothing.",
        ]
    return "\n".join(lines) + "\n"


def images_table(results: Results) -> list[str]:
    """Draw what each image costs."""
    lines = [
        "## What each image costs",
        "",
        *apart(results, "images"),
        (
            "CPU from exec to the exec of the first haproxy (here one that exits at once), compared with a bare "
            f"`python3 -I -S -c pass` in the same run; resident memory of PID 1 after {RELOADS} reloads."
        ),
        "",
        "| | CPU of a start, ms | a bare Python, ms | resident, MiB |",
        "| --- | ---: | ---: | ---: |",
    ]
    for image, costs in results["images"].items():
        cells = [cell(costs["safe_reload_cpu_ms"], 0), cell(costs["python_cpu_ms"], 0)]
        lines.append(f"| {IMAGES[image]} | {' | '.join(cells)} | {costs['resident_kib'][0] / 1024:.1f} |")
    return [*lines, "", "The differences are those of the Pythons: 3.14's interpreter alone is larger than 3.11's."]


def picture(section: Section, results: Results, folder: Path) -> bool:
    """Draw horizontal bars, a panel for each column; return whether there was anything to draw."""
    import matplotlib as mpl  # noqa: PLC0415 - the tables need none
    from matplotlib import pyplot as plt  # noqa: PLC0415

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "bench"
    rows = [row for row in ways_of(results, section.measure) if any(c.values(row[2]) for c in section.panels)]
    if not rows:
        return False
    panels = section.panels
    size = (3.0 + 2.7 * len(panels), 1.25 + 0.36 * len(rows))
    figure, axes = plt.subplots(1, len(panels), sharey=True, squeeze=False, figsize=size, layout="constrained")
    colours = [OURS if key[0] in "fgh" else REFERENCE if key in ("bare", "check") else OTHERS for key, _, _ in rows]
    everything_found = [[column.values(repetitions) for _, _, repetitions in rows] for column in panels]
    tops = [max((max(values) for values in found if values), default=0) for found in everything_found]
    spread = any(len(values) > 1 for found in everything_found for values in found)
    for index, (axis, column, found) in enumerate(zip(axes[0], panels, everything_found, strict=True)):
        first = index // section.alike * section.alike
        top = max(tops[first : first + section.alike]) or 1
        middle = [
            column.middle(repetitions) if values and column.middle else median(values) if values else 0
            for (_, _, repetitions), values in zip(rows, found, strict=True)
        ]
        low = [m - min(values) if values else 0 for m, values in zip(middle, found, strict=True)]
        high = [max(values) - m if values else 0 for m, values in zip(middle, found, strict=True)]
        axis.barh(range(len(rows)), middle, color=colours, height=0.68)
        if spread:
            at_rows = range(len(rows))
            axis.errorbar(middle, at_rows, xerr=[low, high], fmt="none", ecolor="#333333", elinewidth=0.9, capsize=2)
        axis.set_xlim(0, top * 1.42)
        axis.locator_params(axis="x", nbins=4)
        axis.xaxis.set_major_formatter("{x:,g}")
        for at, (value, values) in enumerate(zip(middle, found, strict=True)):
            end = max(values) if values else 0
            text = number(value, column.digits) if values else "none"
            axis.annotate(text, (end, at), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
        axis.set_title(column.title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.set_xlabel(section.unit, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_yticks(range(len(rows)), [title for _, title, _ in rows], fontsize=9)
    axes[0][0].invert_yaxis()
    middles = "all runs" if any(column.middle for column in panels) else "median"
    note = f"{middles}; whiskers: least and most" if spread else "one repetition"
    figure.suptitle(f"{section.title.replace('`', '')}  ({note})", fontsize=10, x=0.01, ha="left")
    figure.savefig(folder / f"{section.measure}.svg", metadata={"Date": None})
    figure.savefig(folder / f"{section.measure}.png", dpi=130)
    plt.close(figure)
    return True


def everything(results: Results, out: Path) -> list[Path]:
    """Write the page, the numbers and the pictures; return what was written."""
    folder = out / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    page, numbers = out / "benchmarks.md", out / "benchmarks.json"
    numbers.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")  # first: it is what took so long
    try:
        drawn = {s.measure: f"benchmarks/{s.measure}.svg" for s in SECTIONS if picture(s, results, folder)}
    except ImportError:
        drawn = {}
    page.write_text(markdown(results, drawn), encoding="utf-8")
    return [page, numbers, *(out / name for name in drawn.values())]
