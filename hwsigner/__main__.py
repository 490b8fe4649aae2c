"""`python -m hwsigner` is `hwsigner`."""

import sys

from hwsigner._cli import entry_point

if __name__ == "__main__":
    sys.exit(entry_point())
