"""``python -m slurmsia_cli``: the same as the ``slurmsia`` command."""

from .main import main

if __name__ == "__main__":
    main()
