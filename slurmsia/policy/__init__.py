"""Scheduling policies: each turns the jobs of a round into values for the solver, or into a total order.

`registry.policy` finds one by name, `base` has the protocol. Policies never place, solve or touch Slurm.
"""
