"""The thin callbacks against the real Hugging Face Trainer and the real Lightning, on CPU."""

# ruff: noqa: E402
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from slurmsia.job import Directive, Reporter


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RANK", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "reports").mkdir()
    return tmp_path


def asked_at(reporter: Reporter, step: int) -> None:
    """The reporter hears the daemon's wish after so many steps, and nothing afterwards."""
    counted = reporter.step
    calls: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> None:
        counted(*args, **kwargs)
        calls.append(1)
        if len(calls) == step:
            reporter._directives = None
            reporter._directive = Directive(seq=1, action="checkpoint")

    reporter.step = counting  # type: ignore[method-assign]


def lines(spool: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (spool / "reports" / f"7.0.{os.getuid()}.jsonl").read_text().splitlines()]


class Rows(torch.utils.data.Dataset):  # type: ignore[misc, type-arg, unused-ignore]
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        x = torch.full((4,), float(index) / 64)
        return {"x": x, "labels": x.sum()}


def test_hugging_face_saves_when_asked_and_resumes(spool: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from slurmsia.job.huggingface import SlurmsiaCallback, accumulation_for

    class Model(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 1)

        def forward(self, x: Any, labels: Any) -> dict[str, Any]:
            return {"loss": torch.nn.functional.mse_loss(self.linear(x).squeeze(-1), labels)}

    reporter = Reporter(rank=0, gpus=1, spool=str(spool), signal=None, period_s=0.05, look_s=0.05)
    asked_at(reporter, 3)
    arguments = transformers.TrainingArguments(
        output_dir=str(spool / "out"),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulation_for(8, 4, 1),
        max_steps=5,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    callback = SlurmsiaCallback(reporter, limit_s=0.1)
    trainer = transformers.Trainer(Model(), arguments, train_dataset=Rows(), callbacks=[callback])
    trainer.train()
    saved = [line for line in lines(spool) if line["ev"] == "checkpointed"]
    assert [line["progress"]["samples"] for line in saved] == [24.0]
    assert (spool / "out" / "checkpoint-3").is_dir()
    again = transformers.Trainer(Model(), arguments, train_dataset=Rows())
    assert again.train(resume_from_checkpoint=str(spool / "out" / "checkpoint-3")).global_step == 5


def test_a_total_batch_that_does_not_divide_is_refused() -> None:
    pytest.importorskip("transformers")
    from slurmsia.job.huggingface import accumulation_for

    with pytest.raises(ValueError, match="no multiple"):
        accumulation_for(30, 4, 2)


def test_lightning_saves_when_asked_and_resumes(spool: Path) -> None:
    lightning = pytest.importorskip("lightning")
    from slurmsia.job.lightning import SlurmsiaCallback

    class Model(lightning.LightningModule):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            return torch.nn.functional.mse_loss(self.linear(batch["x"]).squeeze(-1), batch["labels"])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    loader = torch.utils.data.DataLoader(Rows(), 4)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options["default_root_dir"] = str(spool)
    reporter = Reporter(rank=0, gpus=1, spool=str(spool), signal=None, period_s=0.05, look_s=0.05)
    asked_at(reporter, 3)
    callback = SlurmsiaCallback(str(spool), 4, reporter, limit_s=0.1)
    lightning.Trainer(max_steps=5, callbacks=[callback], **options).fit(Model(), loader)
    saved = [line for line in lines(spool) if line["ev"] == "checkpointed"]
    assert [line["progress"]["samples"] for line in saved] == [12.0]
    again = SlurmsiaCallback(str(spool), 4, Reporter(rank=0, gpus=1, spool=str(spool), signal=None))
    assert again.newest() == str(spool / "checkpoint-3.pt")
    trainer = lightning.Trainer(max_steps=6, callbacks=[again], **options)
    trainer.fit(Model(), loader, ckpt_path=again.newest())
    assert trainer.global_step == 6
