import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LARGE_KIB = 200 * 1024


def test_a_program_started_from_a_larger_one_has_a_peak_of_its_own():
    child = "from memory import peak_resident_kib; print(peak_resident_kib())"
    large = (
        f"import subprocess, sys; held = b'x' * ({LARGE_KIB} * 1024); from memory import peak_resident_kib;"
        f"print(peak_resident_kib(), subprocess.check_output([sys.executable, '-c', {child!r}], text=True))"
    )
    done = subprocess.run([sys.executable, "-c", large], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    ours, childs = map(int, done.stdout.split())
    assert ours > LARGE_KIB
    assert 1024 < childs < LARGE_KIB / 2
