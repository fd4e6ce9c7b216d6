"""Seeded random weights of a small FreeSOLO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prep.proposals.freesolo.backbone import Pyramid, ResNet
from prep.proposals.freesolo.network import InstanceHead, MaskHead, Network


def small_network(seed: int = 0) -> Network:
    """One block per stage and 32 channels, with scores around one half."""
    torch.manual_seed(seed)
    pyramid = Pyramid(ResNet(8, 4, (2, 1, 1, 1), 4), (16, 32, 64, 128), 32)
    network = Network(pyramid, InstanceHead(32, 32, 2, 32, 2), MaskHead(32, 32, 32)).eval()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("norm.weight", "norm.bias", "running_mean")):
            value.add_(torch.randn_like(value) * 0.2)
    network.ins_head.cate_pred.weight.data.mul_(4)
    network.ins_head.kernel_pred.weight.data.mul_(8)
    return network


@pytest.fixture
def network() -> Network:
    return small_network()


@pytest.fixture
def checkpoint(tmp_path: Path, network: Network) -> Path:
    """The weights as detectron2 saves them, with the entries that no mask depends on."""
    state: dict[str, Any] = dict(network.state_dict())
    state["_iter"] = torch.zeros(1)
    state["ins_head.emb_pred.weight"] = torch.zeros(128, 32, 3, 3)
    path = tmp_path / "freesolo.pth"
    torch.save({"model": state, "iteration": 3}, path)
    return path
