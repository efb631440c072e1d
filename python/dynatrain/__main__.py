"""``python -m dynatrain`` is the ``dynatrain`` command."""

from __future__ import annotations

import sys

from dynatrain.tools import cli

if __name__ == "__main__":
    sys.exit(cli.main())
