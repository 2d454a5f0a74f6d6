#!/usr/bin/env python3
"""summary.py FILE REFERENCE [cpu] - the median of each tool's runs, and of the ratios of paired runs to the reference tool's.

The ratio is of wall time, or of CPU time (the reference's through the tool's: how many times as fast) with "cpu".

Lines of FILE: bench tool run seconds user sys rss_kb [MB/s]. Prints a Markdown table.
"""
import statistics
import sys


def main():
    path, reference = sys.argv[1:3]
    by_cpu = sys.argv[3:] == ["cpu"]
    runs = {}
    for line in open(path):
        _, tool, run, *numbers = line.split()
        runs.setdefault(tool, {})[run] = [float(number) for number in numbers]

    def median(tool, column):
        return statistics.median(values[column] for values in runs[tool].values() if len(values) > column)

    has_rate = len(next(iter(runs[reference].values()))) > 4
    ratio_name = "times the reference's CPU speed" if by_cpu else "of the reference"
    print(f"| tool | wall s | {ratio_name} | CPU s | peak MiB |" + (" MB/s |" if has_rate else ""))
    print("|---|---|---|---|---|" + ("---|" if has_rate else ""))
    for tool, by_run in runs.items():
        both = [(values, runs[reference][run]) for run, values in by_run.items() if run in runs[reference]]
        pairs = [sum(b[1:3]) / max(sum(a[1:3]), 0.01) if by_cpu else a[0] / b[0] for a, b in both]
        row = [tool, f"{median(tool, 0):.2f}"]
        row.append("1 (reference)" if tool == reference else f"{statistics.median(pairs):.2f} [{min(pairs):.2f}-{max(pairs):.2f}]")
        row.append(f"{statistics.median(values[1] + values[2] for values in by_run.values()):.2f}")
        row.append(f"{median(tool, 3) / 1024:.0f}")
        if has_rate:
            row.append(f"{median(tool, 4):.0f}")
        print("| " + " | ".join(row) + " |")


main()
