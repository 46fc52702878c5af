"""What an engine's configuration can ask for and what it cannot: the search of a plan stays inside."""

from __future__ import annotations

import msgspec


class Abilities(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Restrictions of an engine. An engine that names none can do anything.

    `fixed` are fields of the offload rules that no setting changes: they stay as the engine's file has them.
    """

    fixed: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()  # store rules that can be asked for; empty: any
    policies: tuple[str, ...] = ()  # eviction policies
    kv_dtypes: tuple[str, ...] = ()
    disk: bool = True  # is there a disk tier
    disk_alone: bool = True  # does it work without a CPU tier
    disk_bounded: bool = True  # does the engine keep it within a size
    disk_selective: bool = True  # may stores be selective with one
    remote: bool = True  # is the address of a remote store all that it needs
    tensor_only: bool = False  # can a replica be spread over tensor-parallel ranks alone
    cpu_step_bytes: int = 0  # the CPU tier comes in multiples of this on each rank; 0: any size
