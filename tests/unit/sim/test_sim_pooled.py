"""What is pooled of similar jobs is the same however often it is asked for, and whichever of them have ended."""

from __future__ import annotations

import random

from slurmsia.history import JobKind, MemoryPoint, Observation, Progress, Report, SimilarHistory
from slurmsia.sim.pooled import HistoryBook

KIND = JobKind(1, "train.sh")


def report(job_id: str, seq: int, event: str, draw: random.Random) -> Report:
    step_s = draw.uniform(0.1, 0.3)
    batch = float(draw.choice((8, 16, 32)))
    return Report(
        job_id=job_id,
        restart=0,
        seq=seq,
        t_s=float(seq),
        event=event,
        observations=(Observation("t4", 1, draw.choice((1, 2)), batch, 0, 10.0, 10 * step_s, 10 * step_s**2, step_s),),
        progress=Progress(float(seq), 100.0 * seq),
        memory=MemoryPoint("t4", batch, batch * draw.uniform(1e6, 2e6), 16e9),
    )


def reports(seed: int) -> list[Report]:
    """Five jobs that report in turn and end in an order of their own."""
    draw = random.Random(seed)
    ends = {f"{number}": draw.randint(2, 9) for number in range(1, 6)}
    return [
        report(job_id, seq, "end" if seq == last else "progress", draw)
        for seq in range(1, 10)
        for job_id, last in ends.items()
        if seq <= last
    ]


def book_of(heard: list[Report]) -> HistoryBook:
    book = HistoryBook()
    for number in range(1, 6):
        book.enter(f"{number}", KIND)
    for one in heard:
        book.add(one)
    return book


def asked_at_the_end(heard: list[Report]) -> SimilarHistory | None:
    return book_of(heard).similar(KIND)


def test_asking_after_every_report_gives_what_asking_once_gives() -> None:
    for seed in range(20):
        heard = reports(seed)
        asked = book_of([])
        for count, one in enumerate(heard, start=1):
            asked.add(one)
            assert asked.similar(KIND) == asked_at_the_end(heard[:count])


def test_a_report_after_the_end_counts_like_any_other() -> None:
    heard = reports(3)
    asked = book_of(heard)
    asked.similar(KIND)
    late = report("1", 99, "progress", random.Random(4))
    asked.add(late)
    assert asked.similar(KIND) == asked_at_the_end([*heard, late])
