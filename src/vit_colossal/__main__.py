"""``python -m vit_colossal``."""

import sys

from vit_colossal.cli import main

sys.exit(main())
