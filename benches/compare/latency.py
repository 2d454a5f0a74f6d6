#!/usr/bin/env python3
"""latency.py - how long one call per WAL segment takes, as PostgreSQL makes them: one after another.

latency.py run FILE TOOL RUN DIRECTORY LIMIT COMMAND...   runs COMMAND for each segment of DIRECTORY (%p its path, %f its name), and
                                                     adds "TOOL RUN p50_ms p95_ms total_s cpu_ms_per_call" to FILE
                                                     before each call, untimed: waits for PAUSE seconds, removes the file REMOVE
latency.py summary FILE REFERENCE                    medians over runs, and of the ratios of paired runs, as a table
"""
import os
import resource
import statistics
import subprocess
import sys
import time


def run(path, tool, number, directory, limit, *command):
    names = sorted(name for name in os.listdir(directory) if len(name) == 24)[: int(limit)]
    ready = os.path.join(directory, "archive_status")
    times = []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.monotonic()
    for name in names:
        words = [word.replace("%p", os.path.join(directory, name)).replace("%f", name) for word in command]
        time.sleep(float(os.environ.get("PAUSE", 0)))
        if os.path.exists(os.environ.get("REMOVE", "")):
            os.remove(os.environ["REMOVE"])
        start = time.monotonic()
        outcome = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        times.append((time.monotonic() - start) * 1000)
        if outcome.returncode != 0:
            sys.exit(f"{words}: exit code {outcome.returncode}: {outcome.stderr.decode()}")
        if os.path.exists(os.path.join(ready, name + ".ready")):
            os.rename(os.path.join(ready, name + ".ready"), os.path.join(ready, name + ".done"))
    total = time.monotonic() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000 / len(names)
    times.sort()
    line = f"{tool} {number} {statistics.median(times):.2f} {times[int(len(times) * 0.95)]:.2f} {total:.2f} {cpu:.2f}"
    print("  " + line, file=sys.stderr)
    with open(path, "a") as out:
        out.write(line + "\n")


def summary(path, reference):
    runs = {}
    for line in open(path):
        tool, number, *figures = line.split()
        runs.setdefault(tool, {})[number] = [float(figure) for figure in figures]
    print("| tool | p50 ms | of the reference | p95 ms | calls in all, s | CPU ms a call |")
    print("|---|---|---|---|---|---|")
    for tool, by_run in runs.items():
        pairs = [v[0] / runs[reference][n][0] for n, v in by_run.items() if n in runs.get(reference, {})]
        median = lambda column: statistics.median(values[column] for values in by_run.values())
        ratio = "1 (reference)" if tool == reference else "-"
        if pairs and tool != reference:
            ratio = f"{statistics.median(pairs):.2f} [{min(pairs):.2f}-{max(pairs):.2f}]"
        print(f"| {tool} | {median(0):.1f} | {ratio} | {median(1):.1f} | {median(2):.1f} | {median(3):.1f} |")


{"run": run, "summary": summary}[sys.argv[1]](*sys.argv[2:])
