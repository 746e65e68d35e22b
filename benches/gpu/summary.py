"""Put together what the stages of run.sh left: a JSON file, and a summary short enough to read."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import figures

SCHEMA = 1
STAGES = ("build", "tests", "sanitize", "bench")
LONGEST = 11_500  # characters of a summary


def output(*command: str) -> str:
    """What a command prints; nothing if it cannot."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """The device and what drives it; "device" is missing where there is none."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "nvcc": "".join(re.findall(r"release .*", output("nvcc", "--version"))),
        "driver": output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "commit": output("git", "rev-parse", "HEAD"),
    }
    try:
        import torch
    except ImportError:
        return facts
    facts |= {"torch": str(torch.__version__), "cuda of torch": torch.version.cuda}
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        facts |= {
            "device": device.name,
            "capability": f"{device.major}.{device.minor}",
            "multiprocessors": device.multi_processor_count,
            "memory_gb": round(device.total_memory / 1e9, 1),
        }
    return facts


def stage(name: str, work: Path) -> dict[str, Any] | None:
    """Exit code, seconds and the telling lines of a stage; None if it was not asked for."""
    status = work / "status" / name
    if not status.exists():
        return None
    code, seconds = map(int, status.read_text(encoding="ascii").split())
    log = (work / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in log.splitlines() if line.strip()]
    if name == "tests":
        telling = [
            line for line in lines if re.match(r"FAILED|ERROR|cuda_smoke|=+ .* in .*s", line)
        ]
    elif name == "sanitize":
        telling = lines
    elif name == "build" and code:
        telling = [line for line in lines if re.search(r"error|FAILED|fatal", line)]
    else:
        telling = []
    if code:
        telling += lines[-3:]
    found = {"code": code, "seconds": seconds, "lines": [line[:240] for line in telling[:60]]}
    if name == "build":
        found["warnings"] = [line[:240] for line in lines if re.search(r"C75\d\d", line)]
    return found


def read_records(work: Path) -> list[dict[str, Any]]:
    path = work / "records.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def document(work: Path) -> dict[str, Any]:
    """Everything that is kept of a run."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%MZ")
    found: dict[str, Any] = {"schema": SCHEMA, "date": now, "machine": machine(), "stages": {}}
    for name in STAGES:
        kept = stage(name, work)
        if kept is not None:
            found["stages"][name] = kept
    records = read_records(work)
    if "bench" in found["stages"]:
        found["figures"] = [
            {**f._asdict(), "reached": f.reached} for f in figures.evaluate(records)
        ]
        found["records"] = records
    return found


def file_name(found: dict[str, Any]) -> str:
    device = re.sub(r"[^a-z0-9]+", "-", found["machine"].get("device", "no-device").lower())
    return f"{device.strip('-')}-{found['date'][:10]}.json"


def merge(found: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any]:
    """Stages that were run separately on one day belong together; what is new replaces what is old."""
    return {**earlier, **found, "stages": {**earlier.get("stages", {}), **found["stages"]}}


def render(found: dict[str, Any], records: list[dict[str, Any]]) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in found["machine"].items() if value)
    lines = [f"{found['date']}  {facts}", ""]
    for name, kept in found["stages"].items():
        word = "passed" if kept["code"] == 0 else f"FAILED, exit code {kept['code']}"
        lines.append(f"{name:<10}{word}, {kept['seconds']} s")
        lines += [f"    {line}" for line in kept["lines"][: 40 if kept["code"] else 12]]
        lines += [f"    {line}" for line in kept.get("warnings", [])]
    if "figures" in found:
        told = figures.evaluate(records)
        lines += ["", figures.table(told), "", "Median ms (peak MiB beyond what was held):"]
        lines.append(figures.times(records))
    text = "\n".join(lines)
    return text if len(text) <= LONGEST else text[: LONGEST - 30] + "\n... (the rest: in the JSON)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="where the stages left things")
    parser.add_argument("--results", type=Path, required=True, help="where the JSON is kept")
    options = parser.parse_args()
    found = document(options.work)
    print(render(found, read_records(options.work)))
    name = file_name(found)
    folders = [options.work] + ([options.results] if "device" in found["machine"] else [])
    kept = options.results / name
    if kept.exists():
        found = merge(found, json.loads(kept.read_text(encoding="utf-8")))
    for folder in folders:
        (folder / name).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"\nWritten: {folders[-1] / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
