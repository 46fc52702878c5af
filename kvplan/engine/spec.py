"""What serving engines do, as data: batching, prefix cache, offload rules, overheads. Each engine is one TOML file."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

import msgspec

from kvplan.engine.abilities import Abilities
from kvplan.provenance import Source

Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e4)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e15)]


class Offload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rules of the tiers below the GPU. `lower` means the disk and the remote pool, which lie behind host memory."""

    chunk_tokens: Count = 0  # granularity of lookup and store; 0: the engine's block
    store: Literal["write_through", "selective", "on_evict"] = "write_through"
    store_after_lookups: Count = 2  # selective: a block is stored once it was counted so often:
    # each request that asks for it; lookups that stop at it; or requests that go through it while the GPU has it, forgotten with that
    store_counts: Literal["requests", "misses", "inserts"] = "requests"
    stores_again: bool = False  # is copied what a lookup did not find, though another request has brought it since
    stores_gpu_hits: bool = True  # is what the GPU had of a prompt offered as well, and counted as used
    # does host memory give up only what the GPU no longer has; if not, anything that nobody uses
    keeps_gpu_content: bool = False
    store_generated: bool = True  # are tokens generated while decoding stored as well
    lower_store: Literal["write_through", "selective", "on_evict"] = "write_through"
    lower_store_after_lookups: Count = 2
    lower_counts: Literal["requests", "stores"] = "requests"  # what selective lower stores count: requests for a block, or its stores above
    lower_counts_tick_s: Seconds = 0.0  # after which each count falls by one; 0: never
    remote_store: Literal["", "write_through", "selective", "on_evict"] = ""  # into a remote pool; empty: as lower_store
    load: Literal["whole_request", "layerwise", "blocking"] = "whole_request"
    # when a whole load begins that is scheduled while a step runs: now, when that ends, or when the step ends that it is scheduled with
    load_start: Literal["at_once", "step_end", "next_step_end"] = "at_once"
    store_start: Literal["step_end", "next_step_end"] = "step_end"  # when a store begins: with the step that computed it, or with the next
    # does what only a lower tier holds come into host memory before the step that the load runs in; if not, in that step
    lower_loads_first: bool = False
    lower_direct: bool = False  # does what only a lower tier holds go to the GPU past host memory, and not into it
    loads_in_turn: bool = False  # does a load, from whatever tier, begin when the one before is over
    waits_for_prompts: bool = False  # does the host wait for the last layer of a step with prompts before it goes on to the next
    lookup_passes: Count = 0  # scheduling passes that a request waits for the answer of a lookup, a miss too
    load_rule: Literal["always", "break_even", "never"] = "always"
    load_min_tokens: Count = 0
    streamed_share: Share = 0.0  # of active sequences lives in host memory and crosses the link at every step
    exclusive: bool = False  # does content leave a tier when it moves up
    promotes_for_one: bool = False  # does what came into host memory from a lower tier leave it with the load it came for
    sweep_s: Seconds = 0.0  # host memory is emptied every so many seconds, not by what comes; 0: by what comes
    sweep_full: Share = 1.0  # from this share of its size on,
    sweep_lost: Share = 0.0  # by this share of what it holds
    one_copy_at_a_time: bool = False  # do loads and stores of a replica wait for each other
    prefetch: Literal["none", "best_effort", "wait_complete", "timeout"] = "none"  # from lower tiers while a request is queued
    prefetch_min_tokens: Count = 0
    prefetch_batch_blocks: Count = 0  # what is cut short keeps whole batches of so many blocks; 0: every token that has come
    prefetch_share: Share = 1.0  # of host memory that reads under way may take
    prefetch_timeout_s: Seconds = 0.0  # timeout: wait at most this long from when the scheduler first asks,
    prefetch_timeout_token_s: Seconds = 0.0  # plus this for each token that was not found above,
    prefetch_timeout_most_s: Seconds = 0.0  # and never longer than this
    policy: str = "lru"
    disk_policy: str = "lru"
    disk_read_threads: AtLeastOne = 16
    disk_write_threads: AtLeastOne = 16
    disk_per_rank: bool = False  # has each rank files and threads of its own
    disk_request_reads: Count = 0  # reads of one request under way at once; 0: as many as there are threads
    loads_seen_after_step: bool = False  # is a finished load reported by the step that starts after it, and known when that has ended
    loads_exclude_steps: bool = False  # does a load wait for the step in progress, and the next step for queued loads: they add up
    outputs_behind_stores: bool = False  # do sampled tokens reach the host behind queued stores, on the same copy engine
    # in which order host memory gives up the blocks of one store or load: from the tail on, all of the request counting as used at every
    # lookup (position); any of them, the blocks of a later job outliving those before it (arbitrary); from the tail on, and a lookup is no
    # use (rank)
    job_order: Literal["position", "arbitrary", "rank"] = "position"
    # a preempted sequence with a step in flight frees its blocks at once; when that has ended, so that those behind are preempted in vain;
    # or nobody is preempted and the step goes without the sequence that lacks a block
    blocks_in_flight: Literal["freed", "cascade", "wait"] = "freed"
    arc_every_touch: bool = False  # does ARC in host memory take every later touch for a reuse, and what comes back as new
    promotes_part: bool = False  # does as much come into host memory from lower tiers as there is room for; if not, all of it or nothing
    streams_stores: bool = False  # does what host memory has no room for go on to the tiers behind it
    load_last_block: bool = True  # may all of a prompt be loaded; if not, the block of its last token is always computed
    load_whole_chunks: bool = False  # is less than a chunk beyond what the GPU holds not loaded
    draft_holes: bool = False  # is the last chunk of each step never stored where a draft model reads the KV as well
    waits_for_stores: bool = False  # does a request wait for content that is still being stored; if not, it is computed
    offers_again: bool = False  # is what host memory had no room for offered again in every later step of its sequence, decodes too
    latent_per_rank: bool = False  # is a latent vector stored once per tensor-parallel rank
    whole_rows: bool = False  # does a key of any group of layers take as many bytes below as one of the widest
    row_multiple_bytes: AtLeastOne = 1  # to which the bytes of a key are rounded up
    store_copies: Literal["", "engine", "kernel", "host"] = ""  # stores by another means than loads; empty: by the same
    spill_blocks: AtLeastOne = 64  # of a run that on-evict stores give up at once, at least
    spill_min_retention: Count = 0  # content of a lower retention priority is given up without being stored
    spill_waits: bool = False  # does the host wait until what it evicts has been copied, before it launches another step
    spills_behind_step: bool = False  # does what is stored when it is evicted wait for the step in progress
    copies: Literal["engine", "kernel", "host"] = "engine"  # by the copy engines, a kernel on mapped host memory, or the host's threads
    load_share: Annotated[float, msgspec.Meta(ge=0.01, le=1)] = (
        1.0  # of a kernel's rate on mapped host memory, what the few thread blocks of a load reach
    )
    kernel_piece_bytes: Count = 0  # loads in contiguous pieces below this size go by a kernel, whatever `copies` says
    batch_copies: Count = 0  # of the copies of a load, how many are handed over before the first begins
    store_holds_blocks: bool = True  # are blocks kept on the GPU until they are stored; if not, the step that reuses one waits for the copy
    stores_before_launch: bool = False  # are a step's stores handed over when the next is launched; if not, when it has ended
    store_in_step: bool = False  # does a step end only when its stores are down
    copy_layers: Literal["all", "one", "half"] = "all"  # does one contiguous piece of a block hold all layers, one, or the K or V of one


class Overhead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the engine's CPU side costs."""

    request_s: Seconds = 0.0  # an API server, once per request: one after the other
    request_token_s: Seconds = 0.0  # and per prompt token: packing and sending
    api_s: Seconds = 0.0  # and over HTTP, where requests come so: parsing, validation
    api_token_s: Seconds = 0.0  # and per prompt token
    transit_s: Seconds = 0.0  # between the processes in front of the scheduler: each request, beside others
    input_s: Seconds = 0.0  # the engine's input thread, once per request: one after the other
    input_token_s: Seconds = 0.0  # and per prompt token: unpacking, block hashes
    admit_token_s: Seconds = 0.0  # the step that first schedules a request, per prompt token: prefix lookup, block tables
    first_token_s: Seconds = 0.0  # from the end of a step to the client
    prepare_s: Seconds = 0.0  # scheduling and preparing a step: hidden while another runs
    step_s: Seconds = 0.0  # least time between two decode steps: what the host does for each
    gap_s: Seconds = 0.0  # the GPU idles between steps while the host collects, schedules and prepares
    collect_s: Seconds = 0.0  # from the end of a step on the GPU until its tokens are handled and the next step can be planned
    launch_layer_s: Seconds = 0.0  # launching a step with prefill, per layer, while its size is captured in CUDA graphs
    launch_layer_eager_s: Seconds = 0.0  # and per layer when it is not
    captured_tokens: Count = 0  # largest step that is captured
    step_sequence_s: Seconds = 0.0  # per sequence in a step: sampling, output
    pause_s: Seconds = 0.0  # the engine's process stops for its garbage collector this long
    pause_tokens: Count = 0  # once per so many output tokens; 0: never
    pause_offload_tokens: Count = 0  # and once more per so many while it offloads
    offload_step_s: Seconds = 0.0  # a step with prefill, more when there is a tier below
    load_s: Seconds = 0.0  # once per load from a lower tier: dispatch and completion
    load_block_s: Seconds = 0.0  # and per block: lookup, pointers
    load_piece_s: Seconds = 0.0  # and per block and KV tensor, where the copy engines load
    empty_pass_s: Seconds = 0.0  # between two scheduling passes while nothing runs
    probe_s: Seconds = 0.0  # asking a lower tier for a chunk, one after the other; the request waits for its answers
    submit_piece_s: Seconds = 0.0  # per block and KV tensor of a load or a store: descriptors, by the worker before it launches a step
    group_s: Seconds = 0.0  # a step with prefill, per group of layers with blocks of its own beyond the first
    offer_key_s: Seconds = 0.0  # a step, per key of what it computes that is offered to a tier below
    admit_key_s: Seconds = 0.0  # the step that first schedules a request, per key by which a tier below names its prompt
    load_chunk_s: Seconds = 0.0  # once per chunk of a load
    store_s: Seconds = 0.0  # once per store that a step waits for
    store_chunk_s: Seconds = 0.0  # and per chunk: allocation, launch, synchronisation
    load_byte_s: Seconds = 0.0  # per byte of a rank that the host's own threads copy to the GPU
    store_byte_s: Seconds = 0.0  # and from it
    disk_byte_s: Seconds = 0.0  # per byte of a rank that it reads from or writes to a disk: buffers, a second copy
    disk_file_s: Seconds = 0.0  # per file of a disk, of the interpreter that launches the steps of a single rank
    remote_byte_s: Seconds = 0.0  # per byte of a rank that its own client of a remote pool receives or sends
    remote_host_byte_s: Seconds = 0.0  # and per byte of all ranks, which one host takes in

    def on(self, python: float, launch: float | None = None) -> Overhead:
        """The same on a host that takes `python` times as long for each token, key, chunk or byte, and `launch` times (None: as often)
        for the rest. What the GPU does between steps does not change.
        """
        other = python if launch is None else launch
        seconds = {}
        for name in self.__struct_fields__:
            if name.endswith("_s") and name not in _ON_GPU:
                seconds[name] = getattr(self, name) * (python if name.endswith(_PYTHON) else other)
        return msgspec.structs.replace(self, **seconds)

    def over_http(self) -> Overhead:
        """The same of an engine whose requests come through its HTTP API."""
        more = {"request_s": self.request_s + self.api_s, "request_token_s": self.request_token_s + self.api_token_s}
        return msgspec.structs.replace(self, **more, api_s=0.0, api_token_s=0.0)

    def times(self, factors: Mapping[str, float]) -> Overhead:
        """The same with some of its seconds taken so many times."""
        return msgspec.structs.replace(self, **{name: getattr(self, name) * factor for name, factor in factors.items()})

    def entry_s(self, tokens: int) -> float:
        """Seconds from a request's arrival to the scheduler while nobody is in front of it."""
        return self.request_s + self.transit_s + self.input_s + (self.request_token_s + self.input_token_s) * tokens


_ON_GPU = ("gap_s", "step_sequence_s")
_PYTHON = ("_token_s", "_key_s", "_chunk_s", "_byte_s", "_file_s")


class HostPool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an engine allocates its CPU tier in host memory."""

    rounding: Literal["exact", "power_of_two"] = "exact"  # of each pinned tensor
    shared: Literal["never", "lower_tiers", "always"] = "never"  # is it an exact mapping in /dev/shm instead
    indexer_beside: bool = False  # do keys of a sparse indexer lie beside the size that is asked for
    per_node: bool = False  # is there one pool for all engines of a node
    ratio: Amount = 0.0  # of the GPU's pool, where no size is asked for; 0: there is no such default
    ratio_share: Share = 1.0  # and no more than this share of the host memory that is free
    ratio_spare_bytes: Count = 0  # beside this


class KvFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How K and V vectors are stored: their element bits, a scale per `block_elements`, and one per head and token."""

    element_bits: AtLeastOne
    block_elements: Count = 0
    block_scale_bytes: Count = 0
    head_scale_bytes: Count = 0
    latent_row_bytes: Count = 0  # of a latent vector with everything; 0: its elements


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an engine does with GPU memory.

    Activations peak either in the sampler (`sampler_bytes` per profiled sequence and word of the
    vocabulary) or in the forward pass (`forward_copies` hidden and feed-forward rows per token of a step).
    """

    fraction_of: Literal["total", "free"] = "total"
    printed_tokens: Literal["groups", "concurrency"] = "concurrency"  # how the tokens that it prints are derived
    hybrid_groups: bool = True  # do window and state layers have blocks of their own
    chunked_as_full: bool = False  # does chunked attention reserve the whole context
    # types make one group each when the largest has fewer layers than this x the smallest
    group_merge_ratio: Annotated[float, msgspec.Meta(ge=1, le=1e6)] = 1.5
    expanded_latents: tuple[str, ...] = ()  # families (model_type) whose latent it stores as K and V of each head, V as wide as K
    checkpoint_kv: bool = False  # does `auto` take the KV dtype that a quantised checkpoint asks for
    state_blocks: Count = 1  # state slots that a request holds; 2 when states are aligned to blocks for prefix caching
    state_dtype: str = ""  # of recurrent states whose config names none; empty: the model's
    state_dtypes: dict[str, str] = {}  # the same for families (model_type) with a rule of their own
    batches_in_flight: AtLeastOne = 1  # steps whose tokens windows and chunks keep blocks for; with more, at least one for each stage
    tiered_pages: tuple[str, ...] = ()  # families (model_type) whose compressed tiers, windows and rings have pages of their own
    profile_batch: Count = 0  # sequences for which activations are profiled; 0: the engine's largest batch
    large_profile_batch: Count = 0  # the same on GPUs of 70 GiB or more with fp8 units; 0: as on others
    sampler_bytes: Amount = 0.0
    forward_copies: Amount = 0.0
    prefill_workspace_tokens: Count = 0  # of latents that a prefill expands at once, for which a profile run sets memory aside
    context_bytes: Count = 0  # CUDA context and libraries, per GPU
    rank_bytes: Count = 0  # collectives, per GPU when there is more than one rank
    graph_bytes: Count = 0  # captured CUDA graphs, where the pool is charged for them
    mxfp4_width_multiple: Count = 0  # to which the width of an mxfp4 expert is padded on a rank
    absorbs_latent: bool = False  # are the up-projections of latent attention kept a second time in the model's dtype


class StepsOn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Tokens of a step by default on GPUs with less than `below_bytes` of memory (0: any) whose names contain `named`."""

    step_tokens: AtLeastOne
    below_bytes: Count = 0
    named: str = ""


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A serving engine at one version: its scheduler, prefix cache, tiers and overheads.

    `provenance` maps the dotted path of a number to its source.
    """

    name: str
    title: str = ""  # as its makers write it; empty: the name
    version: str
    base: str = ""  # the engine whose numbers hold where this one gives none
    connector: bool = False  # does it move the KV of that engine, inside it: then its numbers are known as that engine's are
    block_tokens: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 16
    step_tokens: AtLeastOne = 8192  # token budget of one step
    steps_on: tuple[StepsOn, ...] = ()  # the same on GPUs of some kinds: the first that fits holds
    max_batch: AtLeastOne = 256
    max_context_tokens: Count = 0  # 0: the model's
    gpu_fraction: Annotated[float, msgspec.Meta(ge=0.01, le=1)] = 0.9
    # of the rate of its kernels alone, what a step of layers back to back reaches: clocks under power, paged attention
    kernel_share: Annotated[float, msgspec.Meta(ge=0.01, le=1.5)] = 1.0
    expert_share: Annotated[float, msgspec.Meta(ge=0.01, le=1.5)] = 1.0  # of that, what the grouped products of experts reach
    # tokens of the steps of which it has a CUDA graph, rising, and from the last on in strides as the last one: others run in the next
    # larger graph, whose experts see the rows that fill it up as well
    graph_tokens: tuple[AtLeastOne, ...] = ()
    captured_tokens_of: dict[str, AtLeastOne] = {}  # largest step with prefill that is captured, of families that have one of their own
    absorbed_tokens: Count = 0  # a latent is attended as it is stored when a sequence computes at most so many tokens in a step
    launches_first: bool = False  # is a step of decodes launched, too, before the tokens of the prompts before it are handled
    api_servers: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1  # processes that take requests in, each in order
    # a prompt to a replica that only decodes: when all of it is computed, or each chunk while the next is
    hands_over: Literal["whole", "chunks"] = "whole"
    decoder_caches: bool = True  # does a replica that only decodes find prefixes of earlier requests on its GPU, and fetch only the rest
    ranks_share_budget: bool = False  # is the token budget of a step divided among data-parallel ranks
    rank_router: Literal["round_robin", "least_loaded"] = "least_loaded"  # to which data-parallel rank a request goes, whatever its prefix
    rank_stale_s: Seconds = 0.0  # how old the counts may be by which it goes there
    scheduling: Literal["fcfs", "priority"] = "fcfs"  # order of admission and preemption
    plan_ahead: bool = False  # is a step planned while the one before it runs
    null_blocks: Count = 0  # blocks of the pool that hold no tokens
    reserve_full_prompt: bool = False  # is a request admitted only when its whole prompt fits
    reserve_in_flight: bool = False  # and beside what prompts that are computed or loaded still need
    prefill_apart: bool = False  # are prompts computed in steps of their own, before anybody decodes
    reserve_output: Share = 0.0  # of the output that running requests may still give, what stays free when one is admitted; 0: none of it
    prefix_caching: bool = True
    partial_reuse: bool = (
        False  # is what a cached block holds of a prompt's last one copied: then a whole hit computes one token, not a block
    )
    drafts: bool = False  # does a draft model read the KV as well (EAGLE, MTP): the last block of a hit is computed again
    gpu_policy: Literal["lru", "retention"] = "lru"  # which content the GPU gives up first
    whole_nodes: bool = False  # do the GPU and host memory give up what one step of a request added at once; if not, block by block
    offload: Offload = Offload()
    overhead: Overhead = Overhead()
    # families (model_type) that a second model runner serves, with a KV tensor for each layer; `dense`: all without experts or states
    second_runner: tuple[str, ...] = ()
    first_runner: dict[str, Annotated[float, msgspec.Meta(ge=0, le=100)]] = {}  # times `overhead`, field by field: for all others
    memory: Memory = Memory()
    host_pool: HostPool = HostPool()
    abilities: Abilities = Abilities()
    kv_formats: dict[str, KvFormat] = {}  # KV dtypes that the engine stores with scales or rows of its own
    provenance: dict[str, Source] = {}

    def __post_init__(self) -> None:
        if unknown := set(self.first_runner) - set(Overhead.__struct_fields__):
            raise ValueError(f"first_runner: overhead has no {', '.join(sorted(unknown))}")
        if any(low >= high for low, high in pairwise(self.graph_tokens)):
            raise ValueError("graph_tokens must rise")

    def graph_rows(self, tokens: int) -> int:
        """Rows of the CUDA graph in which a step of so many tokens runs, if it runs in one."""
        sizes = self.graph_tokens
        if not sizes or tokens > sizes[-1]:
            stride = sizes[-1] - (sizes[-2] if len(sizes) > 1 else 0) if sizes else 1
            return tokens + -(tokens - sum(sizes[-1:])) % stride
        return sizes[bisect_left(sizes, tokens)]

    def on(self, gpu: str, memory_bytes: int) -> EngineSpec:
        """As it starts on a GPU of a name and a memory where nobody gives it the tokens of a step."""
        for row in self.steps_on:
            if row.named in gpu.lower() and (not row.below_bytes or memory_bytes < row.below_bytes):
                return msgspec.structs.replace(self, step_tokens=row.step_tokens)
        return self

    @property
    def label(self) -> str:
        """The engine and its version as answers name it."""
        return f"{self.title or self.name} {self.version}"
