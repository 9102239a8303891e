"""What the loop publishes reaches whoever asks the API's own process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from slurmsia_daemon.api_bridge import ApiBridge
from slurmsia_daemon.metrics import Metrics
from slurmsia_daemon.published import Published

from slurmsia.config import Config


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def bridge(tmp_path: Path, metrics: Metrics) -> Iterator[ApiBridge]:
    """A bridge with its API process on a socket in ``tmp_path``."""
    config, file = tmp_path / "slurmsia.toml", f"sqlite:///{tmp_path / 's.db'}"
    config.write_text(f'[api]\nsocket = "{tmp_path / "api"}"\n[store]\nurl = "{file}"\n')
    made = ApiBridge(
        Config.model_validate({"api": {"socket": str(tmp_path / "api")}, "store": {"url": file}}), config, metrics
    )
    made.start()
    yield made
    made.close()


def _scraped(folder: Path, wanted: str) -> str:
    """The metrics, once they contain ``wanted`` (or as they are after 30 s)."""
    end, text = time.monotonic() + 30.0, ""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(folder / "api")), base_url="http://slurmsia") as client:
        while wanted not in text and time.monotonic() < end:
            if os.path.exists(folder / "api"):
                text = client.get("/v1/metrics").text
            time.sleep(0.1)
    return text


def test_prometheus_sees_the_metrics_as_they_were_at_the_last_published_state(
    bridge: ApiBridge, metrics: Metrics, tmp_path: Path
) -> None:
    metrics.set_mode("observe")
    bridge.publish(Published("observe", "nothing yet"))
    assert 'slurmsia_mode{mode="observe"} 1.0' in _scraped(tmp_path, 'mode="observe"} 1.0')
    metrics.set_mode("enforce")
    bridge.publish(Published("enforce", "now it does"))
    text = _scraped(tmp_path, 'mode="enforce"} 1.0')
    assert 'slurmsia_mode{mode="enforce"} 1.0' in text
    assert 'slurmsia_mode{mode="observe"} 0.0' in text
