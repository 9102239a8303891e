"""What Slurm's commands say when they refuse, in the words of the releases, and the named errors they become."""

from __future__ import annotations

import pytest

from slurmsia.slurm import scontrol
from slurmsia.slurm.client import NoSuchJob, NotPending, SlurmRejected


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
