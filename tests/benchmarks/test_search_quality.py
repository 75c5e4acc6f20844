from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_the_scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_the_table_holds_every_configuration_that_can_be_drawn():
    import search_table

    grid = {search_table.configure(point).config_hash for point in search_table.points()}
    assert len(grid) == 400
    assert grid == set(search_table.read())


@pytest.mark.parametrize(
    "name", ["ours, first points, halving", "ours", "stock OptunaSearch (TPE)", "NSGA-II", "random"]
)
def test_a_search_is_replayed_until_its_epochs_are_spent(tmp_path, name):
    import search_quality
    import search_table

    found = search_quality.replay(search_quality.arms(tmp_path, None)[name](100), search_table.read(), 60)
    spent = [epochs for epochs, _, _ in found]
    assert 1 <= len(found) <= 5
    assert spent == sorted(spent)
    assert search_table.EPOCHS <= spent[0] <= spent[-1] <= 60
    assert all(0 < error < 1 and energy_j > 0 for _, error, energy_j in found)
