"""Test set-up."""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
# Two processes of pytest-xdist share two cores.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
