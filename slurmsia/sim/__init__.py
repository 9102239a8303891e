"""Trace-driven simulation: workloads, ground truth, runner, report, over production's own round and moves.

Every matrix here is tiny, and waking a second BLAS thread for each costs a simulation seconds; several simulations run
side by side as processes instead. A site's own ``OPENBLAS_NUM_THREADS`` is left alone.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
