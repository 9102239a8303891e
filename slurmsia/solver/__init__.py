"""The solver of a round: a multiple-choice knapsack with few rows, solved to a proven gap (Sia, section 3).

`solve` is what a round calls. Policies and placement are unknown here.
"""

from .program import CapacityRow, Program, SideRow, Solution, SolverLimits
from .staged import solve

__all__ = ["CapacityRow", "Program", "SideRow", "Solution", "SolverLimits", "solve"]
