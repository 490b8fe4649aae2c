"""`make bench`: the cost of cold runs, each output, keys, signing and serving. Nothing passes or fails here."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

BENCH = Path(__file__).resolve().parent


def run(file: str, *arguments: str | Path) -> None:
    """Run a benchmark in a process of its own."""
    subprocess.run([sys.executable, BENCH / file, *arguments], check=True)
    print(flush=True)


def main() -> None:
    """Run the benchmarks, and draw the plot if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the costs of outputs and signatures as SVG")
    plot = parser.parse_args().plot
    with tempfile.TemporaryDirectory(prefix="hwsigner-bench-") as folder:
        outputs, keys = (Path(folder) / name for name in ("outputs.json", "keys.json"))
        run("cold.py")
        run("outputs.py", "--json", outputs)
        run("keys.py", "--json", keys)
        run("signing.py")
        run("serving.py", "--seconds=2")
        run("pods.py", "--seconds=2")
        if plot:
            run("plot.py", outputs, keys, plot)


if __name__ == "__main__":
    main()
