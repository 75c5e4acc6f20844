"""The search on Optuna's side, free of Ray: what is drawn, what is told, what is written down.

opening: a run is opened to be searched; search_study: what is drawn next and what became of it; optuna_study and
journal: Optuna's study and its log in the run's folder; mirror: what the sampler draws from; draws: what a space draws;
ledger: rows first, then the study; sources: what compares; rungs: halving as arithmetic; feasibility: what a
sub-network must keep.
"""
