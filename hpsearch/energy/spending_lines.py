"""What a search has cost, as lines of text: joules and kWh by state, emissions, savings and pay-back of the front."""

from rich.console import Console
from rich.table import Table

from hpsearch.energy.spent import JOULES_PER_KWH
from hpsearch.report.spending import Spending
from hpsearch.units import ENERGY, show

MILLION = 1e6


def show_spending(console: Console, spending: Spending) -> None:
    """Print what a run's training has cost, and after how many inferences that has paid for itself."""
    for line in spending_lines(spending):
        console.print(line)
    if not spending.pay_back:
        return
    table = Table("trial", "saved per million inferences", "paid back after", box=None, padding=(0, 2))
    for back in spending.pay_back:
        after = f"{back.n_inferences:,} inferences" if back.n_inferences is not None else _why_not(back.saved_j)
        table.add_row(back.trial_id, show(back.saved_j * MILLION, ENERGY), after)
    # a pipe has 80 columns for rich, and a cell broken over two lines cannot be read
    wide = Console(file=console.file, width=max(console.width, 110), force_terminal=console.is_terminal)
    wide.print(table, soft_wrap=True)


def spending_lines(spending: Spending) -> list[str]:
    """Say in lines what the training of all trials has cost."""
    if spending.total.energy_j is None:
        return []
    parts = [f"{spent.state} {show(spent.energy_j, ENERGY)} ({spent.n_trials})" for spent in spending.by_state]
    lines = [
        f"training: {show(spending.total.energy_j, ENERGY)} = {show_kwh(spending.total.energy_j)}, "
        f"{', '.join(spending.sources)}; {', '.join(parts)}"
    ]
    if spending.total.n_without_energy:
        lines.append(f"{spending.total.n_without_energy} trials do not know their energy: the sum lacks them")
    if spending.co2e_kg is not None:
        lines.append(f"emissions at the given carbon intensity: {spending.co2e_kg:.3g} kg CO2e")
    return lines


def show_kwh(joules: float) -> str:
    """Write an energy in kWh, as on a bill."""
    return f"{joules / JOULES_PER_KWH:.3g} kWh"


def _why_not(saved_j: float) -> str:
    return "never: it saves nothing" if saved_j <= 0 else "not known: training and inference have different sources"
