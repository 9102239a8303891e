"""Policy `goodput` against cases worked by hand (docs/goodput.md)."""

from __future__ import annotations

import numpy as np
import pytest
from policy_rounds import chosen, problem, terms

from slurmsia.config.policy import PolicySection
from slurmsia.models.base import JobModel, RestartCost
from slurmsia.policy.base import Candidate
from slurmsia.policy.goodput import age_of_others, work_left
from slurmsia.policy.rows import Rows

#: Only speed against the equal share, in units of the look-ahead: every other term is switched off.
BARE = {"p": 1, "pay_back": 0, "lasting": 0, "short_first": 0, "explore": 0, "gpu_price": 0}


def with_work(*left: float, restart_s: float = 30.0) -> dict[str, JobModel]:
    """Models of jobs j0, j1, ... that have ``left`` samples to do."""
    return {
        f"j{i}": JobModel(f"j{i}", restart=RestartCost(restart_s), work_done=0.0, work_remaining=samples)
        for i, samples in enumerate(left)
    }


def test_the_value_is_the_speed_over_that_on_an_equal_share():
    # alone: a fair share is 2 GPUs of each type, 20 + 40 samples/s; 10/s is a sixth of that
    said = terms("goodput", problem([[10.0, 20.0, 20.0, 40.0]], models=with_work(1e9)), goodput=BARE)
    assert said.value[0] == pytest.approx([150.0, 300.0, 300.0, 600.0])


def test_below_one_the_exponent_makes_the_first_gpus_of_a_job_count_more_than_its_last():
    said = terms("goodput", problem([[10.0, 20.0, 20.0, 40.0]], models=with_work(1e9)), goodput={**BARE, "p": 0.5})
    assert said.value[0] == pytest.approx([900 / 6**0.5, 900 / 3**0.5, 900 / 3**0.5, 900 * (2 / 3) ** 0.5])


def test_two_equal_jobs_share_what_one_could_scale_to_without_loss():
    round_ = problem([[10.0, 20.0, 0.0, 0.0]] * 2, models=with_work(1e9, 2e9), capacity={"a": 2})
    shared = terms("goodput", round_, goodput={**BARE, "p": 0.5})
    assert chosen(round_, shared) == ["1 a", "1 a"]


def test_a_job_that_ends_within_the_look_ahead_is_charged_its_start_until_its_end():
    # 6,000 samples: at 10/s they take 30 + 600 s, so 9.52/s on average, of the fair share's 60
    said = terms(
        "goodput", problem([[10.0, 20.0, 0.0, 40.0]], models=with_work(6000.0)), goodput={**BARE, "pay_back": 2}
    )
    fair = 20.0 + 40.0
    assert said.value[0, [0, 1, 3]] == pytest.approx([900 * 6000 / (30 + 6000 / g) / fair for g in (10.0, 20.0, 40.0)])


def test_the_value_is_continuous_where_a_job_ends_with_the_look_ahead():
    just = [
        terms(
            "goodput",
            problem([[10.0, 20.0, 20.0, 40.0]], models=with_work(8700.0 + d)),
            goodput={**BARE, "pay_back": 2},
        )
        for d in (-0.01, 0.01)
    ]
    assert just[0].value[0, 0] == pytest.approx(just[1].value[0, 0], abs=0.01)


def test_a_move_pays_its_restart_and_the_ones_that_follow_out_of_the_look_ahead():
    running = Candidate("j0", current=0)
    round_ = problem([[10.0, 20.0, 20.0, 40.0]], [running], models=with_work(1e9, restart_s=90.0))
    said = terms("goodput", round_, goodput={**BARE, "pay_back": 2})
    assert said.value[0] == pytest.approx([150.0, 630 * 20 / 60, 630 * 20 / 60, 630 * 40 / 60])
    assert chosen(round_, said) == ["2 b"]
    assert chosen(round_, terms("goodput", round_, goodput={**BARE, "pay_back": 8})) == ["1 a"]


def test_a_job_that_tells_nothing_finds_its_place_by_moves_that_one_with_a_known_end_would_not_make():
    running = Candidate("j0", current=0)
    silent = {"j0": JobModel("j0", restart=RestartCost(90.0), work_done=600.0)}
    rows, options = [[10.0, 15.0, 15.0, 20.0]], {**BARE, "pay_back": 8, "gpu_price": 2}
    known = problem(rows, [running], models=with_work(1e9, restart_s=90.0))
    assert chosen(known, terms("goodput", known, goodput=options)) == ["1 a"]
    unknown = problem(rows, [running], models=silent)
    assert chosen(unknown, terms("goodput", unknown, goodput=options)) == ["2 b"]


def test_a_run_that_lasted_moves_for_a_gain_that_a_new_run_would_not_move_for():
    def held(run_s: float) -> list[str]:
        running = Candidate("j0", current=0, run_s=run_s)
        round_ = problem([[10.0, 13.0, 0.0, 0.0]], [running], models=with_work(1e9, restart_s=100.0))
        return chosen(round_, terms("goodput", round_, goodput={**BARE, "pay_back": 2, "lasting": 1}))

    assert (held(300.0), held(7200.0)) == (["1 a"], ["2 a"])


def test_a_job_is_not_sent_to_a_slower_place_for_a_short_while_however_long_it_ran():
    # twice 100 s of restart and more are dearer than what the short job would gain on the fast GPU
    running = Candidate("j0", current=2, run_s=36000.0, max_gpus=2)
    round_ = problem([[10.0, 0.0, 20.0, 0.0]], [running], models=with_work(1e9, restart_s=100.0))
    said = terms("goodput", round_, goodput={**BARE, "pay_back": 2, "lasting": 1})
    assert said.value[0, 0] / said.value[0, 2] == pytest.approx(0.5 * (900 - 300) / 900)


def test_a_long_run_does_not_move_to_where_short_jobs_come_and_go():
    def held(age_of_others_s: float) -> list[str]:
        jobs = [Candidate("j0", current=0, run_s=7200.0), Candidate("j1", current=3, run_s=age_of_others_s)]
        rows = [[10.0, 0.0, 14.0, 0.0], [0.0, 0.0, 0.0, 20.0]]
        round_ = problem(rows, jobs, models=with_work(1e9, 1e9, restart_s=100.0), capacity={"a": 1, "b": 3})
        return chosen(round_, terms("goodput", round_, goodput={**BARE, "pay_back": 2, "lasting": 1}))

    assert (held(300.0), held(3600.0)) == (["1 a", "2 b"], ["1 b", "2 b"])


def test_where_nothing_else_runs_a_choice_lasts_as_long_as_the_run_has():
    jobs = [Candidate("j0", current=0, run_s=7200.0), Candidate("j1", current=3, run_s=500.0), Candidate("j2")]
    round_ = problem([[10.0, 20.0, 10.0, 20.0]] * 3, jobs, models=with_work(1e9, 1e9, 1e9))
    ages = age_of_others(Rows(round_, PolicySection()), np.array([7200.0, 500.0, 0.0]))
    assert ages.tolist() == [
        [np.inf, np.inf, 500.0, 500.0],
        [7200.0, 7200.0, np.inf, np.inf],
        [7200.0, 7200.0, 500.0, 500.0],
    ]


def test_to_change_nodes_for_anothers_sake_is_charged_as_every_other_move():
    round_ = problem([[10.0, 20.0, 0.0, 0.0]], models=with_work(1e9))
    assert terms("goodput", round_, goodput={**BARE, "pay_back": 3}).lasts_s == pytest.approx(900.0 / 4.0)
    assert terms("goodput", round_, goodput=BARE).lasts_s == pytest.approx(900.0)


def test_a_job_of_which_nothing_says_what_is_left_stands_in_the_middle():
    models = with_work(4e9, 1e9, 3e9)
    models["j1"] = JobModel("j1", restart=RestartCost(30.0), work_done=5e12)
    said = terms("goodput", problem([[10.0, 20.0, 10.0, 20.0]] * 3, models=models), goodput={**BARE, "short_first": 1})
    assert said.why["short-first"][:, 0] == pytest.approx([1.5, 2.0, 3.0])
    assert said.why["jobs-with-less-left"][:, 0].tolist() == [1.0, 0.0, 0.0]


def test_jobs_count_as_many_times_as_jobs_have_at_least_as_much_left():
    same = [[10.0, 20.0, 10.0, 20.0]] * 4
    said = terms("goodput", problem(same, models=with_work(4e9, 1e9, 3e9, 3e9)), goodput={**BARE, "short_first": 0.5})
    assert said.why["short-first"][:, 0] == pytest.approx([1.0, 4**0.5, 3**0.5, 3**0.5])


def test_the_short_job_gets_the_fast_gpus():
    round_ = problem([[10.0, 0.0, 20.0, 0.0]] * 2, models=with_work(1e7, 1e5), capacity={"a": 1, "b": 1})
    assert chosen(round_, terms("goodput", round_)) == ["1 a", "1 b"]


def test_a_job_that_waits_counts_more_without_bound():
    waiting = [Candidate("j0", waited_s=0.0), Candidate("j1", waited_s=3600.0), Candidate("j2", waited_s=7200.0)]
    said = terms("goodput", problem([[10.0, 20.0, 0.0, 0.0]] * 3, waiting), goodput=BARE)
    assert said.value[:, 0] / said.value[0, 0] == pytest.approx([1.0, 2.0, 3.0])


def test_sizes_that_scale_badly_are_worth_less():
    round_ = problem([[10.0, 12.0, 0.0, 0.0]], models=with_work(1e9))
    said = terms("goodput", round_, goodput={**BARE, "gpu_price": 0.5})
    assert said.why["thrift"][0, :2] == pytest.approx([1.0, 0.6**0.5])


def test_a_job_that_scales_worse_than_was_thought_is_not_restarted_to_run_slower_on_gpus_that_nobody_wants():
    options, rows, work = {**BARE, "p": 0.5, "gpu_price": 0.5}, [12.0, 14.0, 0.0, 0.0], with_work(1e9, 1e9)
    alone = problem([rows], models=work)
    assert chosen(alone, terms("goodput", alone, goodput=options)) == ["1 a"], "it would not start there"
    running = Candidate("j0", current=1, max_gpus=2)
    there = problem([rows], [running], models=work)
    assert chosen(there, terms("goodput", there, goodput=options)) == ["2 a"]
    joined = problem([rows, rows], [running, Candidate("j1", max_gpus=2)], models=work)
    assert chosen(joined, terms("goodput", joined, goodput=options)) == ["1 a", "1 a"], "it makes room"


def test_an_uncertain_configuration_gets_a_bonus_and_the_present_one_does_not():
    from dataclasses import replace

    round_ = problem([[10.0, 10.0, 10.0, 10.0]], [Candidate("j0", current=0)])
    unsure = replace(round_.matrix, rel_error=np.array([[0.5, 0.0, 0.5, np.nan]]))
    said = terms("goodput", replace(round_, matrix=unsure), goodput={**BARE, "explore": 0.4})
    assert said.why["explore"][0] == pytest.approx([1.0, 1.0, 1.2, 1.4])


def test_an_undeclared_gpu_is_never_outbid():
    round_ = problem([[10.0, 20.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], [Candidate("j0"), Candidate("j1", managed=False)])
    said = terms("goodput", round_)
    assert said.value[1, 0] >= said.value[0].max()


def test_a_job_past_its_target_is_not_taken_to_be_done():
    past = {"j0": JobModel("j0", restart=RestartCost(30.0), work_done=1e6, work_remaining=0.0)}
    said = terms("goodput", problem([[10.0, 20.0, 20.0, 40.0]], models=past), goodput=BARE)
    assert said.value[0] == pytest.approx([150.0, 300.0, 300.0, 600.0])


def test_a_job_past_its_target_is_taken_to_have_as_much_left_as_it_did():
    past = {"j0": JobModel("j0", restart=RestartCost(30.0), work_done=1e6, work_remaining=0.0)}
    assert work_left(Rows(problem([[10.0, 20.0, 20.0, 40.0]], models=past), PolicySection())).tolist() == [1e6]


def test_the_rank_of_a_job_of_one_size_counts_in_full_on_the_scale_of_the_others():
    one_size = [Candidate(f"j{i}", min_gpus=2, max_gpus=2) for i in range(3)]
    round_ = problem([[0.0, 20.0, 0.0, 20.0]] * 3, one_size, models=with_work(3e9, 1e9, 2e9))
    said = terms("goodput", round_, goodput={**BARE, "short_first": 0.5})
    assert said.why["short-first"][:, 0] == pytest.approx([1 / 3**0.5, 3 / 3**0.5, 2 / 3**0.5])


def test_a_job_of_one_size_keeps_while_it_runs_what_it_waited_and_an_elastic_one_does_not():
    rigid = Candidate("j0", current=0, age_s=9000.0, run_s=1800.0)
    elastic = Candidate("j1", current=0, age_s=9000.0, run_s=1800.0, max_gpus=2)
    said = terms("goodput", problem([[10.0, 20.0, 0.0, 0.0]] * 2, [rigid, elastic]), goodput=BARE)
    assert said.why["waited"][:, 0] == pytest.approx([3.0, 1.0])
