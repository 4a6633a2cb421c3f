"""``python -m ctadam`` is ``ctadam``."""

import sys

from ctadam.cli import main

sys.exit(main())
