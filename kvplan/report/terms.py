"""The words of the reports, for `kvplan explain`."""

from __future__ import annotations

TERMS: dict[str, str] = {
    "serves": "How much traffic one GPU serves within the target; without a target, while the 95th percentile of the time to first token "
    "stays what it is without a tier. Found by replaying the arrivals faster and slower, or with more and fewer users, to within 9%.",
    "loads": "What the plan changes when the same traffic arrives slower or faster.",
    "wins-from": "The shortest reused prefix that loads from a tier sooner than it is computed again, for one request on an idle machine. "
    "The range is its 95% interval. Shorter prefixes are better computed.",
    "needs": "The bandwidth that a tier needs for loading to break even at the prefix length of the table: its bytes over the time to "
    "compute them, less the engine's fixed cost of a load. Compare with `has`.",
    "has": "The bandwidth of all links on the way from the tier to the GPU together, at this prefix length, and how it is known.",
    "load": "Time to bring the prefix of the table from a tier onto the GPU, with the engine's own cost of a load.",
    "compute": "Time to compute the same prefix again instead of loading it.",
    "losing-loads": "Loads that took longer, queues and waits for running steps included, than computing the same tokens would have. "
    "A few are normal; many mean a link or disk is overloaded.",
    "computed": "Share of the prompt tokens that no tier held, so that the GPU computed them.",
    "hits": "Share of all prompt tokens that a tier served. The tiers and `computed` add up to 100%.",
    "ideal-hit-rate": "Hits of a cache without end: what the traffic repeats. No tier can do better.",
    "link-busy": "Share of the time in which the link that feeds the GPU from this tier moves bytes.",
    "gpu-pool": "GPU memory that the engine has left for KV after weights, activations, CUDA graphs and what it keeps free.",
    "queueing": "From a request's arrival until its first step starts.",
    "time-to-first-token": "From a request's arrival at the server to its first token at the client. Also TTFT.",
    "between-tokens": "Time between two output tokens of a request, its inter-token latency. Also ITL.",
    "whole-request": "From arrival to the last token. Also e2e.",
    "goodput": "Requests per second that meet every limit of the target themselves.",
    "overloaded": "The traffic arrives faster than the machine serves it, so that the queue grows for as long as the traffic lasts and "
    "times to first token say how long that is, not how fast the machine is. The factor is the time that serving takes over the time of arrival.",
    "interval": "Every ± and every range is a 95% interval: 1.96 standard deviations of the numbers that it rests on, each with its own "
    "uncertainty (measured ±6%, derived ±20%, datasheet ±29%, assumed ±59% unless a measurement gives its own).",
    "measured": "Known by measurement on such hardware or software, as the source says. Not measured on your server: `kvplan calibrate` does that.",
    "derived": "Follows from other known numbers or published figures by a formula.",
    "datasheet": "The maker's promise, seldom reached.",
    "assumed": "A guess or a default: nothing better is known. Set it with --set.",
    "write-through": "Every full block is stored below the GPU as soon as it fills. The tier repeats what the GPU holds, so it only helps beyond that.",
    "selective": "A block is stored below the GPU once it has been asked for a second time.",
    "on-evict": "A block is stored below the GPU when the GPU gives it up.",
    "tie": "The gain changes its sign within the uncertainty of what it rests on: measure (kvplan calibrate) before spending money.",
    "stream": "The KV of one request does not fit the GPU: an engine would have to read part of it from host memory at every step.",
    "pin": "Host memory of a tier is locked so that the GPU can copy from it; that takes time at each start, and cannot be swapped out.",
    "asks-takes": "What the configuration asks for and what it takes: pinned allocations are rounded up to a power of two by PyTorch.",
    "restart": "A tier starts empty. Requests and time until it reaches 90% of its steady hit rate: so long a restart costs.",
    "wear": "A drive endures a number of bytes written. KV traffic can use that up in days; the share of one replica is compared.",
    "concurrency": "Sequences of the given context that the pool holds at once; what vLLM prints at start.",
    "reserved": "What the engine reserves for one request, rounded up to its blocks and groups; (b) in `size`.",
    "logical": "The bytes that KV vectors themselves take, without any engine's rounding; (a) in `size`.",
    "printed": "The number of tokens that the engine prints at start for its pool; (c) in `size`.",
    "idle": "Nothing else runs: the price of one load. Under load queues come on top, which only a simulation shows.",
    "streamed": "The sequence decodes while part of its KV stays off the GPU and crosses the link at every step.",
    "tp": "Tensor-parallel ranks: GPUs that share every layer of one replica.",
    "pp": "Pipeline stages: groups of GPUs that each hold some of the layers of one replica.",
    "dp": "Data-parallel ranks of one replica: each has a scheduler, a KV pool, a prefix cache and tiers of its own.",
    "ep": "Expert parallelism: whole experts lie on each rank, instead of a part of every one.",
    "~": "Worth it by the numbers, with a reason against it that is named: a small gain, a drive that wears out, loads that lose.",
}
"""Term -> what it means."""
