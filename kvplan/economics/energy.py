"""Energy: an estimate from board power, what the GPUs do, and what the tiers move."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from kvplan.catalog.machines import of_gpu
from kvplan.catalog.shipped import decode_toml
from kvplan.economics.prices import used
from kvplan.economics.ranged import Ranged
from kvplan.hardware.spec import Machine
from kvplan.results.economics import Amount, Energy
from kvplan.results.simulate import SimResult
from kvplan.scenario import Scenario
from kvplan.step_time import StepCost
from kvplan.units import GiB

Side = Literal["value", "low", "high"]
SIDES: tuple[Side, ...] = ("value", "low", "high")


class Board(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Watts of one GPU board."""

    board_W: float
    idle_W: float
    source: str


class LoadShare(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Share of the board's power by the decode batch, and while prefilling; `low` and `high` are factors."""

    batch: list[float]
    share: list[float]
    prefill_share: float
    low: float
    high: float
    source: str


class _Power(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gpus: dict[str, Board]
    load: LoadShare
    tiers: dict[str, Ranged]  # watts or joules of one thing


@cache
def known_power() -> _Power:
    found: _Power = decode_toml(Path(__file__).with_name("power.toml"), _Power)
    return found


def board_of(machine: Machine) -> Board | None:
    """The board power of a machine's GPU; None where it is not known."""
    boards = known_power().gpus
    return boards.get(machine.name) or boards.get(of_gpu(machine.gpu.name))


def busy_W(board: Board, batch: float, prefill_share: float) -> float:
    """Mean watts of a GPU while it computes: by the decode batch (linear in its logarithm between the known points), and for the share of
    the time that goes to prefill."""
    load = known_power().load
    decode = float(np.interp(np.log2(max(1.0, batch)), np.log2(load.batch), load.share))
    return max(board.idle_W, board.board_W * (prefill_share * load.prefill_share + (1 - prefill_share) * decode))


def spread(side: Side) -> float:
    """The factor of a side of the range: of a GPU's energy for the same tokens, by power and by speed."""
    load = known_power().load
    return {"value": 1.0, "low": load.low, "high": load.high}[side]


def energy(one: Scenario, result: SimResult) -> Energy | None:
    """The estimate for a run; None where the board's power is not known or nothing was served."""
    board = board_of(one.machine)
    if board is None or not result.requests.completed or not result.duration_s:
        return None
    busy, computed_s = min(1.0, result.gpu_busy), _prefill_s(one, result)
    replicas = one.cluster.replicas + one.cluster.prefill_replicas
    prefill = min(1.0, computed_s / max(1e-9, busy * result.duration_s * replicas))
    decoding = result.throughput.output_tokens_per_s * (result.itl_s.mean or 0.0) / replicas  # Little: sequences that decode at a time
    batch = decoding / max(1e-9, busy)
    sides = {side: _watts(one, result, board, side, busy=busy, busy_W=busy_W(board, batch, prefill) * spread(side)) for side in SIDES}
    totals = {side: sum(parts.values()) for side, parts in sides.items()}
    tokens_per_s, requests_per_s = result.throughput.output_tokens_per_s, result.requests.completed / result.duration_s
    gpus = used(one).gpus
    gpu_W = {side: min(board.board_W, (parts["gpu_busy"] + parts["gpu_idle"]) / gpus) for side, parts in sides.items()}
    return Energy(
        gpu_W=Amount(**gpu_W),
        per_output_token_J=_each(totals, tokens_per_s),
        per_request_J=_each(totals, requests_per_s),
        parts_W=sides["value"],
        saved_prefill_J_per_request=_saved(one, result, board),
    )


def _watts(one: Scenario, result: SimResult, board: Board, side: Side, *, busy: float, busy_W: float) -> dict[str, float]:
    """Part -> mean watts over all replicas."""
    taken, power = used(one), known_power().tiers
    tiers = {tier.name: tier for tier in result.tiers}
    moved = {name: (tier.loaded_bytes + tier.stored_bytes) / result.duration_s for name, tier in tiers.items() if name != "gpu"}
    disk = tiers.get("disk")
    active = disk.link_busy_fraction if disk else 0.0

    def of(name: str) -> float:
        return float(getattr(power[name], side))

    replicas = one.cluster.replicas
    parts = {
        "gpu_busy": taken.gpus * busy * busy_W,
        "gpu_idle": taken.gpus * (1 - busy) * board.idle_W,
        "memory": taken.cpu_bytes / GiB * of("memory_W_per_GiB"),
        "disk": replicas * (of("disk_idle_W") + active * (of("disk_active_W") - of("disk_idle_W"))) if disk else 0.0,
        "link": sum(moved.values()) * of("link_J_per_byte"),
        "network": moved.get("remote", 0.0) * of("network_J_per_byte"),
    }
    return {name: watts for name, watts in parts.items() if watts}


def _prefill_s(one: Scenario, result: SimResult) -> float:
    """GPU seconds of the prompts' computed tokens, each request as the mean one."""
    completed = max(1, result.requests.completed)
    tokens = result.prompt_tokens
    fresh = max(1, round(tokens.computed / completed))
    return (
        StepCost(one.deployment).prefill_s(fresh, round((tokens.total - tokens.computed) / completed), one.engine.step_tokens) * completed
    )


def _saved(one: Scenario, result: SimResult, board: Board) -> Amount | None:
    """Joules of a request's hits below the GPU, had they been computed."""
    tokens = result.prompt_tokens
    below = (tokens.cpu_hit + tokens.disk_hit + tokens.remote_hit) / max(1, result.requests.completed)
    if below < 1:
        return None
    seconds = StepCost(one.deployment).prefill_s(round(below), 0, one.engine.step_tokens) * one.deployment.parallel.gpus
    return Amount(**{side: seconds * (busy_W(board, 1.0, 1.0) - board.idle_W) * spread(side) for side in SIDES})


def _each(watts: dict[Side, float], per_s: float) -> Amount | None:
    return Amount(**{side: value / per_s for side, value in watts.items()}) if per_s > 0 else None
