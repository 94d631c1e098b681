#!/usr/bin/env bash
# make gpu: on a host with an NVIDIA GPU, g++, CMake and Carrel's Python packages, and no network:
# builds the native parts, runs the checks and measurements of bench/gpu.py natively and through a
# worker on the real driver, and writes bench/results/<gpu>.json. nvcc and PyTorch are used where
# they are; what is missing is named and left out.
#
# Uses the python3 on the PATH (PYTHON=… for another); installs nothing. With --device null it is
# a rehearsal without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
fail() { echo "make gpu: $*" >&2; exit 1; }
case " $* " in
*" --device null "* | *" --device=null "* | *" --help "*) ;;
*)
    command -v nvidia-smi >/dev/null || fail "no NVIDIA GPU here (nvidia-smi not found); --device null rehearses without one"
    nvidia-smi -L 2>/dev/null | grep -q GPU || fail "no NVIDIA GPU here (nvidia-smi lists none)"
    ;;
esac
for tool in g++ cmake "$python"; do
    command -v "$tool" >/dev/null || fail "$tool not found"
done
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$python is older than Python 3.11"
for module in yaml pynvml; do # the descriptions; the list of GPUs
    "$python" -c "import $module" 2>/dev/null || fail "$python lacks $module: pip install pyyaml nvidia-ml-py"
done
build=${CARREL_BUILD_DIR:-build/gpu}
options=()
command -v ccache >/dev/null && options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
command -v ninja >/dev/null && options+=(-G Ninja)
jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
cmake -S remote_gpu/native -B "$build" "${options[@]}" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    "-DPython3_EXECUTABLE=$(command -v "$python")" >/dev/null
cmake --build "$build" -j "$jobs"
cmake --install "$build" --prefix remote_gpu/lib --strip >/dev/null
exec "$python" -m bench.gpu "$@"
