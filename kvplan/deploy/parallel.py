"""How a command line spreads a replica over GPUs: tensor-parallel ranks, pipeline stages, data-parallel ranks, experts."""

from __future__ import annotations

from kvplan.deploy.reading import Reading

RANKS = {
    "tp": ("--tensor-parallel-size", "-tp", "--tp", "--tp-size"),
    "pp": ("--pipeline-parallel-size", "-pp", "--pp-size"),
    "dp": ("--data-parallel-size", "-dp", "--dp", "--dp-size"),
}
"""Kind of parallelism -> the flags that give its size, of vLLM and SGLang."""

_EXPERT_SIZES = ("--expert-parallel-size", "--ep-size", "--ep")
_EXPERT_SWITCHES = ("--enable-expert-parallel", "-ep")


def spread(reading: Reading) -> None:
    """The kinds of parallelism that flags name, as fields of the placement."""
    flags = reading.config.flags
    for kind, names in RANKS.items():
        for name in names:
            if name in flags:
                reading.ranks(name, flags[name], kind)
    groups = attention_groups(flags)
    if groups > 1:
        _attention_groups(reading, groups)
    ranks = reading.tp * reading.dp
    for name in _EXPERT_SWITCHES:
        if name in flags:
            reading.fields["ep"] = ranks
            reading.mean(name, "", f"whole experts on {ranks} ranks")
    for name in _EXPERT_SIZES:
        if name in flags and (size := reading.whole(name, flags[name])) and size > 1:
            reading.mean(name, size, f"whole experts on {size} ranks")
            if size == ranks:
                reading.fields["ep"] = size
            else:
                sentence = f"{name} {size}: weights are counted as if each of the {ranks} ranks held a part of every expert."
                reading.fault("experts_uneven", sentence, key=name, level="note")


def attention_groups(flags: dict[str, str]) -> int:
    """Groups of SGLang's data-parallel attention: `--attn-dp-size N`, or the older `--dp-size N --enable-dp-attention`.

    Source: sglang/srt/arg_groups/parallel_hook.py (0.5.23).
    """
    names = ATTENTION + (RANKS["dp"] if "--enable-dp-attention" in flags else ())
    return next((int(flags[name]) for name in names if flags.get(name, "").isdecimal() and int(flags[name])), 1)


ATTENTION = ("--attention-data-parallel-size", "--attn-dp-size")


def _attention_groups(reading: Reading, groups: int) -> None:
    """The ranks of attention groups are the tensor-parallel ones, shared out."""
    ranks = reading.tp
    if ranks % groups:
        sentence = f"SGLang refuses {groups} attention groups on {ranks} ranks: they must divide them."
        reading.fault("groups_uneven", sentence, key="--attn-dp-size")
        return
    reading.fields.update(tp=ranks // groups, dp=groups)
    each = f"{ranks // groups} rank{'s' * (ranks > groups)}"
    reading.mean("--attn-dp-size", groups, f"{groups} attention groups of {each}, which share the step's tokens and the requests")
    if "--enable-dp-attention" in reading.config.flags:
        sentence = "--enable-dp-attention is an old word of SGLang's that goes after 2026."
        reading.fault(
            "deprecated", sentence, key="--enable-dp-attention", hint=f"--attn-dp-size {groups} instead of --dp-size", level="note"
        )
