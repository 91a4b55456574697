"""A driver in a process of its own: drive.py SWEEP SIZE."""

import sys
from pathlib import Path

from tests.sweep.support import drive

if __name__ == "__main__":
    sys.exit(drive(Path(sys.argv[1]), size=int(sys.argv[2]), max_failures=8)[0])
