"""The other policies against small cases worked by hand from their published definitions."""

from __future__ import annotations

import numpy as np
import pytest
from policy_rounds import A1, A2, SHAPES, chosen, order, power_types, problem, terms

from slurmsia.config.policy import POLICIES, PolicySection
from slurmsia.models.base import JobModel, RestartCost
from slurmsia.policy.base import Candidate, Order
from slurmsia.policy.registry import policy
from slurmsia.policy.waterfill import waterfill


def test_throughput_starves_the_job_that_scales_badly():
    round_ = problem([[10.0, 30.0, 0.0, 0.0], [10.0, 11.0, 0.0, 0.0]], capacity={"a": 2})
    assert chosen(round_, terms("throughput", round_)) == ["2 a", "queued"]


def test_throughput_per_price_takes_the_type_with_more_goodput_per_money():
    round_ = problem([[10.0, 0.0, 15.0, 0.0]])
    prices = {"price_per_gpu_h": {"a": 1.0, "b": 2.0}}
    assert chosen(round_, terms("throughput", round_, throughput=prices)) == ["1 b"]
    assert chosen(round_, terms("throughput", round_, throughput={**prices, "price_weight": 1.0})) == ["1 a"]


def test_gavel_gives_the_fast_type_to_the_job_that_gains_most_from_it():
    jobs = [Candidate(f"j{i}", requested=A1) for i in range(2)]
    round_ = problem([[10.0, 19.0, 20.0, 39.0], [10.0, 19.0, 40.0, 70.0]], jobs, capacity={"a": 1, "b": 1})
    said = terms("gavel", round_)
    assert said.value[:, [0, 2]] == pytest.approx(np.array([[1.0, 2.0], [1.0, 4.0]]))
    assert chosen(round_, said) == ["1 a", "1 b"]
    assert not np.isfinite(said.value[:, [1, 3]]).any()


def test_gavel_counts_every_job_once_however_many_gpus_it_asks_for():
    jobs = [Candidate("small", requested=A1), Candidate("large", requested=A2)]
    said = terms("gavel", problem([[10.0, 19.0, 20.0, 38.0], [10.0, 19.0, 20.0, 38.0]], jobs))
    assert said.value[0, [0, 2]] == pytest.approx(np.array([1.0, 2.0]))
    assert said.value[1, [1, 3]] == pytest.approx(np.array([1.0, 2.0]))


def test_pollux_does_not_tell_types_apart_and_stays_below_its_cap():
    said = terms("pollux", problem([[10.0, 16.0, 40.0, 64.0]]), pollux={"max_gpus": 1})
    assert said.value[0, 0] == said.value[0, 2]
    assert not np.isfinite(said.value[0, [1, 3]]).any()


def test_pollux_costs_are_one_over_the_speed_up_to_a_fair_share():
    jobs = [Candidate(f"j{i}", max_gpus=2) for i in range(4)]
    said = terms("pollux", problem([[10.0, 16.0, 0.0, 0.0]] * 4, jobs))
    assert said.value[0, :2] == pytest.approx([1.1 - 1.0, 1.1 - 10 / 16])


def test_water_filling_equalises_the_worst_then_the_next():
    rate = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    need = [(np.array([1.0, 0.0]), 1.0), (np.array([0.0, 1.0]), 1.0)]
    assert (waterfill(rate, need) * rate).sum(axis=1) == pytest.approx([0.5, 0.5, 1.0])


def test_water_filling_gives_each_job_the_type_it_gains_most_from():
    rate = np.array([[1.0, 2.0], [1.0, 4.0]])
    need = [(np.array([1.0, 0.0]), 1.0), (np.array([0.0, 1.0]), 1.0)]
    got = (waterfill(rate, need) * rate).sum(axis=1)
    # job 1 has b for a share s and job 0 the rest of b and of a: 4s + (1 - s) = 2(1 - s) + s at s = 1/4
    assert got == pytest.approx([1.75, 1.75], rel=1e-6)


def test_maxmin_serves_the_job_that_is_furthest_behind_its_share():
    jobs = [
        Candidate("had", requested=A1, age_s=1000.0, service_gpu_s=1000.0),
        Candidate("starved", requested=A1, age_s=1000.0, service_gpu_s=100.0),
    ]
    round_ = problem([[10.0, 0.0, 0.0, 0.0]] * 2, jobs, capacity={"a": 1})
    assert chosen(round_, terms("maxmin", round_)) == ["queued", "1 a"]


def test_makespan_prefers_the_job_with_the_most_work_left():
    models = {
        "j0": JobModel("j0", restart=RestartCost(30.0), work_remaining=1e4),
        "j1": JobModel("j1", restart=RestartCost(30.0), work_remaining=1e6),
    }
    round_ = problem([[10.0, 0.0, 0.0, 0.0]] * 2, models=models, capacity={"a": 1})
    assert chosen(round_, terms("makespan", round_)) == ["queued", "1 a"]


def test_ftf_serves_the_job_whose_finish_time_is_most_unfair():
    models = {f"j{i}": JobModel(f"j{i}", work_done=1e4, work_remaining=1e4) for i in range(2)}
    jobs = [Candidate("j0", age_s=4000.0), Candidate("j1", age_s=40000.0)]
    round_ = problem([[10.0, 0.0, 0.0, 0.0]] * 2, jobs, models, capacity={"a": 1})
    said = terms("ftf", round_)
    # alone on half of one GPU of 10 samples/s: 2e4 / 5 s; rho = (age + 60 + 1e4 / 5) / 4000
    assert said.why["rho"][:, 0] == pytest.approx([6060 / 4000, 42060 / 4000])
    assert chosen(round_, said) == ["queued", "1 a"]


def test_las_orders_by_queue_of_service_then_by_age():
    jobs = [
        Candidate("old-served", age_s=9e5, service_gpu_s=20 * 3600.0),
        Candidate("young", age_s=10.0, service_gpu_s=0.0),
        Candidate("older", age_s=100.0, service_gpu_s=0.5 * 3600.0),
    ]
    assert order("las", problem([[1.0] * 4] * 3, jobs)).order == (2, 1, 0)


def test_srtf_orders_by_time_left_at_the_requested_size():
    models = {"j0": JobModel("j0", work_remaining=1000.0), "j1": JobModel("j1", work_remaining=1500.0)}
    jobs = [Candidate("j0", requested=A1), Candidate("j1", requested=A2)]
    round_ = problem([[10.0, 20.0, 0.0, 0.0], [10.0, 20.0, 0.0, 0.0]], jobs, models)
    assert order("srtf", round_).order == (1, 0)


def test_fifo_orders_by_age_with_undeclared_jobs_first_by_priority():
    jobs = [
        Candidate("young", age_s=1.0),
        Candidate("old", age_s=100.0),
        Candidate("low", managed=False, priority=1.0),
        Candidate("high", managed=False, priority=9.0),
    ]
    assert order("fifo", problem([[1.0] * 4] * 4, jobs)).order == (3, 2, 1, 0)


def test_wishes_are_the_requested_size_only_what_is_held_first_then_the_fastest_type():
    waits = Candidate("waits", requested=A2)
    holds = Candidate("holds", requested=A2, current=1)
    small = Candidate("small", requested=A2)
    said = order("fifo", problem([[10, 20, 30, 40], [10, 20, 30, 40], [10, 0, 30, 0]], [waits, holds, small]))
    assert said.wishes == ((3, 1), (1, 3), (2, 0))


def test_energy_prefers_the_frugal_type_only_when_it_is_switched_on():
    round_ = problem([[20.0, 0.0, 15.0, 0.0]], gpu_types=power_types())
    assert chosen(round_, terms("sia", round_)) == ["1 a"]
    measured = problem([[20.0, 0.0, 15.0, 0.0]], gpu_types=power_types(), power_w=np.array([[400.0, 0.0, 50.0, 0.0]]))
    assert chosen(measured, terms("sia", measured, energy_eta=1.0)) == ["1 b"]


def test_energy_factor_is_the_published_formula():
    from slurmsia.policy.rows import energy_factor

    round_ = problem([[20.0, 0.0, 15.0, 0.0]], gpu_types=power_types(), power_w=np.array([[300.0, 0.0, 50.0, 0.0]]))
    factor = energy_factor(round_, PolicySection(energy_eta=0.5))
    assert factor[0, 0] == pytest.approx(400 / (0.5 * (300 - 50) + 0.5 * 400))
    assert energy_factor(round_, PolicySection(energy_eta=0.0)).tolist() == [[1.0] * 4]


@pytest.mark.parametrize("name", [p for p in POLICIES if p != "sia-artifact"])
def test_every_policy_survives_an_empty_round_and_nonsense_and_repeats_itself(name):
    nonsense = [Candidate("j0", current=77, age_s=-5.0, weight=-1.0), Candidate("j1"), Candidate("u", managed=False)]
    values = [[np.nan, -1.0, np.inf, 5.0], [0.0] * 4, [1.0, 0.0, 0.0, 0.0]]
    options = PolicySection(name=name, hysteresis=True, weights=True, ageing_per_h=1.0, energy_eta=0.5)
    rounds = [problem(values, nonsense), problem(np.zeros((0, 4)).tolist() or np.zeros((0, 4)), ())]
    for round_ in rounds:
        first, second = policy(name, options).terms(round_), policy(name, options).terms(round_)
        if isinstance(first, Order):
            assert first == second
        else:
            assert np.array_equal(first.value, second.value)
            assert not np.isnan(first.value).any()
    assert policy(name).name == name


@pytest.mark.parametrize("name", ["sia", "throughput", "maxmin", "ftf", "makespan", "pollux", "gavel"])
def test_every_policy_with_a_program_names_the_parts_of_its_value(name):
    round_ = problem([[10.0, 20.0, 30.0, 40.0]] * 2, [Candidate(f"j{i}", requested=A1) for i in range(2)])
    said = terms(name, round_)
    assert said.why
    for part in said.why.values():
        assert np.broadcast_shapes(part.shape, (2, len(SHAPES))) == (2, len(SHAPES))
