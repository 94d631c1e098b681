#!/usr/bin/env python3
"""Stands where Triton expects ptxas: its output is the PTX that it was given."""

import shutil
import sys


def main() -> None:
    arguments = sys.argv[1:]
    if "--version" in arguments:
        print("Cuda compilation tools, release 13.0, V13.0.0")
        return
    source = next(a for a in reversed(arguments) if a.endswith(".ptx"))
    shutil.copy(source, arguments[arguments.index("-o") + 1])


if __name__ == "__main__":
    main()
