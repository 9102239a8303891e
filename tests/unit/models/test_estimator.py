"""The estimator: what a job's model is at each stage of knowing it, and what it costs to ask again."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from slurmsia.cluster import GpuType, Shape
from slurmsia.declaration import Declaration, Level
from slurmsia.history import (
    Gradient,
    JobHistory,
    JobKind,
    MemoryPoint,
    Observation,
    Progress,
    RestartSample,
    SimilarHistory,
)
from slurmsia.models.base import JobModel, PipelineParams, ThroughputParams
from slurmsia.models.estimator import KINDS_KEPT, Estimator
from slurmsia.models.goodput import GoodputTable, best_batch, goodput_matrix, one_gpu_throughput
from slurmsia.models.speed import model_step_time
from slurmsia.models.throughput import step_time

T4 = ThroughputParams(0.2, 0.004, 0.2, 0.01, 0.06, 0.002, 1.5)
A100 = ThroughputParams(0.08, 0.0012, 0.05, 0.002, 0.02, 0.001, 1.5)
TRUTH = {"t4": T4, "a100": A100}
TYPES = (GpuType("t4", 16e9), GpuType("a100", 40e9))
KIND = JobKind(1000, "abc", "train")
ADAPTIVE = Declaration(1, 16, Level.ADAPTIVE, batch_min=128, batch_max=4096, local_min=16, local_max=512)


def ran(gpu_type: str, nodes: int, gpus: int, batch: float, count: float = 100.0) -> Observation:
    step = float(step_time(TRUTH[gpu_type], nodes, gpus, batch))
    sync = step - (TRUTH[gpu_type].alpha_c + TRUTH[gpu_type].beta_c * batch) if gpus > 1 else 0.0
    return Observation(gpu_type, nodes, gpus, batch, 0, count, count * step, count * step * step, count * sync)


def history(*observations: Observation, version: int = 1, **more: object) -> JobHistory:
    return replace(JobHistory("7", version, observations), **more)  # type: ignore[arg-type]


def ask(
    estimator: Estimator,
    known: JobHistory | None,
    declaration: Declaration = ADAPTIVE,
    similar: object = None,
    now_s: float = 0.0,
) -> JobModel:
    return estimator.model("7", known, declaration, KIND, TYPES, similar, now_s)  # type: ignore[arg-type]


class Past:
    """A history source with one answer."""

    def __init__(self, answer: SimilarHistory | None) -> None:
        self.answer, self.asked = answer, 0

    def similar(self, kind: JobKind) -> SimilarHistory | None:
        self.asked += 1
        return self.answer


SUMS = ("count", "step_sum_s", "step_square_sum_s2", "sync_sum_s")
ONE_GPU = [ran("t4", 1, 1, m) for m in (32.0, 64.0, 128.0)]
SCALED = [*ONE_GPU, *(ran("t4", 1, k, m) for k in (2, 4) for m in (32.0, 64.0, 128.0))]


def test_a_job_of_which_nothing_is_known_scales_linearly_on_every_type_and_says_so() -> None:
    model = ask(Estimator(shipped=False), None)
    assert not model.known
    assert {t.source for t in model.types.values()} == {"prior"}
    assert "nothing measured" in model.types["a100"].sentence
    matrix = goodput_matrix([model], [Shape("a100", 1, 1), Shape("a100", 1, 4), Shape("t4", 1, 4)])
    assert matrix.goodput[0, 1] == pytest.approx(4 * matrix.goodput[0, 0], rel=1e-6)
    assert matrix.goodput[0, 2] == matrix.goodput[0, 1]


def test_asking_again_with_the_same_version_returns_the_very_same_object_without_a_refit() -> None:
    estimator = Estimator()
    first = ask(estimator, history(*SCALED))
    fits = estimator.refits
    assert ask(estimator, history(*SCALED)) is first
    assert estimator.refits == fits


def test_a_report_from_one_type_refits_that_type_only() -> None:
    estimator = Estimator(shipped=False)
    before = ask(estimator, history(*SCALED, ran("a100", 1, 1, 64.0)))
    fits = estimator.refits
    after = ask(estimator, history(*SCALED, ran("a100", 1, 1, 64.0), ran("a100", 1, 1, 128.0), version=2))
    assert estimator.refits == fits + 1
    assert after.version == before.version + 1
    assert after.types["t4"] == before.types["t4"]


def test_a_report_that_tells_nothing_new_costs_no_refit_and_one_that_does_costs_one() -> None:
    estimator = Estimator(shipped=False)
    young = [replace(o, **{f: getattr(o, f) * 0.2 for f in SUMS}) for o in SCALED]
    ask(estimator, history(*young))
    fits = estimator.refits
    more = [replace(o, **{f: getattr(o, f) * 1.1 for f in SUMS}) for o in young]
    ask(estimator, history(*more, version=2))
    assert estimator.refits == fits
    many = [replace(o, **{f: getattr(o, f) * 2.0 for f in SUMS}) for o in young]
    ask(estimator, history(*many, version=3))
    assert estimator.refits == fits + 1
    slower = [replace(many[0], step_sum_s=1.05 * many[0].step_sum_s), *many[1:]]
    ask(estimator, history(*slower, version=4))
    assert estimator.refits == fits + 2


def test_a_new_version_that_changes_nothing_keeps_the_model() -> None:
    estimator = Estimator()
    first = ask(estimator, history(*SCALED))
    assert ask(estimator, history(*SCALED, version=2)) is first


def test_own_measurements_are_predicted_closely() -> None:
    model = ask(Estimator(), history(*SCALED))
    assert model.types["t4"].source == "fit"
    assert model.max_gpus_seen == 4
    seconds = float(model_step_time(model.types["t4"], 1, 4, 64.0))
    assert seconds == pytest.approx(float(step_time(T4, 1, 4, 64.0)), rel=0.03)


def test_one_gpu_on_a_new_type_and_several_on_another_give_the_ratio_estimate_with_a_sentence() -> None:
    model = ask(Estimator(), history(*SCALED, *(ran("a100", 1, 1, m) for m in (32.0, 64.0, 128.0))))
    a100 = model.types["a100"]
    assert a100.source == "ratio:t4"
    assert a100.rel_error > model.types["t4"].rel_error
    assert "estimated from t4 by the 1-GPU ratio 2.9" in a100.sentence
    scaled = float(step_time(A100, 1, 1, 64.0)) / float(step_time(T4, 1, 1, 64.0)) * float(step_time(T4, 1, 4, 64.0))
    assert float(model_step_time(a100, 1, 4, 64.0)) == pytest.approx(scaled, rel=0.1)


def test_the_estimate_for_a_new_type_uses_that_types_memory_not_the_old_ones() -> None:
    declared = replace(ADAPTIVE, local_max=None)
    memory = (MemoryPoint("t4", 32.0, 6e9), MemoryPoint("t4", 64.0, 10e9))
    model = ask(Estimator(shipped=False), history(*SCALED, ran("a100", 1, 1, 64.0), memory=memory), declared)
    # 2 GB + 125 MB a sample; 95 % of 40 GB
    assert model.types["a100"].local_max == 288
    # it ran at 128 on the t4, so that fits whatever the line says
    assert model.types["t4"].local_max == 128
    assert best_batch(model, Shape("a100", 1, 8)).local_batch == 288


def test_a_micro_batch_beyond_memory_leaves_the_matrix_before_anything_restarts() -> None:
    declared = replace(ADAPTIVE, level=Level.RESTARTABLE, local_max=None, batch_min=512, local_min=300)
    memory = (MemoryPoint("t4", 8.0, 3e9), MemoryPoint("t4", 16.0, 4e9))
    model = ask(Estimator(shipped=False), history(ran("t4", 1, 1, 16.0), memory=memory), declared)
    matrix = goodput_matrix([model], [Shape("t4", 1, 4), Shape("a100", 1, 1)])
    assert matrix.goodput[0, 0] == 0.0


ALIKE = SimilarHistory(
    "user+script", 3, tuple(ran(t, 1, k, m) for t in TRUTH for k in (1, 2, 4, 8) for m in (32.0, 64.0))
)


def slower(factor: float, *observations: Observation) -> tuple[Observation, ...]:
    return tuple(
        replace(
            o,
            step_sum_s=o.step_sum_s * factor,
            step_square_sum_s2=o.step_square_sum_s2 * factor**2,
            sync_sum_s=o.sync_sum_s * factor,
        )
        for o in observations
    )


def test_a_type_never_tried_is_what_similar_jobs_measured_there() -> None:
    model = ask(Estimator(shipped=False), history(*SCALED), similar=Past(ALIKE)).types["a100"]
    assert model.source == "similar:user+script"
    assert "measured up to 8 GPUs on past jobs with the same user and script" in model.sentence
    for gpus in (1, 8):
        expected = pytest.approx(float(step_time(A100, 1, gpus, 64.0)), rel=0.05)
        assert float(model_step_time(model, 1, gpus, 64.0)) == expected


def test_a_job_slower_than_similar_ones_on_one_type_is_slower_on_a_type_never_tried() -> None:
    model = ask(Estimator(shipped=False), history(*slower(1.5, *SCALED)), similar=Past(ALIKE)).types["a100"]
    ratio = float(model_step_time(model, 1, 4, 64.0)) / float(step_time(A100, 1, 4, 64.0))
    assert ratio == pytest.approx(1.5, rel=0.1)
    assert f"this one {1 / ratio:.2f} times as fast" in model.sentence


def test_sizes_that_only_similar_jobs_have_run_at_are_theirs_at_the_level_of_this_job() -> None:
    model = ask(Estimator(shipped=False), history(*slower(1.2, *ONE_GPU)), similar=Past(ALIKE)).types["t4"]
    assert model.source == "similar:user+script"
    assert model.max_gpus_seen == 1
    expected = pytest.approx(1.2 * float(step_time(T4, 1, 8, 64.0)), rel=0.05)
    assert float(model_step_time(model, 1, 8, 64.0)) == expected


def test_a_job_thrice_as_slow_as_those_of_its_script_is_not_taken_to_be_like_them() -> None:
    model = ask(Estimator(shipped=False), history(*slower(3.0, *SCALED)), similar=Past(ALIKE)).types["t4"]
    assert model.source == "fit"
    assert float(model_step_time(model, 1, 4, 64.0)) == pytest.approx(3 * float(step_time(T4, 1, 4, 64.0)), rel=0.05)


def test_jobs_that_report_samples_only_are_compared_by_samples() -> None:
    """Their steps have no batch: 32 samples a step or 16 and twice the steps are the same speed."""
    own = tuple(
        replace(o, local_batch=o.local_batch / 2, count=2 * o.count, step_square_sum_s2=o.step_square_sum_s2 / 2)
        for o in ONE_GPU
    )
    known = history(*own, throughput_only=True)
    model = ask(Estimator(shipped=False), known, similar=Past(ALIKE)).types["a100"]
    level = re.search(r"this one ([0-9.]+) times as fast", model.sentence)
    assert level is not None
    assert float(level.group(1)) == pytest.approx(1.0, rel=0.2)


def test_a_new_job_starts_from_the_fit_of_similar_jobs() -> None:
    past = SimilarHistory("script", 3, tuple(ran("a100", 1, k, m) for k in (1, 2, 4) for m in (32.0, 64.0)))
    model = ask(Estimator(shipped=False), None, similar=Past(past))
    assert model.known
    assert model.similar_gpus == 4
    assert model.types["a100"].source == "similar:script"
    assert float(model_step_time(model.types["a100"], 1, 2, 64.0)) == pytest.approx(
        float(step_time(A100, 1, 2, 64.0)), rel=0.05
    )


def test_cluster_wide_ratios_serve_when_nothing_closer_is_known() -> None:
    past = SimilarHistory("cluster", 90, (), type_ratios=(("a100", "t4", 2.5, 0.1),))
    model = ask(Estimator(shipped=False), history(*SCALED), similar=Past(past))
    assert model.types["a100"].source == "similar:cluster"
    assert model.types["a100"].scale == pytest.approx(2.5)
    assert "on the whole cluster" in model.types["a100"].sentence


def test_shipped_ratios_come_last_and_can_be_switched_off() -> None:
    assert ask(Estimator(shipped=True), history(*SCALED)).types["a100"].source.startswith("shipped:")
    assert ask(Estimator(shipped=False), history(*SCALED)).types["a100"].source == "ratio:t4"


def test_one_more_batch_among_many_of_similar_jobs_costs_no_refit_and_a_new_shape_does() -> None:
    estimator = Estimator(shipped=False)
    many = [ran("t4", 1, k, m) for k in (1, 2, 4) for m in (16.0, 32.0, 48.0, 64.0, 96.0, 128.0)]
    past = Past(SimilarHistory("user+script", 3, tuple(many)))
    before = ask(estimator, None, similar=past)
    assert estimator.refits == 1
    past.answer = SimilarHistory("user+script", 4, (*many, ran("t4", 1, 4, 80.0)))
    after = ask(estimator, None, similar=past, now_s=601.0)
    assert estimator.refits == 1
    assert after.types == before.types
    past.answer = SimilarHistory("user+script", 5, (*many, ran("t4", 2, 8, 64.0)))
    ask(estimator, None, similar=past, now_s=1202.0)
    assert estimator.refits == 2


def test_similar_jobs_are_looked_up_once_in_ten_minutes() -> None:
    estimator, past = Estimator(), Past(None)
    for now_s in (0.0, 60.0, 599.0, 601.0):
        ask(estimator, None, similar=past, now_s=now_s)
    assert past.asked == 2


def test_a_restarted_estimator_starts_from_the_saved_fits() -> None:
    estimator = Estimator()
    model = ask(estimator, history(*SCALED))
    again = ask(Estimator.from_json(estimator.to_json()), history(*SCALED))
    for gpus in (1, 2, 4):
        assert float(model_step_time(again.types["t4"], 1, gpus, 64.0)) == pytest.approx(
            float(model_step_time(model.types["t4"], 1, gpus, 64.0)), rel=0.02
        )


@pytest.mark.parametrize("text", ["", "{", "[]", '{"v":1}', '{"v":1,"jobs":{"7":{"t4":[1,2]}}}', '{"v":9}'])
def test_unreadable_saved_fits_cost_a_cold_fit_and_nothing_else(text: str) -> None:
    assert ask(Estimator.from_json(text), history(*SCALED)).types["t4"].source == "fit"


def test_forgotten_jobs_are_fitted_anew() -> None:
    estimator = Estimator()
    first = ask(estimator, history(*SCALED))
    estimator.forget(["8"])
    assert ask(estimator, history(*SCALED)) is not first


def test_a_job_known_by_its_log_alone_is_modelled_by_samples_per_second_at_a_fixed_batch() -> None:
    # 100 samples/s on one GPU, 180 on two, whatever the batch
    logged = [
        Observation("t4", 1, gpus, 1.0, 0, rate * 60.0 / gpus, 60.0, 60.0**2 / (rate * 60.0 / gpus))
        for gpus, rate in ((1, 100.0), (2, 180.0))
    ]
    model = ask(Estimator(shipped=False), history(*logged, throughput_only=True), replace(ADAPTIVE, batch_min=None))
    assert not model.batch.adaptive
    matrix = goodput_matrix([model], [Shape("t4", 1, 1), Shape("t4", 1, 2), Shape("t4", 1, 4)])
    assert matrix.goodput[0, 0] == pytest.approx(100.0, rel=0.05)
    assert matrix.goodput[0, 1] == pytest.approx(180.0, rel=0.05)
    assert 180.0 < matrix.goodput[0, 2] < 400.0


def test_gradient_memory_restart_and_progress_reach_the_model() -> None:
    known = history(
        *SCALED,
        gradient=Gradient(0.0, 0.25, 0.75, 1.0),
        restarts=(RestartSample(4.0, 30.0, 6.0, 5.0),) * 8,
        progress=Progress(0.0, 1000.0, 5000.0),
    )
    model = ask(Estimator(), known)
    assert model.efficiency.square == pytest.approx(0.25)
    assert model.restart.source == "measured"
    assert model.restart.mean_s == pytest.approx(45.0, rel=0.1)
    assert (model.work_done, model.work_remaining, model.remaining_source) == (1000.0, 4000.0, "reported")
    declared = ask(Estimator(), known, replace(ADAPTIVE, target_samples=2000.0))
    assert (declared.work_remaining, declared.remaining_source) == (1000.0, "declared")


def test_replicas_of_several_gpus_are_modelled_as_pipelines() -> None:
    declared = Declaration(2, 32, Level.RESTARTABLE, unit_gpus=(("a100", 2), ("t4", 8)))
    step, count = 3.0 * (2 - 1 + 48) * 0.1, 50.0
    seen = [Observation("a100", 1, k, 1.0, 47, count, count * step, count * step**2) for k in (2, 4)]
    model = ask(Estimator(), history(*seen), declared)
    params = model.types["a100"].params
    assert isinstance(params, PipelineParams)
    assert (params.stages, params.microbatches) == (2, 48)
    assert params.forward_s == pytest.approx(0.1, rel=0.01)
    assert model.types["t4"].source == "ratio:a100"
    matrix = goodput_matrix([model], [Shape("a100", 1, 1), Shape("a100", 1, 2), Shape("t4", 2, 8), Shape("t4", 3, 12)])
    assert (matrix.goodput[0] > 0).tolist() == [False, True, True, False]
    assert matrix.throughput[0, 1] == pytest.approx(48 / step, rel=0.01)


def test_progress_alone_leaves_the_goodput_rows_as_they_are() -> None:
    estimator, table, shapes = Estimator(), GoodputTable(), [Shape("t4", 1, 1), Shape("a100", 1, 2)]
    before = ask(estimator, history(*SCALED, progress=Progress(0.0, 10.0, 100.0)))
    first = table.refresh([before], shapes)
    after = ask(estimator, history(*SCALED, progress=Progress(9.0, 20.0, 100.0), version=2))
    assert after.work_remaining != before.work_remaining
    assert table.holds(after)
    assert table.refresh([after], shapes).goodput.tolist() == first.goodput.tolist()
    assert not table.holds(ask(estimator, history(*SCALED, gradient=Gradient(0.0, 1.0, 1.0, 1.0), version=3)))


def test_sizes_beyond_those_run_are_less_certain_with_every_doubling() -> None:
    model = ask(Estimator(), history(*SCALED))
    errors = goodput_matrix([model], [Shape("t4", 1, k) for k in (2, 4, 8, 16)]).rel_error[0]
    assert errors[0] == errors[1] < errors[2] < errors[3]


def test_speed_on_one_gpu_is_known_only_where_the_job_was_measured() -> None:
    model = ask(Estimator(), history(*SCALED))
    assert one_gpu_throughput(model, "t4") == pytest.approx(128 / float(step_time(T4, 1, 1, 128.0)), rel=0.03)
    assert one_gpu_throughput(model, "a100") is None
    assert one_gpu_throughput(model, "h100") is None


def test_types_the_user_did_not_allow_have_no_model() -> None:
    assert set(ask(Estimator(), history(*SCALED), replace(ADAPTIVE, types=("t4",))).types) == {"t4"}


def test_nonsense_in_a_history_never_stops_a_round() -> None:
    bad = [
        Observation("t4", 1, 1, float("nan"), 0, 1.0, 1.0, 1.0),
        Observation("t4", 3, 1, 1.0, 0, 1.0, 1.0, 1.0),
        Observation("t4", 1, 1, 8.0, 0, float("inf"), 1.0, 1.0),
    ]
    known = history(
        *bad,
        gradient=Gradient(0.0, float("nan"), -1.0, 0.0),
        memory=(MemoryPoint("t4", 0.0, -1.0, float("nan")),),
        restarts=(RestartSample(float("nan"), -5.0, 1e12, None),),
        progress=Progress(0.0, float("inf"), float("nan")),
    )
    model = ask(Estimator(shipped=False), known)
    assert {t.source for t in model.types.values()} == {"prior"}
    assert model.restart.source == "prior"
    assert model.work_remaining is None


def test_years_of_new_scripts_do_not_fill_memory_and_the_kinds_of_live_jobs_are_kept() -> None:
    class Asked:
        def __init__(self) -> None:
            self.kinds: list[JobKind] = []

        def similar(self, kind: JobKind) -> SimilarHistory:
            self.kinds.append(kind)
            return ALIKE

    estimator, source = Estimator(shipped=False), Asked()

    def submit(job_id: str, script: str) -> None:
        estimator.model(job_id, None, ADAPTIVE, JobKind(1000, script, "train"), TYPES, source, 0.0)

    submit("live", "long")
    for number in range(KINDS_KEPT + 10):
        submit("gone", f"script-{number}")
    estimator.forget(["live"])
    for script in ("long", "script-0", f"script-{KINDS_KEPT + 9}"):
        submit("later", script)
    assert [kind.script_hash for kind in source.kinds[KINDS_KEPT + 11 :]] == ["script-0"]
