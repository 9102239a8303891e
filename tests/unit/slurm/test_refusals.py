"""What Slurm's commands say when they refuse, in the words of the releases, and the named errors they become."""

from __future__ import annotations

import pytest

from slurmsia.cluster import Job, JobState
from slurmsia.slurm import scontrol
from slurmsia.slurm.client import NoSuchJob, NotPending, SlurmRejected
from slurmsia.slurm.command import CommandClient


@pytest.mark.parametrize(
    ("said", "kind", "retryable"),
    [
        ("slurm_update error: Invalid job id specified", NoSuchJob, False),
        ("Invalid job id specified for job 999999\nslurm_update error: Invalid job id specified", NoSuchJob, False),
        ("slurm_update error: Job is no longer pending execution", NotPending, False),
        ("Job is pending execution for job 17\nslurm_requeue error: Job is pending execution", SlurmRejected, False),
        ("slurm_update error: DB index is being set, try again in a few seconds", SlurmRejected, True),
        ("slurm_update error: Resource temporarily unavailable", SlurmRejected, True),
        ("Job/step already completing or completed for job 17", NotPending, True),
        ("slurm_update error: Access/permission denied", SlurmRejected, False),
        ("slurm_update error: Invalid generic resource (gres) specification", SlurmRejected, False),
        ("Requested operation is presently disabled for job 17", SlurmRejected, False),
        ("slurm_update error: Requested node configuration is not available", SlurmRejected, False),
        ("slurm_update error: Invalid feature specification", SlurmRejected, False),
        ("slurm_update error: Invalid partition name specified", SlurmRejected, False),
        ("slurm_update error: Invalid node name specified", SlurmRejected, False),
        ("something nobody has heard of", SlurmRejected, False),
    ],
)
def test_every_refusal_is_named_and_says_whether_to_ask_again(
    said: str, kind: type[SlurmRejected], retryable: bool
) -> None:
    refused = scontrol.refusal("17", said)
    assert type(refused) is kind
    assert refused.retryable is retryable
    assert refused.job_id == "17"
    assert said.splitlines()[-1] in str(refused)


@pytest.mark.parametrize(("end_state", "put_back"), [("CANCELLED", False), ("FAILED", True), ("", True)])
def test_a_job_that_its_user_cancelled_since_the_last_read_is_not_put_back(
    monkeypatch: pytest.MonkeyPatch, end_state: str, put_back: bool
) -> None:
    client = CommandClient.__new__(CommandClient)
    written: list[str] = []
    monkeypatch.setattr(client, "_single", lambda _: None)
    monkeypatch.setattr(client, "_one", lambda job_id, _: Job(job_id, 1000, JobState.ENDED, 0.0, end_state=end_state))
    monkeypatch.setattr(client, "_write", lambda job_id, *_, deadline_s: written.append(job_id))
    if put_back:
        client.requeue("17")
    else:
        with pytest.raises(NoSuchJob, match="cancelled"):
            client.requeue("17")
    assert written == (["17"] if put_back else [])


def test_a_job_whose_run_is_ending_is_not_put_back_before_slurm_says_how_it_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = CommandClient.__new__(CommandClient)
    monkeypatch.setattr(client, "_single", lambda _: None)
    ending = Job("17", 1000, JobState.RUNNING, 0.0, completing=True)
    monkeypatch.setattr(client, "_one", lambda *_: ending)
    with pytest.raises(SlurmRejected, match="is ending") as refusal:
        client.requeue("17")
    assert refusal.value.retryable
