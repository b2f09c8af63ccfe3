import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # synthetic_runs, also in the workers that trials start
