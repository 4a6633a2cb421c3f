"""Run the command line as ``python -m ctadam``."""

import sys

from ctadam.cli import main

sys.exit(main())
