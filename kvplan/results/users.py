"""How many users a server holds; its JSON is this record."""

from __future__ import annotations

import msgspec

from kvplan.results.simulate import SimResult, TargetCheck


class UsersTried(msgspec.Struct, frozen=True, kw_only=True):
    """A replay with so many sessions open at once, and what came out for each clause of the target."""

    users: int
    met: bool
    targets: list[TargetCheck]


class UsersResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `kvplan simulate --max-users`."""

    schema: str = "kvplan.users/1"
    name: str
    target: str
    users: int  # most sessions open at once with the target met; 0: one alone misses it
    trace_users: int  # most sessions that the trace ever has open at once
    trials: list[UsersTried]  # by number of users
    run: SimResult  # the replay with that many, with one where none meets the target

    @property
    def limited_by_trace(self) -> bool:
        """Is the target met with all sessions of the trace, so that the server may hold more."""
        return self.users == self.trace_users
