"""How many users a server holds within a target: bisection over the sessions that are open at once."""

from __future__ import annotations

import msgspec

from kvplan.errors import InputError
from kvplan.results.simulate import SimResult
from kvplan.results.users import UsersResult, UsersTried
from kvplan.scenario import Scenario
from kvplan.sim.outcome.summary import summarise
from kvplan.sim.simulate import Progress, World, opened

ALL = 10**9


def most_users(scenario: Scenario, *, progress: Progress | None = None) -> UsersResult:
    """The largest number of open sessions that meets `run.target`; waiting for another session to end counts for no request.

    Assumes that more users never make the target easier to meet. Raises InputError without a target, and for a trace that
    names no sessions or whose later turns do not wait for the answer before them.
    """
    if not scenario.run.target:
        raise InputError("how many users within which target?", hint='add --target "ttft_p95<2s"')
    result, peak = _replay(scenario, ALL, progress)
    found = {peak: result}

    def met(users: int) -> bool:
        if users not in found:
            found[users], _ = _replay(scenario, users, progress)
        return all(check.met for check in found[users].targets)

    low, high = (peak, peak) if met(peak) else (0, peak)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if met(middle) else (low, middle)
    return UsersResult(
        name=scenario.name,
        target=scenario.run.target,
        users=low,
        trace_users=peak,
        trials=[UsersTried(users=users, met=met(users), targets=found[users].targets) for users in sorted(found)],
        run=found[max(low, 1)],
    )


def _replay(scenario: Scenario, users: int, progress: Progress | None) -> tuple[SimResult, int]:
    """The result with at most `users` sessions open at once, and how many really were. Raises KeyboardInterrupt when the user stops it."""
    limited = msgspec.structs.replace(scenario, run=msgspec.structs.replace(scenario.run, max_sessions=users))
    world = World(limited, opened(limited))
    if world.sessions is None:
        raise InputError(
            f"{scenario.trace} names no sessions, so that nothing in it is a user", hint="a trace of chats, or a generated one"
        )
    if not world.sessions.closed:
        raise InputError(
            f"turns of {scenario.trace} arrive at recorded times, however late the answer before them",
            hint="a trace with think times, such as kvplan trace generate writes",
        )
    record = world.run(progress)
    if record.partial:
        raise KeyboardInterrupt
    return summarise(record), world.sessions.peak
