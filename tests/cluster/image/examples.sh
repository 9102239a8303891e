#!/bin/bash
# Optional layer: what the Hugging Face and MPI examples import, where the package index has it. MPICH comes as a wheel
# and starts under srun --mpi=pmi2. What is missing is said, and tests of that example are skipped.
set -euo pipefail
for packages in "mpich mpi4py" "transformers accelerate"; do
    # shellcheck disable=SC2086
    /opt/slurmsia/venv/bin/pip install -q $packages || echo "no $packages for this Python: the image goes without"
done
