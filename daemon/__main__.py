"""Entry point of ``slurmsia-daemon``: options, signals, start-up, and one sentence when it cannot start."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from pathlib import Path

import click

from slurmsia import __version__
from slurmsia.config.loader import DEFAULT_FILE

EXIT_CANNOT_START = 1


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slurmsia-daemon")
@click.option("--config", "config_file", type=click.Path(path_type=Path), default=DEFAULT_FILE, show_default=True)
@click.option("--mode", type=click.Choice(["observe", "enforce"]), help="Override daemon.mode of the policy file.")
@click.option("--demo", is_flag=True, help="Run on an embedded, emulated cluster with a bundled workload, then end.")
@click.option("--demo-speed", default=60.0, show_default=True, help="Emulated seconds per second in the demo.")
def cli(config_file: Path, mode: str | None, demo: bool, demo_speed: float) -> None:
    """Steer the jobs of a Slurm cluster towards the most goodput.

    \b
    Example:
      slurmsia-daemon --config /etc/slurmsia/slurmsia.toml
      slurmsia-daemon --demo
    """
    if demo:
        from .demo import run_demo

        sys.exit(run_demo(speed=demo_speed))
    sys.exit(serve(config_file, mode))


def serve(config_file: Path, mode: str | None) -> int:
    """Run the daemon until SIGTERM or SIGINT; returns the exit code."""
    from slurmsia.config import Config
    from slurmsia.slurm.client import SlurmError

    from . import log, wiring
    from .api_bridge import ApiBridge
    from .control import Wishes
    from .leader import Leadership
    from .loop import Loop
    from .upkeep import keep_heap_whole

    keep_heap_whole()

    def read() -> Config:
        from slurmsia.config.loader import load

        config = load(config_file)
        if mode is not None:
            config = config.model_copy(update={"daemon": config.daemon.model_copy(update={"mode": mode})})
        return config

    try:
        wiring.read_config(config_file)
        config = read()
        log.set_up(config.daemon.log_format, config.daemon.log_level)
        client = wiring.make_client(config)
        store = wiring.make_store(config, wiring.cluster_name(client, config))
    except (wiring.StartError, SlurmError) as error:
        click.echo(f"slurmsia-daemon cannot start: {error}", err=True)
        return EXIT_CANNOT_START
    cycle = wiring.make_cycle(config, client, store)
    bridge = ApiBridge(config, config_file, cycle.parts.metrics)
    loop = Loop(
        cycle,
        Leadership(config.daemon.state_dir),
        bridge,
        Wishes(),
        reload=read,
        apply=lambda new: wiring.apply_config(cycle, new),
    )
    signal.signal(signal.SIGTERM, lambda *_: loop.stop())
    signal.signal(signal.SIGINT, lambda *_: loop.stop())
    signal.signal(signal.SIGHUP, lambda *_: loop.reload())
    logging.getLogger("slurmsia.daemon").info("slurmsia %s starts in %s mode", __version__, config.daemon.mode)
    bridge.start()
    gc.freeze()  # what was imported stays: full collections need not look at it
    try:
        loop.run()
    finally:
        bridge.close()
        store.close()
    return 0


def main() -> None:
    """Console-script entry point."""
    cli(prog_name="slurmsia-daemon")


if __name__ == "__main__":
    main()
