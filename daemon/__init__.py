"""slurmsia-daemon: wires clients, store, models and policy into one loop. Import name ``slurmsia_daemon``."""
