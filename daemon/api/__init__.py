"""The HTTP API, in a process of its own: answers from the last published state and the store, never from Slurm."""
