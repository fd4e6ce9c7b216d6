"""Joining a Ray that runs, or starting one on this machine, with Ray's many kinds of errors made one."""

from __future__ import annotations

import logging
import math
import signal
import socket
import threading
from typing import Any

import ray

from prep.devices import cpu_cores
from prep.errors import PrepError
from prep.stage import Resources


def connect(resources: Resources, workers: int, address: str | None) -> bool:
    """Join the Ray at ``address``, or start one on this machine; whether that was done here."""
    started = not ray.is_initialized()
    if started and address is not None:
        _reach(address)
        _initialise(address)
    elif started:
        # Workers may share cores: so many of them are what --workers asked for.
        cpus = max(cpu_cores(), math.ceil(workers * resources.cpus))
        try:
            _initialise("local", num_cpus=cpus, include_dashboard=False)
        except PrepError:
            # Ray gives its own processes 30 s to come up, which a busy machine may exceed once.
            ray.shutdown()
            _initialise("local", num_cpus=cpus, include_dashboard=False)
    gpus = ray.cluster_resources().get("GPU", 0.0)
    if address is None and gpus < resources.gpus:  # a cluster may grow, this machine does not
        if started:
            ray.shutdown()
        raise PrepError(
            f"A worker of this stage needs {resources.gpus:g} GPU; Ray sees {gpus:g} on this machine.",
            "Give --gpus 0 to run on the CPU, or --ray-address to use a cluster that has GPUs.",
        )
    return started


def _initialise(address: str, **options: Any) -> None:
    """``ray.init``, quietly, with its many kinds of errors made one and our SIGTERM handler kept."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
    except Exception as error:
        raise unusable(address, str(error).strip() or type(error).__name__) from error
    finally:
        # Ray takes SIGTERM over, to exit at once; whoever runs us has said what is to happen then.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _reach(address: str) -> None:
    """Knock at ``host:port`` first: Ray itself waits for minutes for a cluster that is not there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise unusable(address, error.strerror or str(error)) from error


def unusable(address: str | None, reason: str) -> PrepError:
    """The error for a Ray that is not there or has gone."""
    where = "on this machine" if address in (None, "local") else f"at {address}"
    return PrepError(
        f"Ray {where} cannot be used: {reason}",
        "Start it with `ray start --head`, check --ray-address, or leave that out to use this machine.",
    )
