#!/usr/bin/env python3
"""Tables and plots of what `cargo bench` has measured.

    cargo bench
    benches/report.py             prints the tables as Markdown
    benches/report.py --readme    writes them into README.md
    benches/report.py --plots     draws benches/plots/*.svg

Reads criterion/ and latency.csv in cargo's target directory; needs nothing but Python.
"""

import csv
import json
import math
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PLOTS = Path(__file__).resolve().parent / "plots"
COLOURS = {"Conn": "#c2410c", "Conn, not resumable": "#7c3aed", "TcpStream": "#475569"}


def measured():
    """{group: {function: (nanoseconds, what one run moves)}}"""
    groups = {}
    for path in (TARGET / "criterion").glob("**/new/estimates.json"):
        about = json.loads((path.parent / "benchmark.json").read_text())
        estimates = json.loads(path.read_text())
        best = estimates.get("slope") or estimates["mean"]
        function = about["function_id"] or about["value_str"]
        group = groups.setdefault(about["group_id"], {})
        group[function] = (best["point_estimate"], about["throughput"])
    return groups


def size_of(name):
    """The first size in a name, in bytes."""
    found = re.search(r"([\d.]+) (B|KiB|MiB)\b", name)
    if not found:
        return 0
    return float(found[1]) * {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20}[found[2]]


def shown(nanos, moves):
    if moves and "Bytes" in moves:
        return f"{moves['Bytes'] / nanos * 1e9 / 2**30:.2f} GiB/s"
    if moves and "Elements" in moves:
        return f"{moves['Elements'] / nanos * 1e9:,.0f} /s"
    return f"{nanos / 1e3:,.1f} µs"


def table(groups):
    """Ours beside plain TCP. A ratio above 1 is better, for rates and for times alike."""
    yield "| work | `Conn` | `TcpStream` | ratio |"
    yield "|---|---:|---:|---:|"
    for name in sorted(groups, key=lambda name: (kind_of(name), size_of(name))):
        functions = groups[name]
        if {"Conn", "TcpStream"} <= functions.keys() and name not in ORIGINAL:
            (conn, moves), (tcp, _) = functions["Conn"], functions["TcpStream"]
            yield f"| {name} | {shown(conn, moves)} | {shown(tcp, moves)} | {tcp / conn:.2f} |"


def kind_of(name):
    return re.sub(r"[\d.]+ (B|KiB|MiB)", "", name)


# What the design that this library realises reports of its own implementation.
ORIGINAL = {
    "messages one way, 256 B on 2 connections": 160,
    "messages one way, 512 B on 5 connections": 1_986,
    "messages one way, 50 KiB on 3 connections": 504,
    "messages one way, 1 MiB on 2 connections": 20,
    "messages one way, 5 MiB on 1 connection": 2,
}


def beside_the_original(groups):
    yield "| messages a second | reported by the original | `Conn` here | `TcpStream` here |"
    yield "|---|---:|---:|---:|"
    for name, reported in ORIGINAL.items():
        functions = groups.get(name, {})
        if {"Conn", "TcpStream"} <= functions.keys():
            rates = [
                functions[kind][1]["Elements"] / functions[kind][0] * 1e9
                for kind in ("Conn", "TcpStream")
            ]
            what = name.removeprefix("messages one way, ")
            yield f"| {what} | {reported:,} | {rates[0]:,.0f} | {rates[1]:,.0f} |"


def fill_in(name, lines):
    """Replaces what stands in the README between the marks of that name."""
    readme = ROOT / "README.md"
    before, mark, rest = readme.read_text().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not mark or not end:
        sys.exit(f"README.md has no place for {name}")
    readme.write_text(before + mark + "\n".join(lines) + "\n" + end + after)


def plot(file, title, x_name, y_name, series, x_label, log_y=True):
    """Lines over a logarithmic x axis, as an SVG of plain shapes."""
    width, height, left, right, top, bottom = 720, 420, 80, 20, 40, 60
    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [y for points in series.values() for _, y in points]
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def at_x(x):
        return left + xs.index(x) * (width - left - right) / max(len(xs) - 1, 1)

    def at_y(y):
        part = (math.log10(y) - low) / (high - low)
        return height - bottom - part * (height - top - bottom)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{width / 2}" y="22" text-anchor="middle" font-size="15">{title}</text>',
        f'<text x="{width / 2}" y="{height - 12}" text-anchor="middle">{x_name}</text>',
        f'<text x="16" y="{height / 2}" text-anchor="middle" '
        f'transform="rotate(-90 16 {height / 2})">{y_name}</text>',
    ]
    for power in range(low, high + 1):
        y = at_y(10**power)
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e8f0"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{10**power:g}</text>')
    for x in xs:
        out.append(f'<text x="{at_x(x):.1f}" y="{height - bottom + 18}" text-anchor="middle">{x_label(x)}</text>')
    for row, (name, points) in enumerate(series.items()):
        colour = COLOURS.get(name, "#0f766e")
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in sorted(points))
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in points:
            out.append(f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3" fill="{colour}"/>')
        out.append(f'<text x="{left + 12}" y="{top + 16 + 16 * row}" fill="{colour}">{name}</text>')
    out.append("</svg>")
    PLOTS.mkdir(exist_ok=True)
    (PLOTS / file).write_text("\n".join(out) + "\n")
    print(f"\nwrote benches/plots/{file}", file=sys.stderr)


def plots(groups):
    rates, names = {}, {}
    for name, functions in groups.items():
        if not re.fullmatch(r"messages one way, [\d.]+ \S+", name):
            continue
        names[size_of(name)] = name.split(", ")[1]
        for function, (nanos, _) in functions.items():
            mib = size_of(name) / nanos * 1e9 / 2**20
            rates.setdefault(function, []).append((size_of(name), mib))
    if rates:
        plot("messages.svg", "Messages one way", "size of a message", "MiB/s", rates, names.get)
    latencies = TARGET / "latency.csv"
    if latencies.exists():
        rows = list(csv.DictReader(latencies.open()))
        series = {
            name: [(float(row["percentile"]), float(row[name])) for row in rows]
            for name in rows[0]
            if name != "percentile"
        }
        plot("latency.svg", "Round trip of 64 bytes", "percentile", "µs", series, lambda p: f"{p:g}")


def main():
    groups = measured()
    if not groups:
        sys.exit("nothing was measured yet: run `cargo bench` first")
    tables = {"bench": list(table(groups)), "original": list(beside_the_original(groups))}
    for name, lines in tables.items():
        if "--readme" in sys.argv:
            fill_in(name, lines)
        else:
            print(*lines, "", sep="\n")
    if "--plots" in sys.argv:
        plots(groups)


main()
