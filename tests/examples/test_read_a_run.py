import datetime
import importlib.util
import json
from pathlib import Path

import torch
from torch import nn

from greenprune_core.subnetwork import save_subnetwork
from hpsearch.archive import SCHEMA_VERSION, write_trial
from hpsearch.storage import RunStorage

EXAMPLE = Path(__file__).parents[2] / "examples" / "read_a_run.py"
NOW = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)


def test_a_run_is_read_picked_from_and_its_network_trained_on(tmp_path, capsys):
    storage = RunStorage.open(tmp_path)
    storage.write_bytes("settings.json", json.dumps({"schema_version": SCHEMA_VERSION, "settings": {}}).encode())
    for trial_id, accuracy, energy_j in (("cheap", 0.8, 1e-6), ("dear", 0.9, 2e-6)):
        row = {"trial_id": trial_id, "state": "complete", "val_accuracy": accuracy, "energy_j": energy_j, "macs": 1000}
        write_trial(storage, row | {"energy_source": "model:horowitz-45nm", "finished_at": NOW})
    # it takes no other size than its own
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
    save_subnetwork(tmp_path / "subnetworks" / "cheap", network.eval(), torch.rand(1, 3, 8, 8), {})
    spec = importlib.util.spec_from_file_location("read_a_run", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(str(tmp_path), "1.5uJ") == sum(parameter.numel() for parameter in network.parameters())
    assert "picked cheap" in capsys.readouterr().out
