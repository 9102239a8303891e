"""All state of a training run as one checkpoint, restored on any world size. Collective: every rank calls it.

Plain and DDP models keep full state on every rank; FSDP2 models are gathered through torch's own distributed state
dict. Only rank 0 writes. Optimisers whose state depends on the world size (ZeRO, sharded 8-bit) are not covered.
"""

from __future__ import annotations

import os
import pickle
import random
import time
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.distributed as dist

from ..checkpoint_file import path_of, prune, whole_ones, write_whole


def world() -> Tuple[int, int]:
    """(rank, world size); (0, 1) outside of a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def bare(model: Any) -> Any:
    """The user's module inside DDP and torch.compile."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, torch.nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def is_sharded(model: Any) -> bool:
    """Whether the model is FSDP2's: its parameters are DTensors."""
    return any(type(parameter).__name__ == "DTensor" for parameter in model.parameters())


def collect(model: Any, optimizer: Any) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """(model state, optimiser state), full on rank 0."""
    inner = bare(model)
    if not is_sharded(inner):
        return inner.state_dict(), optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: Tuple[Dict[str, Any], Dict[str, Any]] = get_state_dict(inner, optimizer, options=options)
    return found


def apply(model: Any, optimizer: Any, model_state: Dict[str, Any], optimizer_state: Dict[str, Any]) -> None:
    """Reverses `collect`, on another world size too."""
    inner = bare(model)
    if not is_sharded(inner):
        inner.load_state_dict(model_state)
        optimizer.load_state_dict(optimizer_state)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=False)
    set_state_dict(inner, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state, options=options)


def random_states() -> List[Dict[str, Any]]:
    """The generators of every rank, in order of rank."""
    mine: Dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        mine["cuda"] = torch.cuda.get_rng_state()
    try:
        import numpy

        mine["numpy"] = numpy.random.get_state()
    except ImportError:
        pass
    _, size = world()
    if size == 1:
        return [mine]
    every: List[Any] = [None] * size
    dist.all_gather_object(every, mine)
    return every


def restore_random(states: List[Dict[str, Any]], seed: int) -> None:
    """The same generators on the same world size; else fresh ones that follow from seed and rank."""
    rank, size = world()
    if len(states) != size:
        torch.manual_seed(seed + rank)
        random.seed(seed + rank)
        return
    mine = states[rank]
    torch.set_rng_state(mine["torch"])
    random.setstate(mine["python"])
    if "cuda" in mine and torch.cuda.is_available():
        torch.cuda.set_rng_state(mine["cuda"])
    if "numpy" in mine:
        import numpy

        numpy.random.set_state(mine["numpy"])


def save(folder: str, step: int, state: Dict[str, Any], keep: int) -> float:
    """Writes the checkpoint on rank 0, waits for it on all; seconds that it took. Raises OSError on every rank."""
    begun = time.perf_counter()
    rank, size = world()
    failure: List[Optional[str]] = [None]
    if rank == 0:
        try:
            os.makedirs(folder, exist_ok=True)
            write_whole(path_of(folder, step), lambda file: torch.save(state, file))
            prune(folder, keep)
        except OSError as error:
            failure = [f"the checkpoint after step {step} cannot be written: {error}"]
    if size > 1:
        dist.broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        raise OSError(failure[0])
    return time.perf_counter() - begun


def load(folder: str) -> Optional[Dict[str, Any]]:
    """The newest checkpoint that can be read, on the CPU; None when there is none.

    All ranks read the one that rank 0 names. Checkpoints hold tensors and Python's own generator state, written by
    the same user, and are therefore unpickled.
    """
    rank, size = world()
    chosen: List[Optional[str]] = [None]
    found: Optional[Dict[str, Any]] = None
    if rank == 0:
        for _, path in whole_ones(folder):
            try:
                found = torch.load(path, map_location="cpu", weights_only=False)
            except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
                continue
            chosen = [path]
            break
    if size > 1:
        dist.broadcast_object_list(chosen, src=0)
        if rank != 0 and chosen[0] is not None:
            found = torch.load(chosen[0], map_location="cpu", weights_only=False)
    return found


def share(number: int) -> int:
    """Rank 0's number on every rank, for `Reporter.stop_now`."""
    _, size = world()
    if size == 1:
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    told = torch.tensor([number], dtype=torch.int64, device=device)
    dist.broadcast(told, src=0)
    return int(told[0])
