"""Which job scripts are proven to checkpoint, move and resume: a user's own memory, and what a job says of itself.

``slurmsia rehearse`` writes a script's hash into the user's data folder; ``slurmsia env``, at the start of every job
script, looks its own script up and exports ``SLURMSIA_PROVEN``, which the start report carries to the daemon. A user
who forges it harms no job but his own. Standard library only, Python 3.8; never raises for what it cannot read.
"""

from __future__ import annotations

import json
import os
import time
from typing import Dict, Mapping, Optional

#: Time of the rehearsal, in epoch seconds, in the environment of a proven script.
VARIABLE = "SLURMSIA_PROVEN"
#: The name under which slurmd keeps a batch script on the node.
_BATCH_SCRIPT = "slurm_script"
_LARGEST_SCRIPT = 16 * 1024 * 1024


def memory_path(environ: Optional[Mapping[str, str]] = None) -> str:
    """Where the user's proven scripts are written down."""
    env = os.environ if environ is None else environ
    base = env.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, "slurmsia", "proven.json")


def proven_scripts(environ: Optional[Mapping[str, str]] = None) -> Dict[str, float]:
    """sha256 of a proven script -> when it was proven (epoch s); empty when nothing was."""
    try:
        with open(memory_path(environ), encoding="utf-8") as file:
            known = json.load(file)
        return {str(key): float(value) for key, value in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def remember(script: bytes) -> None:
    """Notes a script as proven now. Raises OSError where the memory cannot be written."""
    path = memory_path()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    known = proven_scripts()
    known[_name_of(script)] = time.time()
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(known, file)
    os.replace(path + ".new", path)


def _name_of(script: bytes) -> str:
    import hashlib  # brings megabytes along, which a training process does not need

    return hashlib.sha256(script).hexdigest()


def running_script(pid: int) -> Optional[bytes]:
    """The batch script that a process of slurmd's runs, or None for any other process."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(64 * 1024).split(b"\0")
        for word in words[1:3]:
            if os.path.basename(word) == _BATCH_SCRIPT.encode():
                with open(word, "rb") as script:
                    return script.read(_LARGEST_SCRIPT)
    except OSError:
        pass
    return None


def proven_since(pid: int) -> Optional[int]:
    """When the batch script of that process was proven (epoch s), or None."""
    known = proven_scripts()
    script = running_script(pid) if known else None
    when = known.get(_name_of(script)) if script else None
    return None if when is None else int(when)


def claimed(environ: Optional[Mapping[str, str]] = None) -> Dict[str, int]:
    """``{"proven": epoch s}`` for a start report of a proven script, else empty."""
    text = (os.environ if environ is None else environ).get(VARIABLE, "")
    return {"proven": int(text)} if text.isdigit() and len(text) < 12 else {}
