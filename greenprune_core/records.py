"""What a run remembers of itself: what each phase has spent, and what the freeze found."""

from dataclasses import dataclass


@dataclass
class PhaseSpent:
    """What one phase has spent so far."""

    n_steps: int = 0
    """Training steps."""
    n_trained: int = 0
    """Images passed forward and backward."""
    n_passed: int = 0
    """Images passed forward only, for statistics of gates and batch norms; evaluation is left out."""
    seconds: float = 0.0
    """Wall time of the training steps."""


@dataclass(frozen=True, kw_only=True)
class FreezeReport:
    """What the consensus found when the gates were fixed."""

    progress: float
    """Progress at which the gates were fixed."""
    n_waits: int
    """How often the freeze was put off because the gates did not agree."""
    n_images: int
    """Training images (without augmentation) over which the gates were averaged."""
    disagreement_mean: float
    """Share of the images on which a gate differs from its majority, mean over gates, in [0, 0.5]."""
    disagreement_max: float
    """The same for the worst gate."""
    open_histogram: tuple[int, ...]
    """Number of gates by the share of images for which they are open, ten bins over [0, 1]."""
    n_gates: int
    """Number of gates."""
    n_flipped: int
    """Gates that the budget turned against their majority."""
    kept_before_repair: float
    """Kept fraction of the majority mask, in the budget's unit."""
    kept: float
    """Kept fraction after the repair, at most the target."""
    dynamic_accuracy: float
    """Validation accuracy of the gated network with its gates deciding per image."""
    frozen_accuracy: float
    """Validation accuracy with the gates fixed, before batch statistics were estimated anew."""
