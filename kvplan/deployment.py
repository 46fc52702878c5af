"""What is deployed: a model in an engine on a machine, how it is spread over GPUs, and the tiers of its nodes."""

from __future__ import annotations

from typing import Annotated, Literal

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
    dp: Ranks = 1  # data-parallel ranks of one engine, each with its own scheduler, KV pool and tiers
    cp: Ranks = 1  # context-parallel ranks
    ep: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0  # ranks between which whole experts are spread; 0: each holds a part of every one
    exchange: Literal["all_gather", "deepep"] = "all_gather"  # of tokens between data-parallel ranks and experts
    # exponent of Zipf's law of the experts' popularity. 0: all alike; 100: every token chooses the same, as it does with weights at random
    # where the router rounds its scores to the weights' dtype (DeepSeek-V2's softmax in bf16 in vLLM 0.24: all scores are equal then)
    expert_skew: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    eplb: bool = False  # experts are placed by their load, as engines do only where asked to (--enable-eplb)
    redundant_experts: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0  # copies of the busiest ones of a layer, with eplb

    @property
    def gpus(self) -> int:
        """GPUs of one data-parallel rank: of one pool."""
        return self.tp * self.pp

    @property
    def all_gpus(self) -> int:
        """GPUs of one replica, all data-parallel ranks together."""
        return self.gpus * self.dp

    @property
    def words(self) -> str:
        """As users write it: `TP 8`, `TP 1 x DP 8, EP 8`."""
        kinds = [f"TP {self.tp}", *(f"{name} {size}" for name, size in (("PP", self.pp), ("DP", self.dp)) if size > 1)]
        return " x ".join(kinds) + (f", EP {self.ep}" if self.ep else "")


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
        spread = self.parallel
        if spread.cp > 1:
            raise InputError(
                f"parallel.cp is {spread.cp}: context parallelism is not built",
                hint="tensor-parallel ranks are: parallel.tp; or data-parallel ones: parallel.dp",
            )
        if spread.ep not in (0, spread.tp * spread.dp):
            raise InputError(
                f"parallel.ep is {spread.ep}: experts lie on all {spread.tp * spread.dp} tensor- x data-parallel ranks of a stage",
                hint=f"--ep {spread.tp * spread.dp}, or none: then each rank holds a part of every expert",
            )
        if (spread.eplb and spread.ep < 2) or (spread.redundant_experts and not spread.eplb):
            raise InputError(
                "experts are placed by their load between ranks that hold whole ones, and copied only where they are",
                hint="--ep N and --set parallel.eplb=true, or neither parallel.eplb nor parallel.redundant_experts",
            )
        copied = [one.experts for one in self.model.ffn if one.experts and spread.redundant_experts]
        if odd := next((count for count in copied if (count + spread.redundant_experts) % spread.ep), 0):
            raise InputError(f"{odd} experts and {spread.redundant_experts} copies do not divide by {spread.ep} ranks")
        if spread.ep and not any(group.experts for group in self.model.ffn):
            raise InputError(f"{self.model.name} has no experts: parallel.ep is {spread.ep}")

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
        captured = self.engine.captured_tokens_of.get(self.model.family, overhead.captured_tokens)
        return msgspec.structs.replace(overhead.on(*host_factors(self.machine.host)), captured_tokens=captured)

    @property
    def on_second_runner(self) -> bool:
        """Does the engine run the model in the second of its runners, if it has two."""
        model, families = self.model, self.engine.second_runner
        dense = all(not one.experts for one in model.ffn) and all(layer.kind != "state" for layer in model.layers)
        return model.family in families or ("dense" in families and dense)

    @property
    def tp(self) -> int:
        return self.parallel.tp

    @property
    def in_lockstep(self) -> bool:
        """Do data-parallel ranks step together, because they share the experts."""
        return self.parallel.dp > 1 and any(group.experts for group in self.model.ffn)

    @property
    def routing(self) -> str:
        """How tokens are taken to choose experts, in words; nothing where there are none."""
        if not any(group.experts for group in self.model.ffn):
            return ""
        skew = self.parallel.expert_skew
        if not skew:
            return "tokens choose experts evenly"
        return f"the popularity of experts falls by Zipf's law with exponent {skew:g}"

    @property
    def ranks_apart(self) -> tuple[str, ...]:
        """What a user should know of data-parallel ranks, in a sentence; nothing where there is one."""
        count = self.parallel.dp
        if count == 1:
            return ()
        steps = ", and all step at the pace of the slowest" if self.in_lockstep else ""
        own = "each has a KV pool, a prefix cache and tiers of the sizes here"
        return (f"{count} data-parallel ranks: {own}, which the others do not see{steps}",)

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
        """Raises InputError when the servers have too few GPUs, or a tensor-parallel group would lie on two."""
        spread, gpus = self.parallel, self.machine.gpus
        if spread.all_gpus > gpus * self.nodes:
            needs = f"--tp {spread.tp} x --pp {spread.pp}" + (f" x --dp {spread.dp}" if spread.dp > 1 else "")
            servers = f"{self.nodes} x {self.machine.name} have" if self.nodes > 1 else f"{self.machine.name} has"
            raise InputError(
                f"{servers} {format_count(gpus * self.nodes, 'GPU')}; {needs} needs {spread.all_gpus}",
                hint="choose a larger machine, or --set machine.gpus=N" + (", or --set nodes=N" if spread.pp * spread.dp > 1 else ""),
            )
        if spread.tp > gpus:
            raise InputError(
                f"--tp {spread.tp}: a tensor-parallel group stays on one server of {format_count(gpus, 'GPU')}",
                hint="--pp and --dp go over several",
            )

    def changed(self, **parts: object) -> Deployment:
        """The same with some parts replaced; `tp`, `pp`, `dp` and `ep` belong to `parallel`, `machine` is the server."""
        ranks = {name: parts.pop(name) for name in ("tp", "pp", "dp", "ep") if name in parts}
        if ranks:
            if self.parallel.ep and "ep" not in ranks:  # all ranks of a stage, however many they are
                ranks["ep"] = int(ranks.get("tp", self.parallel.tp)) * int(ranks.get("dp", self.parallel.dp))  # type: ignore[call-overload]
            parts["parallel"] = msgspec.structs.replace(self.parallel, **ranks)
        if "machine" in parts:
            parts["server"] = parts.pop("machine")
        return msgspec.structs.replace(self, **parts)


DEPLOYED = {
    "machine": "server",
    **{part: part for part in ("engine", "model", "tiers", "parallel", "remote", "kv_dtype", "dtype", "nodes")},
}
"""First word of a setting -> the field of a deployment in which it lies."""
