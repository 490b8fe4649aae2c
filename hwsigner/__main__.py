"""`python -m hwsigner` is `hwsigner`."""

import sys

from hwsigner.cli import entry_point

if __name__ == "__main__":
    sys.exit(entry_point())
