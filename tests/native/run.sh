#!/usr/bin/env bash
# Builds and runs the native tests under the given sanitizers.
#   tests/native/run.sh address,undefined | thread
set -euo pipefail
cd "$(dirname "$0")/../.."
sanitize=${1:?sanitizers, for example address,undefined}
build=build/native-${sanitize//,/-}
launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
cmake -S remote_gpu/native -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1" \
    -DCARREL_TESTS=ON "-DCARREL_SANITIZE=$sanitize" "${launcher[@]}" \
    "-DPython3_EXECUTABLE=$(command -v python3)" >/dev/null
cmake --build "$build" --target carrel_tests
# LeakSanitizer misreads the thread-local storage of libraries that were loaded by dlopen.
export ASAN_OPTIONS=intercept_tls_get_addr=0:detect_stack_use_after_return=0:handle_segv=0:allow_user_segv_handler=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=second_deadlock_stack=1
ctest --test-dir "$build" --output-on-failure --no-tests=error
