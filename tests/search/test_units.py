import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenprune_core.errors import ConfigError
from hpsearch.units import ACCURACY, ENERGY, MACS, TIME, parse, show, show_duration


@pytest.mark.parametrize(
    ("text", "quantity", "value"),
    [
        ("2J", ENERGY, 2.0),
        ("1.5mJ", ENERGY, 1.5e-3),
        ("1.5 mJ", ENERGY, 1.5e-3),
        ("300uJ", ENERGY, 3e-4),
        ("300µJ", ENERGY, 3e-4),
        ("40nJ", ENERGY, 4e-8),
        ("1Wh", ENERGY, 3600.0),
        ("3kWh", ENERGY, 10.8e6),
        ("2MJ", ENERGY, 2e6),
        ("20M", MACS, 2e7),
        ("1.2G", MACS, 1.2e9),
        ("20000000", MACS, 2e7),
        ("2s", TIME, 2.0),
        ("2ms", TIME, 2e-3),
        ("2us", TIME, 2e-6),
        ("2h", TIME, 7200.0),
        ("90min", TIME, 5400.0),
        ("0.9", ACCURACY, 0.9),
        ("91.5%", ACCURACY, 0.915),
        (" 1e-3J ", ENERGY, 1e-3),
    ],
)
def test_a_number_with_its_unit_is_read_in_base_units(text, quantity, value):
    assert parse(text, quantity, "--x") == pytest.approx(value, rel=1e-12)


def test_a_number_is_read_as_it_is_written_in_decimals():
    assert [parse(f"{percent}%", ACCURACY, "x") for percent in range(1, 101)] == [n / 100 for n in range(1, 101)]
    assert [parse(f"{n / 100}M", MACS, "x") for n in range(1, 1000)] == [n * 10_000 for n in range(1, 1000)]
    assert parse("1.5mJ", ENERGY, "x") == 1.5e-3


@pytest.mark.parametrize(
    ("text", "quantity", "message"),
    [
        ("1.5", ENERGY, "without a unit; write e.g. 1.5mJ"),
        ("2mW", ENERGY, "with the unit 'mW'"),
        ("2MJoule", ENERGY, "with the unit 'MJoule'"),
        ("2mm", TIME, "with the unit 'mm'"),
        ("2", TIME, "without a unit"),
        ("lots", MACS, "but got 'lots'"),
        ("", ENERGY, "but got ''"),
        ("1.2.3mJ", ENERGY, "but got '1.2.3mJ'"),
        ("0mJ", ENERGY, "above 0"),
        ("-1mJ", ENERGY, "above 0"),
        ("nan J", ENERGY, "needs an energy"),
        ("1e999J", ENERGY, "above 0"),
        ("9e999999kWh", ENERGY, "above 0"),
        ("1e99999999999999999999J", ENERGY, "above 0"),
        ("90", ACCURACY, "at most 1 or 100%"),
        ("120%", ACCURACY, "at most 1 or 100%"),
    ],
)
def test_what_does_not_read_is_refused_with_the_option_and_an_example(text, quantity, message):
    with pytest.raises(ConfigError, match="--max-x needs") as error:
        parse(text, quantity, "--max-x")
    assert message in str(error.value)
    assert "write e.g." in str(error.value)


@pytest.mark.parametrize(
    ("value", "quantity", "text"),
    [
        (1.534e-3, ENERGY, "1.53 mJ"),
        (0.9999e-3, ENERGY, "1.00 mJ"),
        (2.5e-13, ENERGY, "0.250 pJ"),
        (0.0, ENERGY, "0 J"),
        (125_485_696, MACS, "125M"),
        (20_400_000, MACS, "20.4M"),
        (512, MACS, "512"),
        (0.0021, TIME, "2.10 ms"),
        (0.912, ACCURACY, "91.20 %"),
        (None, ENERGY, "-"),
        (math.nan, ENERGY, "-"),
    ],
)
def test_numbers_are_shown_in_the_unit_in_which_they_read_best(value, quantity, text):
    assert show(value, quantity) == text


@given(st.floats(1e-11, 1e8))
def test_what_is_shown_reads_back_to_three_digits(value):
    assert parse(show(value, ENERGY), ENERGY, "x") == pytest.approx(value, rel=6e-3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.85, "850 ms"),
        (42.3, "42 s"),
        (190, "3 min 10 s"),
        (7500, "2 h 05 min"),
        (273600, "3 d 4 h"),
        (None, "-"),
    ],
)
def test_durations_are_shown_as_people_say_them(seconds, text):
    assert show_duration(seconds) == text
