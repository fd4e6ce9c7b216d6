"""Connects to a running Ray cluster or starts Ray on this machine, and unifies Ray's errors."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable

import ray
from ray._private import ray_constants

from prep.devices import cpu_cores
from prep.display import tell
from prep.errors import PrepError
from prep.stage import Resources


def connect(resources: Resources, workers: int, address: str | None) -> bool:
    """Connect to Ray at ``address``, or start it on this machine; returns whether this call did so."""
    started = not ray.is_initialized()
    if started and address is not None:
        tell(f"Connecting to Ray at {address}.")
        _reach(address)
        _initialise(address)
    elif started:
        tell("Starting Ray on this machine (a few seconds).")
        # Workers may share cores: allow the number of workers that --workers requested.
        cpus = max(cpu_cores(), math.ceil(workers * resources.cpus))
        try:
            _start(cpus)
        except PrepError:
            # Ray waits 30 s for its own processes to start, which may be too short on a busy machine.
            ray.shutdown()
            _start(cpus)
    gpus = ray.cluster_resources().get("GPU", 0.0)
    if address is None and gpus < resources.gpus:  # a cluster may scale up, this machine does not
        if started:
            ray.shutdown()
        raise PrepError(
            f"A worker of this stage needs {resources.gpus:g} GPU; Ray sees {gpus:g} on this machine.",
            "Use --gpus 0 to run on the CPU, or --ray-address to use a cluster that has GPUs.",
        )
    return started


class _DriversPath(list[str]):
    """The folders that Ray adds to its workers' path, but for those that this process does not import from.

    Ray adds the current folder, where a dataset may lie, before all others.
    """

    def extend(self, folders: Iterable[str]) -> None:
        super().extend(folder for folder in folders if folder in sys.path)


def _start(cpus: int) -> None:
    """Start Ray, listening on this machine alone: Ray takes an outer address if it may form a cluster."""
    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, may = os.environ.get(variable), ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[variable] = "0"  # for its own processes
    try:
        _initialise("local", num_cpus=cpus, include_dashboard=False, _node_ip_address="127.0.0.1")
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = may
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _initialise(address: str, **options: object) -> None:
    """Run ``ray.init`` quietly, unify its errors and keep our SIGTERM handler."""
    before = signal.getsignal(signal.SIGTERM)
    if not address.startswith("ray://"):  # there, the workers get no folder of this machine
        options["job_config"] = job = ray.job_config.JobConfig()
        job._py_driver_sys_path = _DriversPath()
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
    except Exception as error:
        raise unusable(address, str(error).strip() or type(error).__name__) from error
    finally:
        # Ray replaces the SIGTERM handler with one that exits at once; restore the previous one.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _reach(address: str) -> None:
    """Probe ``host:port`` first: Ray itself waits for minutes for a cluster that is not there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise unusable(address, error.strerror or str(error)) from error


def logs_folder() -> str:
    """The folder of the logs of Ray and its workers, if they are on this machine; else an empty string."""
    node = ray._private.worker._global_node
    return "" if node is None else str(node.get_logs_dir_path())


def unusable(address: str | None, reason: str) -> PrepError:
    """The error for a Ray cluster that is unreachable or has gone."""
    where = "on this machine" if address in (None, "local") else f"at {address}"
    return PrepError(
        f"Ray {where} cannot be used: {reason.rstrip('.')}.",
        "Start it with `ray start --head`, check --ray-address, or omit that option to use this machine.",
    )
