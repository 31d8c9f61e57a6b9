"""Programs that try hundreds of times what the tests try a few times: ``make campaigns``.

Each is run as ``python -m campaigns.NAME`` from the checkout.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for helpers
