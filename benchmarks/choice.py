"""Is the measured choice the right one? Runoff's pick beside every candidate and beside two static orders.

    python benchmarks/choice.py [--models mlp,minilm,...] [--backends torch,onnx] [--json results.json]

For each model (random weights from library configurations) one race at batch 1 and 8 makes the decisions under the
contracts `exact` and `close`. Then a second race, in new processes and with new samples, times all candidates again,
and every pick is held against the best eligible candidate *of that second timing*: `regret` is pick / best. "PyTorch
first" and "ONNX first" are the static orders of the field's guides: torch eager fp32 and ONNX Runtime fp32.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runoff.environment.describe import describe_environment
from runoff.models.folder import ModelFolder
from runoff.race.api import race_model
from runoff.race.decide import Wish, decide
from runoff.race.fidelity import Contract, Level
from runoff.race.options import Event, Listener, RaceOptions
from runoff.race.record import Entrant, Record

if TYPE_CHECKING:
    from torch import nn

BATCHES = (1, 8)
CONTRACTS: tuple[Level, ...] = ("exact", "close")
ORDERS = {"PyTorch first": "torch-fp32", "ONNX first": "onnx-fp32"}
ALLOWED_REGRET = 1.05


@dataclass(frozen=True)
class Cell:
    """One model at one batch size under one contract; latencies in ms from the second timing."""

    model: str
    batch: int
    contract: str
    latencies_ms: dict[str, float]
    pick: str
    best: str
    pick_ms: float
    best_ms: float
    spread: float
    orders_ms: dict[str, float]

    @property
    def regret(self) -> float:
        """The pick's latency over the best one's, both from the second timing."""
        return self.pick_ms / self.best_ms

    @property
    def holds(self) -> bool:
        """Whether the pick is within 5 % of the best, or within that timing's own spread where it is wider."""
        return self.regret <= max(ALLOWED_REGRET, 1 + self.spread)


def make_mlp() -> tuple[nn.Module, dict[str, Any]]:
    """A small multilayer perceptron on 64 features."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return net, {"input": torch.randn(2, 64)}


def make_text(hidden: int, layers: int, heads: int) -> tuple[nn.Module, dict[str, Any]]:
    """A BERT-like encoder with 128 tokens; 384 x 6 x 12 is MiniLM's shape and 768 x 12 x 12 BERT-base's."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * hidden
    )
    ids = torch.randint(0, 30000, (2, 128))
    return BertModel(config), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def make_vision(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """An image backbone at 224 x 224."""
    import torch
    import transformers

    config = getattr(transformers, f"{name}Config")()
    return getattr(transformers, f"{name}Model")(config), {"pixel_values": torch.randn(2, 3, 224, 224)}


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "mlp": make_mlp,
    "minilm": lambda: make_text(384, 6, 12),
    "mobilenetv2": lambda: make_vision("MobileNetV2"),
    "resnet50": lambda: make_vision("ResNet"),
    "vit_b16": lambda: make_vision("ViT"),
    "bert_base": lambda: make_text(768, 12, 12),
}


def package_model(name: str, folder: Path) -> ModelFolder:
    """Make the model folder of one of the benchmark's models."""
    import torch

    import runoff

    torch.manual_seed(0)
    module, inputs = MODELS[name]()
    return runoff.package(module.eval(), inputs, folder)


def measure(name: str, folder: ModelFolder, options: RaceOptions) -> list[Cell]:
    """Race, decide, time again, compare."""
    first = race_model(folder.root, options, _listener(name))
    environment = describe_environment()
    picks = {}
    for batch in BATCHES:
        for level in CONTRACTS:
            wish = Wish(batch_size=batch, contract=Contract(level))
            picks[batch, level] = decide(first.folder.manifest, environment, wish, first.record)
    second = race_model(folder.root, _again(options), _listener(f"{name}, again"))
    cells = []
    for (batch, level), decision in picks.items():
        eligible = [ranked.candidate.id for ranked in decision.ranking]
        cells.append(_cell(name, batch, level, decision.require().id, eligible, second.record))
    return cells


def _again(options: RaceOptions) -> RaceOptions:
    import msgspec

    return msgspec.structs.replace(options, force=True)


def _cell(name: str, batch: int, level: str, pick: str, eligible: list[str], again: Record) -> Cell:
    timed = {entrant.candidate.id: timing for entrant in again.entrants if (timing := entrant.timing(batch))}
    latencies = {candidate: timing.p50_ms for candidate, timing in timed.items()}
    rivals = {candidate: latencies[candidate] for candidate in eligible if candidate in latencies}
    best = min(rivals, key=lambda candidate: rivals[candidate])
    orders = {order: _order_ms(package, again.entrants, batch) for order, package in ORDERS.items()}
    spread = max(timed[pick].spread, timed[best].spread)
    return Cell(name, batch, level, latencies, pick, best, rivals[pick], rivals[best], spread, orders)


def _order_ms(package_id: str, entrants: tuple[Entrant, ...], batch: int) -> float:
    """The latency of the plain candidate of a package, with the threads that it is fastest with."""
    times = [
        timing.p50_ms
        for entrant in entrants
        if entrant.candidate.package_id == package_id and not entrant.candidate.variant
        if (timing := entrant.timing(batch))
    ]
    return min(times, default=math.nan)


def _listener(name: str) -> Listener:
    def show(event: Event) -> None:
        print(f"\r\033[K{name}: {event.stage}: {event.detail}", end="", file=sys.stderr, flush=True)

    return show


def print_cell(cell: Cell) -> None:
    """One cell as a few lines: the pick, the orders, then every candidate."""
    verdict = "ok" if cell.holds else "MISSED"
    print(f"\n{cell.model}, batch {cell.batch}, contract {cell.contract}")
    print(
        f"  pick {cell.pick}: {cell.pick_ms:.3f} ms; best {cell.best}: {cell.best_ms:.3f} ms; regret {cell.regret:.3f}",
        end="",
    )
    print(f" (spread {cell.spread * 100:.1f} %) {verdict}")
    for order, latency_ms in cell.orders_ms.items():
        print(f"  {order}: {latency_ms:.3f} ms, {latency_ms / cell.pick_ms:.2f} x the pick")
    for candidate, latency_ms in sorted(cell.latencies_ms.items(), key=lambda item: item[1]):
        print(f"    {candidate:<28} {latency_ms:9.3f} ms")


def print_summary(cells: list[Cell]) -> None:
    """Geometric means over all cells and how many picks hold."""
    print("\nsummary")
    for order in ORDERS:
        ratios = [cell.orders_ms[order] / cell.pick_ms for cell in cells]
        mean = math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))
        slower = sum(ratio > ALLOWED_REGRET for ratio in ratios)
        print(
            f"  {order}: geometric mean {mean:.2f} x the pick's latency, slower by over 5 % in {slower} of {len(cells)}"
        )
    held = sum(cell.holds for cell in cells)
    worst = max(cells, key=lambda cell: cell.regret)
    print(f"  Runoff's pick within 5 % of the best (or its spread) in {held} of {len(cells)} cells;", end="")
    print(f" largest regret {worst.regret:.3f} ({worst.model}, batch {worst.batch}, {worst.contract})")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None, help="default: the usable cores")
    parser.add_argument("--backends", default="torch,onnx,openvino", help="comma-separated")
    parser.add_argument("--json", type=Path, help="write all cells to this file")
    arguments = parser.parse_args()
    environment = describe_environment()
    print(f"{environment.cpu.model}, {environment.cpu.usable_cores} cores, fingerprint {environment.fingerprint[:16]}")
    options = RaceOptions(
        batches=BATCHES,
        backends=tuple(arguments.backends.split(",")),
        num_threads=(arguments.threads or environment.cpu.usable_cores,),
        rounds=arguments.rounds,
        max_rounds=2 * arguments.rounds,
        turn_s=0.3,
        min_runs=3,
        samples=16,
    )
    cells: list[Cell] = []
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as work:
            cells += measure(name, package_model(name, Path(work) / name), options)
        print("\r\033[K", end="", file=sys.stderr)
        for cell in cells[-len(BATCHES) * len(CONTRACTS) :]:
            print_cell(cell)
        sys.stdout.flush()
        if arguments.json:
            arguments.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=2))
    print_summary(cells)
    return 0 if all(cell.holds for cell in cells) else 1


if __name__ == "__main__":
    sys.exit(main())
