"""Train several networks on the same split, for the same time, by the same recipe, and write down what came out.

    python tools/fair_table.py --nuclei ../shared/data/nuclei2d --hippocampus ../shared/data/hippocampus3d --minutes 20

Each network trains in a process of its own, one after the other. What is finished is not done again, and what was
interrupted goes on, as long as the minutes stay the same; with other minutes it is a table of its own. The table is
written anew after each network, so a run can be stopped at any time.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = {"umamba-bot": "U-Mamba Bot", "umamba-enc": "U-Mamba Enc", "nnunet": "nnU-Net, plain",
            "vmunetv2": "VM-UNetV2", "unetv2": "U-Net v2"}
DATA = {"nuclei": ("Nuclei (2-D pictures)", "f1@0.5", "F1 at IoU 0.5"),
        "hippocampus": ("Hippocampus (MRI volumes)", "dice", "Dice, mean of both parts")}
N_TIMED = 5  # pictures that prediction is timed on


def train_one(data: Path, network: str, folder: Path, minutes: float) -> dict[str, Any]:
    """Train, score and time one network; goes on where an interrupted run stopped."""
    import mambaseg
    from mambaseg.machine import peak_memory_bytes
    from mambaseg.nets import build
    from mambaseg.train.validation import load_validation

    model = mambaseg.train(data, network, folder / network, minutes=minutes, resume=True, progress=Line(network))
    peak = peak_memory_bytes()
    found = load_validation(folder / f"{network}.training")
    if found is None:
        raise SystemExit(f"{data} holds nothing out, so there is nothing to compare")
    images = [case.read_image() for case in found.files[:N_TIMED]]
    mambaseg.segment(images[0], model)  # the first one compiles
    started_s = time.perf_counter()
    for image in images:
        mambaseg.segment(image, model)
    seconds = (time.perf_counter() - started_s) / len(images)
    scores = found.scores
    means, intervals = (scores["foreground_mean"], scores["foreground_interval"]) if scores["kind"] == "classes" else (
        scores["mean"], scores["interval"])
    return {"network": network, "minutes": minutes, "n_images": len(found.files), "mean": means, "interval": intervals,
            "iterations": model.training["iterations"], "seconds": model.training["seconds"],
            "recipe": model.training["recipe"], "batch_size": model.plan.batch_size, "patch": model.plan.patch_size,
            "parameters": sum(p.numel() for p in build(network, **model.network_config).parameters()),
            "peak_memory_bytes": peak, "predict_s": seconds}


class Line:
    """A line of progress every minute."""

    def __init__(self, name: str) -> None:
        self.name, self._last_s = name, 0.0

    def __call__(self, update: Any) -> None:
        if time.monotonic() - self._last_s > 60:
            self._last_s = time.monotonic()
            print(f"{self.name}: {update.stage} {update.done} of {update.total}. {update.message}", flush=True)


def write_table(runs: Path, minutes: float, path: Path) -> None:
    """All results so far as Markdown."""
    n_threads = torch.get_num_threads()
    threads = "one core" if n_threads == 1 else f"{n_threads} cores"
    parts = [f"""# A fair table

Five networks on the same split, for the same time, by the same recipe (`{Path(__file__).name}`): {minutes:g} minutes
each of training on {threads} of one machine ({platform.machine()}), AdamW from 1e-3 with a cosine, nnU-Net's losses,
sampling and augmentation, random weights at the start, the patch and batch that `mambaseg train` plans for a CPU. The
planar networks learn and find volumes slice by slice. In brackets the middle 95 % over the held-out cases drawn anew
(bootstrap): it says how much depends on the choice of cases, not on the seed. The two U-Mambas and nnU-Net's network
have the small plan's size, the other two that of their papers, so they see fewer patches in the same time. Nothing was
tuned for any of them.
"""]
    for key, (title, score, words) in DATA.items():
        results = [json.loads(file.read_text()) for name in NETWORKS
                   if (file := result_file(runs, key, name, minutes)).is_file()]
        if not results:
            continue
        rows = "\n".join(row(result, score) for result in results)
        parts.append(f"""## {title}

{results[0]["n_images"]} held-out cases. {words}.

| network | score | parameters | iterations | s an iteration | peak memory | s a picture |
| --- | --- | --: | --: | --: | --: | --: |
{rows}
""")
    path.write_text("\n".join(parts), encoding="utf-8")


def row(result: dict[str, Any], score: str) -> str:
    low, high = result["interval"][score]
    iterations = result["iterations"]
    return (f"| {NETWORKS[result['network']]} | {result['mean'][score]:.3f} [{low:.3f}, {high:.3f}] | "
            f"{result['parameters'] / 1e6:.1f} M | {iterations:,} | {result['seconds'] / max(1, iterations):.2f} | "
            f"{result['peak_memory_bytes'] / 1e9:.1f} GB | {result['predict_s']:.2f} |")


def result_file(runs: Path, key: str, network: str, minutes: float) -> Path:
    return runs / f"{key}-{minutes:g}" / f"{network}.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for key in DATA:
        parser.add_argument(f"--{key}", type=Path, metavar="FOLDER")
    parser.add_argument("--minutes", type=float, required=True, help="of training, for each network")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "fair")
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "fair-table.md")
    parser.add_argument("--only", nargs=2, metavar=("DATA", "NETWORK"), help=argparse.SUPPRESS)  # within the child
    given = parser.parse_args()
    if given.only:
        key, network = given.only
        file = result_file(given.runs, key, network, given.minutes)
        result = train_one(getattr(given, key), network, file.parent, given.minutes)
        file.write_text(json.dumps(result, indent=2), encoding="utf-8")
        return 0
    for key in DATA:
        for network in given.networks if getattr(given, key) else ():
            if not result_file(given.runs, key, network, given.minutes).is_file():
                # a process of its own: its peak memory is that of one network
                subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", key, network], check=True)
            write_table(given.runs, given.minutes, given.table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
