"""What is deployed: a model in an engine on a machine, how it is spread over GPUs, and the tiers of its nodes."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kvplan.engine.spec import EngineSpec, Overhead
from kvplan.errors import InputError
from kvplan.hardware.spec import Machine
from kvplan.hardware.timing import host_factors
from kvplan.model import ModelSpec
from kvplan.units import format_count

Bytes = Annotated[int, msgspec.Meta(ge=0)]
Rate = Annotated[float, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Ranks = Annotated[int, msgspec.Meta(ge=1, le=1024)]


class Parallel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How one replica is spread over GPUs."""

    tp: Ranks = 1  # tensor-parallel ranks
    pp: Ranks = 1  # pipeline stages
    dp: Ranks = 1  # data-parallel ranks of one engine
    cp: Ranks = 1  # context-parallel ranks
    ep: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0  # ranks that share the experts; 0: the tensor-parallel ones of a stage

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tp * self.pp


class Tiers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Capacities of the nodes that a deployment runs on. `gpu_kv_bytes` is the KV pool over all ranks of a replica, 0: what the engine
    leaves on the GPUs; other tiers 0: absent."""

    gpu_kv_bytes: Bytes = 0
    cpu_bytes: Bytes = 0
    disk_bytes: Bytes = 0
    remote_bytes: Bytes = 0


class Remote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The way to the remote pool. What is 0 is the machine's network; `total_Bps` 0: the pool itself is never the limit."""

    latency_s: Seconds = 0.0
    client_Bps: Rate = 0.0
    total_Bps: Rate = 0.0  # of all replicas together, each direction
    object_bytes: Bytes = 0  # of one put or get; 0: the engine's chunk
    parallel: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 16  # puts or gets under way at once


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model served by an engine, at the version that its record names, on `nodes` servers.

    Raises InputError for kinds of parallelism that are not built, by name.
    """

    model: ModelSpec
    engine: EngineSpec
    server: Machine | None = None  # None where only sizes are asked for
    parallel: Parallel = Parallel()
    nodes: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    tiers: Tiers = Tiers()
    remote: Remote = Remote()
    kv_dtype: str = "auto"
    dtype: str = ""  # of the weights; empty: the checkpoint's

    def __post_init__(self) -> None:
        for name, what in (("dp", "data-parallel ranks inside one engine"), ("cp", "context-parallel ranks")):
            if getattr(self.parallel, name) > 1:
                raise InputError(f"parallel.{name} is {getattr(self.parallel, name)}: {what} are not built", hint=_INSTEAD[name])
        if self.nodes > 1:
            raise InputError(f"nodes is {self.nodes}: a replica over several nodes is not built", hint="cluster.replicas counts servers")

    @property
    def machine(self) -> Machine:
        """The server. Raises InputError when none is named."""
        if self.server is None:
            raise InputError("which machine?", hint="add --machine NAME; `kvplan size --list` shows the names")
        return self.server

    @property
    def overhead(self) -> Overhead:
        """What the engine's host side costs on this server, in the runner that serves the model."""
        overhead = self.engine.overhead if self.on_second_runner else self.engine.overhead.times(self.engine.first_runner)
        return overhead.on(*host_factors(self.machine.host))

    @property
    def on_second_runner(self) -> bool:
        """Does the engine run the model in the second of its runners, if it has two."""
        model, families = self.model, self.engine.second_runner
        dense = all(not one.experts for one in model.ffn) and all(layer.kind != "state" for layer in model.layers)
        return model.family in families or ("dense" in families and dense)

    @property
    def tp(self) -> int:
        return self.parallel.tp

    def check_ranks(self) -> None:
        """Raises InputError when heads or layers cannot be spread over the ranks, or the server has too few GPUs."""
        model, tp, pp = self.model, self.parallel.tp, self.parallel.pp
        for layer in model.layers:
            if layer.query_heads % tp:
                raise InputError(
                    f"{model.name}: {layer.query_heads} attention heads cannot be split over {tp} ranks",
                    hint="choose --tp that divides them",
                )
            if layer.kind != "latent" and layer.kv_heads % tp and tp % layer.kv_heads:
                raise InputError(f"{model.name}: {layer.kv_heads} KV heads and {tp} ranks do not divide one another")
        if pp > model.depth:
            raise InputError(f"{model.name}: {pp} pipeline stages for {model.depth} layers")

    def check_gpus(self) -> None:
        """Raises InputError when the server has too few GPUs."""
        if self.parallel.gpus > self.machine.gpus:
            tp, pp = self.parallel.tp, self.parallel.pp
            raise InputError(
                f"{self.machine.name} has {format_count(self.machine.gpus, 'GPU')}; --tp {tp} x --pp {pp} needs {tp * pp}",
                hint="choose a larger machine, or --set machine.gpus=N",
            )

    def changed(self, **parts: object) -> Deployment:
        """The same with some parts replaced; `tp`, `pp` and `ep` belong to `parallel`, `machine` is the server."""
        ranks = {name: parts.pop(name) for name in ("tp", "pp", "ep") if name in parts}
        if ranks:
            parts["parallel"] = msgspec.structs.replace(self.parallel, **ranks)
        if "machine" in parts:
            parts["server"] = parts.pop("machine")
        return msgspec.structs.replace(self, **parts)


DEPLOYED = {
    "machine": "server",
    **{part: part for part in ("engine", "model", "tiers", "parallel", "remote", "kv_dtype", "dtype", "nodes")},
}
"""First word of a setting -> the field of a deployment in which it lies."""

_INSTEAD = {"dp": "replicas behind a router are: cluster.replicas", "cp": "tensor-parallel ranks are: parallel.tp"}
