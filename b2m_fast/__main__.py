"""``python -m b2m_fast``."""

import sys

from b2m_fast.cli import main

sys.exit(main())
