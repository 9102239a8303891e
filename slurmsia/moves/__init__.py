"""Moves: from a plan to calls. The table is pure; `act` carries it out, one safe state machine per job."""
