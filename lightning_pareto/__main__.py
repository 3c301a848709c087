"""``python -m lightning_pareto`` is the command line too."""

import sys

from lightning_pareto.command_line import main

sys.exit(main())
