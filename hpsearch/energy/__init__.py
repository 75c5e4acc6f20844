"""What trainings, searches and sub-networks cost in joules: counted, modelled, summed.

training_energy: of one trial; measurement and measured: `hpsearch measure` and its table; spent and spending_lines: of
a whole search; used_profile: the prices behind them.
"""
