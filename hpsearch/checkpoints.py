"""Where running trials keep their state in a run's folder, under the trial's id (the hash of its configuration)."""

FOLDER = "checkpoints"


def checkpoint_path(trial_id: str) -> str:
    """Return the path of a trial's state, relative to the run."""
    return f"{FOLDER}/{trial_id}.pt"


def trial_ids(paths: list[str]) -> dict[str, str]:
    """Return the paths in the folder by the ids of their trials."""
    return {path.removeprefix(f"{FOLDER}/").removesuffix(".pt"): path for path in paths}
