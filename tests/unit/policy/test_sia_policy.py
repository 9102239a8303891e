"""Policy `sia` against cases worked by hand from the paper's section 3.4."""

from __future__ import annotations

import numpy as np
import pytest
from policy_rounds import chosen, problem, terms

from slurmsia.models.base import JobModel, RestartCost
from slurmsia.policy.base import Candidate
from slurmsia.policy.registry import policy


def test_a_configuration_gains_the_queue_cost_less_its_normalised_goodput_to_the_minus_half():
    said = terms("sia", problem([[10.0, 16.0, 40.0, 0.0]]))
    assert said.value[0, :3] == pytest.approx([1.1 - 1.0, 1.1 - 1.6**-0.5, 1.1 - 0.5])
    assert said.value[0, 3] == -np.inf


def test_the_objective_of_the_paper_is_recovered_from_sign_and_offset():
    said = terms("sia", problem([[10.0, 16.0, 40.0, 0.0], [1.0, 2.0, 0.0, 0.0]]))
    gain = said.value[0, 2] + said.value[1, 0]
    assert said.sign * gain + said.offset == pytest.approx(0.5 + 1.0)


def test_positive_p_maximises_and_still_rewards_every_job_that_runs():
    said = terms("sia", problem([[10.0, 20.0, 0.0, 0.0]]), sia={"p": 0.5})
    assert said.value[0, :2] == pytest.approx([1.0 + 1.1, 2**0.5 + 1.1])
    assert said.sign * said.value[0, 1] + said.offset == pytest.approx(2**0.5)


def test_moving_is_discounted_by_restarts_so_far_and_staying_is_not():
    running = Candidate("j0", current=0, age_s=300.0, restarts=2)
    said = terms("sia", problem([[10.0, 20.0, 20.0, 0.0]], [running]))
    r = (300 - 2 * 30) / (300 + 30)
    assert said.value[0, :3] == pytest.approx([0.1, 1.1 - (2 * r) ** -0.5, 1.1 - (2 * r) ** -0.5])


@pytest.mark.parametrize(
    "candidate", [Candidate("j0", current=-1, age_s=900.0, restarts=3), Candidate("j0", 1, 0, age_s=29)]
)
def test_a_job_without_gpus_or_younger_than_its_restart_cost_moves_freely(candidate):
    said = terms("sia", problem([[10.0, 40.0, 0.0, 0.0]], [candidate]))
    assert said.value[0, 1] == pytest.approx(1.1 - 0.5)


def test_a_job_whose_restarts_ate_all_its_age_never_moves():
    running = Candidate("j0", current=0, age_s=60.0, restarts=5)
    round_ = problem([[10.0, 1000.0, 0.0, 0.0]], [running])
    assert chosen(round_, terms("sia", round_)) == ["1 a"]


def test_units_make_the_worst_configuration_worth_the_gpus_of_one_replica():
    model = JobModel("j0", units={"a": 2}, restart=RestartCost(30.0))
    said = terms("sia", problem([[0.0, 10.0, 0.0, 40.0]], models={"j0": model}))
    assert said.value[0, [1, 3]] == pytest.approx([1.1 - 2**-0.5, 1.1 - 8**-0.5])


def test_a_second_gpu_goes_to_the_job_that_scales_better():
    round_ = problem([[10.0, 12.0, 0.0, 0.0], [10.0, 19.0, 0.0, 0.0]], capacity={"a": 3})
    assert chosen(round_, terms("sia", round_)) == ["1 a", "2 a"]


def test_waiting_raises_the_queue_cost_only_with_ageing_on():
    waits = Candidate("j0", waited_s=7200.0)
    round_ = problem([[10.0, 0.0, 0.0, 0.0]], [waits])
    assert terms("sia", round_).value[0, 0] == pytest.approx(0.1)
    assert terms("sia", round_, ageing_per_h=0.5).value[0, 0] == pytest.approx(0.1 + 1.1 * 0.5 * 2)


def test_weights_multiply_only_when_they_are_on():
    heavy = Candidate("j0", weight=3.0)
    round_ = problem([[10.0, 0.0, 0.0, 0.0]], [heavy])
    assert terms("sia", round_).value[0, 0] == pytest.approx(0.1)
    said = terms("sia", round_, weights=True)
    assert said.value[0, 0] == pytest.approx(0.3)
    assert "weight" in said.why


def test_with_hysteresis_a_move_must_earn_its_cost_within_the_horizon():
    running = Candidate("j0", current=0, age_s=1e6)
    model = {"j0": JobModel("j0", restart=RestartCost(mean_s=300.0))}
    earns = problem([[10.0, 12.0, 0.0, 0.0]], [running], model)
    fails = problem([[10.0, 10.8, 0.0, 0.0]], [running], model)
    on = {"hysteresis": True, "horizon_s": 3000.0, "restart_factor": "off"}
    assert chosen(earns, terms("sia", earns, **on)) == ["2 a"]
    assert chosen(fails, terms("sia", fails, **on)) == ["1 a"]
    assert chosen(fails, terms("sia", fails, restart_factor="off")) == ["2 a"]


def test_with_hysteresis_the_horizon_ends_with_the_job():
    running = Candidate("j0", current=0, age_s=1e6)
    ends_soon = JobModel("j0", restart=RestartCost(mean_s=300.0), work_remaining=10.0 * 310.0)
    round_ = problem([[10.0, 100.0, 0.0, 0.0]], [running], {"j0": ends_soon})
    assert chosen(round_, terms("sia", round_, hysteresis=True)) == ["1 a"]


def test_work_since_the_last_checkpoint_counts_as_cost_of_a_move():
    running = Candidate("j0", current=0, age_s=1e6, since_checkpoint_s=2000.0)
    round_ = problem([[10.0, 20.0, 0.0, 0.0]], [running])
    said = terms("sia", round_, hysteresis=True, restart_factor="off")
    assert said.why["restart-cost"][0, 1] == pytest.approx(1 - 2030 / 3600)


def test_a_pinned_or_unmovable_job_has_its_current_configuration_only():
    for held in (Candidate("j0", current=1, pinned=True), Candidate("j0", current=1, may_move=False)):
        said = terms("sia", problem([[10.0, 20.0, 30.0, 40.0]], [held]))
        assert np.isfinite(said.value[0]).tolist() == [False, True, False, False]


def test_rigid_leaves_the_requested_number_of_gpus_on_any_type():
    job = Candidate("j0", requested=problem([[1.0] * 4]).shapes[1])
    said = terms("sia", problem([[10.0, 20.0, 30.0, 40.0]], [job]), rigid=True)
    assert np.isfinite(said.value[0]).tolist() == [False, True, False, True]


def test_min_efficiency_bars_sizes_that_waste_gpus():
    job = Candidate("j0", min_efficiency=0.8)
    said = terms("sia", problem([[10.0, 15.0, 10.0, 18.0]], [job]))
    assert np.isfinite(said.value[0]).tolist() == [True, False, True, True]


def test_a_spent_gpu_budget_leaves_nothing_and_a_small_one_what_ends_the_work():
    spent = Candidate("j0", gpu_h_left=0.0)
    assert not np.isfinite(terms("sia", problem([[10.0, 20.0, 0, 0]], [spent])).value).any()
    tight = Candidate("j0", gpu_h_left=1.1)
    model = {"j0": JobModel("j0", work_remaining=36000.0)}
    said = terms("sia", problem([[10.0, 15.0, 0.0, 0.0]], [tight], model))
    assert np.isfinite(said.value[0]).tolist() == [True, False, False, False]


def test_nobody_moves_when_the_walltime_ends_before_the_move_pays():
    late = Candidate("j0", current=0, walltime_left_s=80.0)
    said = terms("sia", problem([[10.0, 100.0, 0.0, 0.0]], [late]))
    assert np.isfinite(said.value[0]).tolist() == [True, False, False, False]


def test_an_undeclared_job_is_never_outbid_by_managed_jobs():
    jobs = [Candidate("other", managed=False), *(Candidate(f"j{i}", waited_s=1e6) for i in range(3))]
    round_ = problem([[0.0, 1.0, 0.0, 0.0]] + [[10.0, 19.9, 0.0, 0.0]] * 3, jobs, capacity={"a": 2})
    assert chosen(round_, terms("sia", round_, ageing_per_h=1.0))[0] == "2 a"


def test_no_goodput_and_odd_numbers_are_left_out_without_an_error():
    said = terms("sia", problem([[np.nan, np.inf, 10.0, 0.0], [0.0] * 4]))
    assert np.isfinite(said.value).tolist() == [[False, False, True, False], [False] * 4]


def test_an_unknown_policy_is_named_in_the_error():
    with pytest.raises(KeyError, match="no policy 'siaa'"):
        policy("siaa")
