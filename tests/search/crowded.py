"""Trials on a GPU that is not there: one in three lacks memory while it shares, and notes who runs beside it."""

import json
import time
from typing import Any

import ray
import tabulated
import torch


class CrowdedTrial(tabulated.InstantTrial):
    def advance(self, until_epoch: int) -> tabulated.Report:
        share = ray.get_runtime_context().get_assigned_resources()["GPU"]
        notes = self.folder.parent / "notes"
        notes.mkdir(parents=True, exist_ok=True)
        mine = notes / f"{self.folder.name}.{time.monotonic_ns()}.{share:g}"
        others = [path for path in notes.glob("*.running") if not path.name.startswith(self.folder.name)]
        mine.write_text(str(len(others)))
        running = notes / f"{self.folder.name}.running"
        running.touch()
        try:
            time.sleep(0.05)
            if int(self.config.config_hash, 16) % 3 == 0 and share < 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().advance(until_epoch)
        finally:
            running.unlink()


class HopelessTrial(CrowdedTrial):
    def advance(self, until_epoch: int) -> tabulated.Report:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 900 GiB")


class NeedyTrial(tabulated.InstantTrial):
    """A trial that tells what Ray has given it and how many threads it has."""

    def finish(self) -> dict[str, Any]:
        given = ray.get_runtime_context().get_assigned_resources()
        seen = {"CPU": given["CPU"], "GPU": given["GPU"], "threads": torch.get_num_threads()}
        return {**super().finish(), "device": json.dumps(seen)}
