import datetime
import json
import math
import re
import time

import altair
import pytest
from archive_maker import START, make_row, make_rows

from hpsearch.archive import CONTROLS_FOLDER, write_trial
from hpsearch.comparison import compare
from hpsearch.report import render_page, render_summary, write_report
from hpsearch.report.cards import make_cards
from hpsearch.report.figures import front_spec, point_values
from hpsearch.report.front_view import front_table, front_view
from hpsearch.report.history import history_view, hypervolume_share
from hpsearch.report.spending import spending_view
from hpsearch.search_run import open_run

EVIL = "<script>alert(1)</script>"


def page_data(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_has_every_trial_and_every_member_has_a_card(run):
    page = render_page(run)
    points = page_data(page)["datasets"]["trials"]
    assert len(points) == sum(row["energy_j"] is not None for row in run.rows)
    members = [point["id"] for point in points if point["kind"] == "front"]
    assert set(members) == set(run.front["trial_id"].to_pylist())
    assert all(f'id="card-{trial_id}"' in page for trial_id in members)


def test_nothing_on_the_page_is_fetched(run):
    page = render_page(run)
    without_bundle = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", without_bundle)
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "default-src 'none'" in page


def test_what_the_run_says_is_shown_as_text(open_rows):
    rows = make_rows(30)
    rows.append(make_row(98, state="failed", error=EVIL))
    rows.append(
        make_row(99, accuracy=0.99, params={EVIL: EVIL}, device=EVIL, config={"x": EVIL}, kept_channels={EVIL: [1, 2]})
    )
    page = render_page(open_rows(rows, name=EVIL, space=EVIL))
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page_data(page)["datasets"]["trials"]


def test_every_figure_is_valid_for_its_schema(open_rows):
    run = open_rows(make_rows(80), third_objective="training-energy")
    data = page_data(render_page(run))
    assert {"front", "pair_accuracy", "parallel", "importance", "slice_0", "busy", "history_energy"} <= set(
        data["specs"]
    )
    for spec in data["specs"].values():
        kind = altair.LayerChart if "layer" in spec else altair.Chart
        kind.from_dict(spec)


@pytest.mark.slow
def test_two_thousand_trials_make_a_small_page_quickly(open_rows, monkeypatch):
    monkeypatch.setattr("hpsearch.storage.os.fsync", lambda descriptor: None)
    run = open_rows(make_rows(2000))
    assert len(run.rows) == 2000
    render_page(
        open_run(run.storage.location)
    )  # the bundle is in the cache now, as it is from a person's second report on
    began = time.process_time()
    page = render_page(run)
    assert time.process_time() - began < 2.0
    assert len(page.encode()) < 5e6


@pytest.mark.parametrize(
    "rows",
    [
        [make_row(1)],
        [make_row(n, state="failed", error="NaN", accuracy=None, energy_j=1e-3) for n in range(3)],
        [make_row(n) for n in range(30)],
        [make_row(1), make_row(2, accuracy=math.nan)],
        [make_row(1, started_at=None, finished_at=None, params=None, config=None, node=None, dense_energy_j=None)],
        [make_row(1, energy_j=0.0)],
    ],
    ids=["one trial", "all failed", "all on one point", "NaN in a row", "almost nothing known", "free energy"],
)
def test_poor_runs_have_a_page_too(open_rows, rows):
    run = open_rows(rows)
    written = write_report(run)
    assert len(written) == 7
    assert "NaN" not in json.dumps(page_data(render_page(run))["datasets"])


def test_what_is_left_out_is_said_and_counted(open_rows):
    rows = [make_row(1), make_row(2, accuracy=math.nan), make_row(3, energy_source="nvml"), make_row(4)]
    page = render_page(open_rows(rows))
    assert "1 complete trial left out: val_accuracy is missing or not finite." in page
    assert "1 complete trial left out: its energy is from nvml, not from model:horowitz-45nm." in page


def test_damaged_parts_are_named_on_the_page(open_rows):
    run = open_rows(make_rows(3))
    run.storage.write_bytes("trials/broken.parquet", b"PAR1")
    assert "trials/broken.parquet" in render_page(open_run(run.storage.location))


def test_the_source_of_the_energy_is_on_the_axis(open_rows):
    spec = front_spec(front_view(open_rows([make_row(1, energy_source="nvml")])))
    assert spec["layer"][0]["encoding"]["x"]["title"] == "energy per inference, nvml"
    assert spec["layer"][0]["encoding"]["x"]["scale"]["type"] == "log"


def test_controls_are_marked_and_repeats_have_bars(open_rows):
    repeats = [{"seed": n, "val_accuracy": 0.9 + n / 100} for n in range(3)]
    run = open_rows([make_row(1, repeats=repeats)])
    write_trial(run.storage, make_row(2, control="dense", energy_j=2e-3), CONTROLS_FOLDER)
    front, control = sorted(front_view(run).points, key=lambda point: point.kind, reverse=True)
    assert (front.kind, control.kind, control.label) == ("front", "control", "dense network")
    assert front.low < 0.9 < front.high
    assert control.low is None


def test_the_table_has_all_three_objectives(open_rows):
    run = open_rows([make_row(1), make_row(2, accuracy=0.5, train_energy_j=1.0)], third_objective="training-energy")
    assert [line.third for line in front_table(run, None)] == ["1.00 J", "51.0 J"]
    assert "| energy | training-energy | MACs | parameters |" in render_summary(run)
    assert render_page(run).count('<th scope="col">training-energy</th>') == 1


def test_hovering_says_trial_and_objectives_with_their_units(open_rows):
    repeats = [{"seed": n, "val_accuracy": 0.9 + n / 100} for n in range(3)]
    run = open_rows([make_row(1, repeats=repeats), make_row(2, accuracy=0.5)], third_objective="training-energy")
    view = front_view(run)
    spec = front_spec(view)
    (front,) = [layer for layer in spec["layer"] if layer.get("name") == "front_points"]
    fields = [field["field"] for field in front["encoding"]["tooltip"]]
    values = {point["id"]: point for point in point_values(view)}
    assert [values["t00002"][field] for field in fields] == ["t00002", "trial", "50.00 %", "1.00 mJ", "52.0 J"]
    assert values["t00001"]["shown_accuracy"] == "90.00 %, 95 % 88.5% to 93.5% over 3 seeds"
    assert values["t00001"]["spoken"].startswith("t00001: 90.00 %")


def test_of_equal_members_one_line_names_the_others(open_rows):
    run = open_rows([make_row(n) for n in (1, 2, 3)])
    (line,) = front_table(run, None)
    assert (line.trial_id, line.twins) == ("t00001", ("t00002", "t00003"))
    (card,) = make_cards(run)
    assert ("exactly equal trials", "t00002, t00003") in card.figures
    assert "and 2 equal" in render_page(run)


def test_the_history_counts_a_repeated_configuration_when_its_last_seed_ends(open_rows):
    rows = [make_row(n, seed=n, accuracy=0.4 + 0.1 * n, config_hash="t00001") for n in (1, 2)]
    steps = history_view(open_rows([*rows, make_row(3, accuracy=0.1)])).progress
    # means: 0.55 right at half the dense network's energy
    assert [step.hypervolume for step in steps] == pytest.approx([0.0, 0.275, 0.275])
    assert [step.n_trials for step in steps] == [1, 1, 2]


def test_seeds_of_one_configuration_are_one_trial_in_what_was_spent_too(open_rows):
    rows = [make_row(n, seed=n, config_hash="t00001", train_energy_j=5.0) for n in (1, 2, 3)]
    view = spending_view(open_rows([*rows, make_row(4, state="failed", error="x", train_energy_j=1.0)]))
    assert [(spent.n_trials, spent.energy_j) for spent in view.by_state] == [(1, 15.0), (1, 1.0)]
    assert (view.total.n_trials, view.total.energy_j) == (2, 16.0)


def test_with_three_objectives_the_best_accuracy_is_not_that_of_the_dearest(open_rows):
    rows = [make_row(1, accuracy=0.95), make_row(2, accuracy=0.5, energy_j=1.5e-3, train_energy_j=1.0)]
    run = open_rows(rows, third_objective="training-energy")
    assert "<b>95.00 %</b><span>best validation accuracy</span>" in render_page(run)
    # the next, dearer one is far worse, not within noise
    assert [line.is_like_next for line in front_table(run, None)] == [False, False]


def test_with_three_objectives_the_line_joins_only_what_nothing_beats_in_the_picture(open_rows):
    cheap_training = make_row(2, accuracy=0.8, energy_j=1.5e-3, train_energy_j=1.0)
    run = open_rows([make_row(1, accuracy=0.9, energy_j=1e-3), cheap_training], third_objective="training-energy")
    points = {point.trial_id: point for point in front_view(run).points}
    assert [points[name].kind for name in ("t00001", "t00002")] == ["front", "front"]
    assert [points[name].is_on_line for name in ("t00001", "t00002")] == [True, False]


def test_the_table_marks_the_knee_and_neighbours_within_noise(open_rows):
    rows = [
        make_row(1, accuracy=0.80, energy_j=0.2e-3),
        make_row(2, accuracy=0.90, energy_j=0.3e-3),
        make_row(3, accuracy=0.905, energy_j=1.9e-3),
    ]
    run = open_rows(rows)
    lines = front_table(run, front_view(run).knee_id)
    assert [line.is_knee for line in lines] == [False, True, False]
    assert [line.is_like_next for line in lines] == [False, True, False]
    assert lines[1].macs == "6.00M (15%)"
    assert lines[1].saved == "1.70 kJ"  # (2 - 0.3) mJ, a million times


def test_with_three_objectives_the_knee_is_the_one_that_pick_takes(open_rows):
    spent = [9.0, 1.0, 9.5]
    rows = [
        make_row(n, accuracy=accuracy, energy_j=energy, train_energy_j=spent[n])
        for n, (accuracy, energy) in enumerate([(0.90, 1.0e-3), (0.89, 1.1e-3), (0.70, 0.2e-3)])
    ]
    run = open_rows(rows, third_objective="training-energy")
    assert len(run.compared.members) == 3
    assert front_view(run).knee_id == run.pick(knee=True).trial_id == "t00001"


def test_history_follows_trials_epochs_and_joules(open_rows):
    rows = [
        make_row(1, accuracy=0.5, energy_j=1e-3),
        make_row(2, state="failed", error="x"),
        make_row(3, accuracy=0.75),
    ]
    view = history_view(open_rows(rows))
    assert [step.n_trials for step in view.progress] == [1, 2, 3]
    assert [step.n_epochs for step in view.progress] == [10, 20, 30]
    assert view.progress[-1].energy_j == pytest.approx(51 + 52 + 53)
    # the box is 1 of error by 2 mJ: at half the energy, half and three quarters right
    assert [step.hypervolume for step in view.progress] == pytest.approx([0.25, 0.25, 0.375])
    assert view.failures == (("failed", "x", 1),)


@pytest.mark.parametrize("energy_j", [0.0, 1e-3])
def test_a_dense_network_that_costs_nothing_is_no_corner_to_count_from(open_rows, energy_j):
    run = open_rows([make_row(1, accuracy=0.5, energy_j=energy_j, dense_energy_j=0.0)])
    # without it the box ends at twice the dearest; where that costs nothing too, there is no box
    assert hypervolume_share(run) == (0.25 if energy_j else 0.0)
    assert [line.hypervolume for line in compare([run, run]).runs] == [hypervolume_share(run)] * 2


def test_the_busy_share_counts_slots_and_gaps(open_rows):

    def at(start, end):
        return {
            "started_at": START + datetime.timedelta(seconds=start),
            "finished_at": START + datetime.timedelta(seconds=end),
        }

    view = history_view(open_rows([make_row(1, **at(0, 4)), make_row(2, **at(0, 8)), make_row(3, **at(4, 6))]))
    assert view.n_slots == 2
    assert view.busy_share == pytest.approx((4 + 8 + 2) / 16)


def test_a_trial_that_a_clock_ended_before_its_start_kept_no_slot_busy(open_rows):
    back = {"started_at": START + datetime.timedelta(seconds=4), "finished_at": START - datetime.timedelta(hours=1)}
    sound = {"started_at": START, "finished_at": START + datetime.timedelta(seconds=8)}
    view = history_view(open_rows([make_row(1, **back), make_row(2, **sound)]))
    assert (view.n_slots, view.busy_share) == (1, pytest.approx(1.0))
    assert min(step.n_running for step in view.busy) == 0


def test_a_long_history_is_thinned_to_what_a_screen_shows(open_rows, monkeypatch):
    monkeypatch.setattr("hpsearch.report.history.MAX_STEPS", 10)
    view = history_view(open_rows(make_rows(50)))
    assert len(view.progress) == 10
    assert (view.progress[0].n_trials, view.progress[-1].n_trials) == (1, 50)


def test_the_search_is_paid_back_after_so_many_inferences(open_rows):
    rows = [make_row(1, energy_j=1e-3, train_energy_j=600.0), make_row(2, state="failed", train_energy_j=400.0)]
    view = spending_view(open_rows(rows), carbon_g_per_kwh=360.0)
    assert view.total.energy_j == 1000.0
    assert view.pay_back[0].n_inferences == 1_000_000  # 1000 J over 1 mJ saved
    assert view.co2e_kg == pytest.approx(1e-4)  # 1000 J are 1/3600 kWh
    assert [spent.state for spent in view.by_state] == ["complete", "failed"]


def test_modelled_joules_do_not_pay_back_measured_ones(open_rows):
    view = spending_view(open_rows([make_row(1, train_energy_source="nvml")]))
    assert view.pay_back[0].n_inferences is None


def test_a_trial_without_energy_is_counted_not_taken_for_zero(open_rows):
    view = spending_view(open_rows([make_row(1), make_row(2, train_energy_j=None)]))
    assert view.total.n_without_energy == 1
    assert (
        spending_view(open_rows([make_row(1, train_energy_j=None), make_row(2, train_energy_j=None)])).total.energy_j
        is None
    )


@pytest.mark.slow
def test_ten_thousand_trials_are_read_and_shown(open_rows):
    run = open_rows(make_rows(10_000), in_one_part=True)
    assert run.trials.num_rows == 10_000
    assert len(history_view(run).progress) == 400
    assert len(front_table(run, None)) == run.front.num_rows > 10
