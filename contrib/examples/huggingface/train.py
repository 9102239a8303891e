"""A tiny language model trained from scratch with Hugging Face's Trainer on generated sequences; CPU or GPU."""

from __future__ import annotations

import argparse
import os

import torch
import transformers

from slurmsia.job.huggingface import SlurmsiaCallback, accumulation_for


class Sequences(torch.utils.data.Dataset):
    """Counting sequences with a random start and stride."""

    def __len__(self) -> int:
        return 2048

    def __getitem__(self, index: int) -> dict:
        ids = (torch.arange(16) * (1 + index % 3) + index) % 32
        return {"input_ids": ids, "labels": ids}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="hf-checkpoints")
    parser.add_argument("--total-batch", type=int, default=32)
    parser.add_argument("--per-device", type=int, default=4)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--max-steps", type=int, default=-1)
    options = parser.parse_args()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    config = transformers.GPT2Config(vocab_size=32, n_positions=16, n_embd=32, n_layer=2, n_head=2)
    arguments = transformers.TrainingArguments(
        output_dir=options.output,
        per_device_train_batch_size=options.per_device,
        gradient_accumulation_steps=accumulation_for(options.total_batch, options.per_device, world),
        num_train_epochs=options.epochs,
        max_steps=options.max_steps,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = transformers.Trainer(
        model=transformers.GPT2LMHeadModel(config),
        args=arguments,
        train_dataset=Sequences(),
        callbacks=[SlurmsiaCallback()],
    )
    newest = transformers.trainer_utils.get_last_checkpoint(options.output) if os.path.isdir(options.output) else None
    trainer.train(resume_from_checkpoint=newest)
    trainer.save_state()


if __name__ == "__main__":
    main()
