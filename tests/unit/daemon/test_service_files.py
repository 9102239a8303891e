"""What is shipped beside the daemon names things that exist: metrics on the dashboard, folders, options."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

from slurmsia_daemon.metrics import Metrics

from slurmsia.config import Config

CONTRIB = Path(__file__).parents[3] / "contrib"


def test_every_metric_on_the_dashboard_exists() -> None:
    names = {metric.name for metric in Metrics().registry.collect()}
    text = json.dumps(json.loads((CONTRIB / "grafana" / "slurmsia.json").read_text()))
    used = {re.sub("_(total|bucket|sum|count)$", "", name) for name in re.findall(r"slurmsia_[a-z_]+", text)}
    assert used - names == set()
    assert len(used) > 15


def test_no_metric_is_labelled_by_job_or_user() -> None:
    labels = {name for metric in Metrics().__dict__.values() for name in getattr(metric, "_labelnames", ())}
    assert labels <= {"outcome", "phase", "kind", "gpu_type", "use", "verdict", "mode", "where"}


def test_the_unit_is_a_notify_service_that_reloads_by_sighup_and_is_watched() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string((CONTRIB / "slurmsia-daemon.service").read_text())
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert "-HUP" in service["ExecReload"]
    config = Config()
    longest_s = config.slurm.call_deadline_s + config.daemon.solve_watchdog_s + config.daemon.standby_s
    assert float(service["WatchdogSec"]) > 2 * longest_s
    assert float(service["TimeoutStopSec"]) > config.daemon.shutdown_s
    assert service["NoNewPrivileges"] == "yes"


def test_the_folders_of_the_default_policy_file_are_made_by_tmpfiles() -> None:
    lines = [line.split() for line in (CONTRIB / "slurmsia-daemon.tmpfiles.conf").read_text().splitlines()]
    made = {words[1]: words[2] for words in lines if words and words[0] == "d"}
    config = Config()
    assert made[f"{config.jobs.spool_dir}/reports"] == "1777"
    assert made[f"{config.jobs.spool_dir}/directives"] == "0755"
    assert config.daemon.state_dir in made
