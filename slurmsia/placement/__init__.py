"""Configurations to nodes: keep what runs, best fit, minimal eviction, and a check that every result must pass.

Knows nodes, shapes and seats; knows no policy, no models and no Slurm calls.
"""

from __future__ import annotations

from .board import Board, Occupant, Seats, Wish
from .check import check
from .contention import Neighbourhood, Traffic, Uplinks, ratios
from .place import Conflict, Contention, Placement, find_seats, place, refuse

__all__ = [
    "Board",
    "Conflict",
    "Contention",
    "Neighbourhood",
    "Occupant",
    "Placement",
    "Seats",
    "Traffic",
    "Uplinks",
    "Wish",
    "check",
    "find_seats",
    "place",
    "ratios",
    "refuse",
]
