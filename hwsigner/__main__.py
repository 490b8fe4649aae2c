"""`python -m hwsigner` is `hwsigner`."""

import sys

from hwsigner.cli import main

if __name__ == "__main__":
    sys.exit(main())
