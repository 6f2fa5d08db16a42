"""Test set-up."""

import os
import sys
from pathlib import Path

import torch
from hypothesis import settings

# "make test" tries the same examples in every run; pytest alone tries others each time.
settings.register_profile("fixed", derandomize=True)

sys.path.insert(0, str(Path(__file__).parent))
# Two processes of pytest-xdist share two cores.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
