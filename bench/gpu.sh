#!/usr/bin/env bash
# make gpu: on a host with an NVIDIA GPU, g++, CMake and Carrel's Python packages, and no network:
# builds the native parts, runs the numba programs and the driver benchmark natively and through a
# worker on the real driver, and writes bench/results/<gpu>.json.
#
# Uses the python3 on the PATH (PYTHON=… for another); installs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
command -v nvidia-smi >/dev/null || { echo "make gpu: no NVIDIA GPU here (nvidia-smi not found)" >&2; exit 1; }
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
cmake -S remote_gpu/native -B build/gpu "${generator[@]}" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    "-DPython3_EXECUTABLE=$(command -v "$python")"
cmake --build build/gpu -j "$(nproc)"
cmake --install build/gpu --prefix remote_gpu/lib --strip
exec "$python" -m bench.gpu "$@"
