"""Search spaces: functions from a trial's draws to a TrialConfig, with points known to be good."""

from search_spaces.first_points import check_first_points
from search_spaces.registry import load_space, space_names
from search_spaces.space import Draw, SearchSpace, SuggestTrial, draws, pin

__all__ = ["Draw", "SearchSpace", "SuggestTrial", "check_first_points", "draws", "load_space", "pin", "space_names"]
