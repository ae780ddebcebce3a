"""Processes: training over several of them on this machine, what a sum costs, and on paper what many machines would."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from . import agreement
from .process_worker import Network
from .tables import Column, Table, megabytes, microseconds, milliseconds, number, percent
from .timing import Run, Timing

ROWS = 16  # for each process; in all twice as many
ROWS_MANY = 1024  # for all machines on paper
SMALL, MIDDLE, LARGE = Network(128, 1, 32), Network(384, 2, 64), Network(1024, 2, 64)
NUMBER = Network(0, 0, 0)  # the sum of one number
SUM_CALLS = 5  # of a third of a second


class Group(NamedTuple):
    """Processes that are started together.

    Attributes:
        name: what they are.
        processes: how many.
        devices: how many JAX devices each has.
        pinned: whether each is kept on one core, the first on the first; else all use all.
    """

    name: str
    processes: int
    devices: int = 1
    pinned: bool = False

    def cores(self, usable: Sequence[int], k: int = 0) -> Sequence[int]:
        """Return the cores that process k may use."""
        return [usable[k % len(usable)]] if self.pinned else usable


ALONE = Group("1 on one core", 1, pinned=True)
DEVICES = Group("1 with a device a core", 1, devices=2)
PINNED = Group("2, each kept on its core", 2, pinned=True)
PAIR = Group("2", 2)
FOUR = Group("4", 4)
ROWS_ALONE = {ALONE: (ROWS,), DEVICES: (ROWS, 4 * ROWS)}  # of every network that is summed, to set the sum beside

Steps = dict[tuple[Group, Network, int], Timing]  # by the rows in all
Sums = dict[tuple[Group, Network], Timing]


class Step(NamedTuple):
    """The seconds that a machine's training step takes, `fixed` whatever its rows, and `row` for each."""

    fixed: float
    row: float

    @classmethod
    def through(cls, rows: Sequence[int], seconds: Sequence[float]) -> "Step":
        """Return the line through two measured steps, of which noise may make neither part negative."""
        row = max(0.0, (seconds[1] - seconds[0]) / (rows[1] - rows[0]))
        fixed = max(0.0, seconds[1] - row * rows[1])
        return cls(fixed, (seconds[1] - fixed) / rows[1])


class Link(NamedTuple):
    """What joins the machines: bytes a second, and the seconds of a message of none."""

    name: str
    bandwidth: float
    latency: float


LINKS = (  # assumed: usual numbers for TCP over Ethernet, and for the last for what does without TCP
    Link("1 Gbit/s, 50 µs", 1e9 / 8, 50e-6),
    Link("10 Gbit/s, 20 µs", 1e10 / 8, 20e-6),
    Link("100 Gbit/s, 5 µs", 1e11 / 8, 5e-6),
)
MACHINES = 8, 64, 1024


def ring(machines: int) -> int:
    """Return after how many messages in a row a sum is everywhere, each machine telling the next, as Gloo does it."""
    return 2 * (machines - 1)


def halving(machines: int) -> int:
    """Return the same where machines tell each other by twos, the sum's halves, quarters, ... and back."""
    return 2 * (machines - 1).bit_length()


class Cost(NamedTuple):
    """What a training step over many machines costs: a machine's own step, and the sum of `size` bytes over a link."""

    step: Step
    size: float
    link: Link
    messages: Callable[[int], int] = ring

    def summing(self, machines: int) -> float:
        """Return the seconds of a step's two sums: of one number, by how much all targets count, and the gradients."""
        sent = 2 * (machines - 1) / machines * (4 + self.size)
        return sent / self.link.bandwidth + 2 * self.messages(machines) * self.link.latency


def on_paper(machines: int, rows: int, cost: Cost) -> float:
    """Return the seconds of a training step of `rows` rows over so many machines, each like the measured one.

    They compute at the same time, as long as the one with the most rows takes, and then sum; nothing overlaps.
    """
    return cost.step.fixed + cost.step.row * -(-rows // machines) + cost.summing(machines)


def most_worthwhile(rows: int, cost: Cost) -> int:
    """Return over how many machines, of a row each at the least, a step of `rows` rows takes the least time."""
    return min(range(1, rows + 1), key=lambda machines: on_paper(machines, rows, cost))


def measure(run: Run) -> Iterator[Table]:
    """Measure steps and sums over processes of this machine, and compute from them what many machines would give."""
    trained, summed = ((SMALL,), (SMALL,)) if run.quick else ((SMALL, MIDDLE), (SMALL, MIDDLE, LARGE))
    groups = (ALONE, DEVICES, PAIR) if run.quick else (ALONE, DEVICES, PINNED, PAIR, FOUR)
    calls, usable = 2 if run.quick else 5, sorted(os.sched_getaffinity(0))
    steps: Steps = {}
    sums: Sums = {}
    first: dict[tuple[Network, int], list[float]] = {}
    for k, group in enumerate(groups):
        run.progress(f"processes: {group.name}", k / len(groups))
        asked = [(network, rows(group)) for network in trained for rows in (rows_each, rows_in_all)]
        asked += [(network, rows) for network in summed for rows in ROWS_ALONE.get(group, ())]
        asked = list(dict.fromkeys(asked))
        asked_sums = [NUMBER, *summed] if group in (PAIR, FOUR) else []
        jobs = [("steps", network, rows, calls if network in trained else 2) for network, rows in asked]
        jobs += [("sums", network, SUM_CALLS) for network in asked_sums]
        found = iter(together(group, usable, jobs))
        for (network, rows), (seconds, learned) in zip(asked, found, strict=False):
            wanted = first.setdefault((network, rows), learned)
            agreement.within(f"{group.name}: first loss and gradient", learned, wanted, agreement.GRADIENT)
            steps[group, network, rows] = Timing.of(seconds)
        sums |= {(group, network): Timing.of(seconds) for network, seconds in zip(asked_sums, found, strict=True)}
    yield _steps_table("each", rows_each, steps, trained, groups, len(usable))
    yield _steps_table("in all", rows_in_all, steps, trained, groups, len(usable))
    yield _sums_table(summed, steps, sums)
    yield from _paper_tables(summed, steps)


def rows_each(group: Group) -> int:
    """Return the rows of a step with the same work for each process."""
    return ROWS * group.processes


def rows_in_all(group: Group) -> int:
    """Return those with the same work in all."""
    return 2 * ROWS


def together(group: Group, usable: Sequence[int], jobs: Sequence[tuple]) -> list[Any]:
    """Start all processes of a group, which do the jobs together; return what the first one says of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", f"{__package__}.process_worker"]
    started = []
    try:
        for k in range(group.processes):
            told = json.dumps([address, group.processes, k, group.devices, group.cores(usable, k), jobs])
            output = subprocess.DEVNULL if k else subprocess.PIPE
            started.append(subprocess.Popen([*command, told], stdout=output, text=True))
        said, _ = started[0].communicate()
        ended = [process.wait() for process in started]  # where one fails, the others find out
    finally:
        for process in started:
            process.kill()
    if any(ended):
        raise RuntimeError(f"processes: {group.name}: expected all to end well, got the exit codes {ended}")
    return json.loads(said.splitlines()[-1])  # Gloo prints as well


def _steps_table(
    kind: str,
    rows_of: Callable[[Group], int],
    steps: Steps,
    networks: Sequence[Network],
    groups: Sequence[Group],
    usable: int,
) -> Table:
    records: list[dict[str, Any]] = []
    for network in networks:
        one_core = rows_of(ALONE) / steps[ALONE, network, rows_of(ALONE)].seconds
        for group in groups:
            rows, timing = rows_of(group), steps[group, network, rows_of(group)]
            cores = min(usable, group.processes if group.pinned else usable)
            rate = rows / timing.seconds
            records.append(
                {
                    "network": f"{network}, {network.steps} time steps",
                    "group": group.name,
                    "rows": rows,
                    "seconds": timing.seconds,
                    "spread": timing.spread,
                    "rate": rate,
                    "speedup": rate / one_core,
                    "efficiency": rate / one_core / cores,
                }
            )
    columns = (
        Column("network", "units", right=False),
        Column("group", "processes", right=False),
        Column("rows", "rows in all"),
        Column("seconds", "a step, ms", milliseconds),
        Column("spread", "spread", percent),
        Column("rate", "rows/s", number),
        Column("speedup", "x one core", number),
        Column("efficiency", "a core", percent),
    )
    notes = (f"Over loopback, on {usable} cores; x one core: against the first line; a core: that by the cores used.",)
    return Table(f"processes, {kind}", f"Processes, the same work {kind}", columns, records, "network", notes)


def _sums_table(networks: Sequence[Network], steps: Steps, sums: Sums) -> Table:
    records: list[dict[str, Any]] = []
    for group, network in sums:
        timing, size = sums[group, network], bytes_of(network)
        step = steps[ALONE, network, ROWS].seconds if network in networks else None
        records.append(
            {
                "group": group.name,
                "network": f"{network}" if network in networks else "one number",
                "size": size,
                "seconds": timing.seconds,
                "spread": timing.spread,
                "bandwidth": 2 * (group.processes - 1) / group.processes * size / timing.seconds if size > 4 else None,
                "step": step,
                "part": (timing.seconds + sums[group, NUMBER].seconds) / step if step else None,
            }
        )
    columns = (
        Column("group", "processes", right=False),
        Column("network", "units", right=False),
        Column("size", "MB", megabytes),
        Column("seconds", "a sum, µs", microseconds),
        Column("spread", "spread", percent),
        Column("bandwidth", "MB/s out of each", megabytes),
        Column("step", f"a step of {ROWS} rows, ms", milliseconds),
        Column("part", "a step's sums beside it", percent),
    )
    notes = (
        "Of all gradients as one array, put together and taken apart again, with nothing else to do; the step is that "
        "of one process on one core, which is followed by the sum of one number and that of the gradients.",
    )
    return Table("sums", "The sum over processes, over loopback", columns, records, "group", notes)


def _paper_tables(networks: Sequence[Network], steps: Steps) -> Iterator[Table]:
    records: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    for network in networks:
        few, many = ROWS_ALONE[DEVICES]
        step = Step.through((few, many), [steps[DEVICES, network, rows].seconds for rows in (few, many)])
        for link in LINKS:
            cost = Cost(step, bytes_of(network), link)
            named = {"network": f"{network}, {megabytes(cost.size)} MB", "link": link.name}
            for machines in MACHINES:
                record = {**named, "machines": machines, "sum": cost.summing(machines), **step._asdict()}
                for kind, rows, alone in (("each", ROWS * machines, ROWS), ("in all", ROWS_MANY, ROWS_MANY)):
                    rate, one = rows / on_paper(machines, rows, cost), alone / on_paper(1, alone, cost)
                    record |= {f"rate {kind}": rate, f"efficiency {kind}": rate / machines / one}
                records.append(record)
            ends.append(dict(named))
            for kind, messages in (("ring", ring), ("halving", halving)):
                by = cost._replace(messages=messages)
                best = most_worthwhile(ROWS_MANY, by)
                faster = on_paper(1, ROWS_MANY, by) / on_paper(best, ROWS_MANY, by)
                ends[-1] |= {kind: best, f"{kind} faster": faster}
    where = Column("network", "units", right=False), Column("link", "network", right=False)
    columns = (
        *where,
        Column("machines", "machines"),
        Column("sum", "sums, ms", milliseconds),
        Column("rate each", f"{ROWS} rows each, rows/s", number),
        Column("efficiency each", "part", percent),
        Column("rate in all", f"{ROWS_MANY:,} in all, rows/s", number),
        Column("efficiency in all", "part", percent),
    )
    notes = (
        f"Computed, not measured. A machine's step is a line through the {few} and {many} rows measured here in one "
        "process with a device a core, drawn on to 1 row and to all. Sums are a ring's, as Gloo does them: 2 (P - 1) / "
        "P of the bytes at the network's bandwidth and 2 (P - 1) times its latency, for the gradients and for one "
        "number before them. The networks are assumed, with nobody else on them; no machine is late. Nothing overlaps: "
        "the gradients of all layers are one array, there after the whole backward pass. part: of so many times what "
        f"one machine does, with {ROWS} rows or with all {ROWS_MANY:,}.",
    )
    yield Table("paper", "On paper: many machines", columns, records, "network", notes)
    columns = (
        *where,
        Column("ring", "pays up to"),
        Column("ring faster", "x one machine", number),
        Column("halving", "summed by halves"),
        Column("halving faster", "x one machine", number),
    )
    notes = (
        f"The machines with which a step of {ROWS_MANY:,} rows takes the least time, {ROWS_MANY:,} at the most; and "
        "if they summed by halves, in 2 log2 P messages of as many bytes, which Gloo as jlstm has it does not.",
    )
    yield Table("paper ends", "On paper: where another machine no longer pays", columns, ends, "network", notes)


def bytes_of(network: Network) -> int:
    """Return how many bytes are summed: the gradients, in float32, and the loss."""
    shapes = jax.eval_shape(lambda: network.params) if network.layers else ()
    return 4 * (1 + sum(leaf.size for leaf in jax.tree.leaves(shapes)))
