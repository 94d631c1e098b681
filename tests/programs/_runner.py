"""Runs programs of this directory one after the other in one process: start-up is the slow part.

python _runner.py RESULTS NAME …    writes one JSON line per program to RESULTS
"""

import importlib
import json
import sys
import time
import traceback
import warnings
from pathlib import Path


def run(name: str) -> dict[str, object]:
    started = time.monotonic()
    try:
        importlib.import_module(name).main()
        error = ""
    except Exception:
        error = traceback.format_exc()
    return {"program": name, "error": error, "seconds": time.monotonic() - started}


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    warnings.simplefilter("ignore")
    results = Path(sys.argv[1])
    for name in sys.argv[2:]:
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run(name)) + "\n")


if __name__ == "__main__":
    main()
