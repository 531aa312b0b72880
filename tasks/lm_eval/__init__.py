"""The same tasks as plug-ins of lm-evaluation-harness: `lm_eval run --include_path "$(flowtracer tasks
--lm-eval-path)" --tasks flowtracer`.
"""

from pathlib import Path

#: The folder to give to lm-eval's `--include_path`.
FOLDER = Path(__file__).resolve().parent
