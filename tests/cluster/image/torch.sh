#!/bin/bash
# Optional layer: PyTorch for the CPU, where the package index (or the host's own wheels) has such a build.
# Usage: torch.sh VERSION. Without one the layer stays empty, and tests that need PyTorch in a job say so.
set -euo pipefail
pip=(/opt/slurmsia/venv/bin/pip install -q)
if ! "${pip[@]}" "torch==$1+cpu"; then
    echo "no CPU build of PyTorch $1 for this Python: the image goes without"
fi
