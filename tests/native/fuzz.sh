#!/usr/bin/env bash
# Fuzzes the wire decoder, the PTX engine and the unpacking of images with libFuzzer for the given number of seconds. Needs clang 14 or newer
# with its sanitizer runtime; installs Debian's clang-19 when there is none and it may.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60}
probe() {
    printf 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
        "$1" -x c++ -fsanitize=fuzzer,address - -o /dev/null 2>/dev/null
}
find_clang() {
    for clang in clang++-19 clang++-18 clang++-17 clang++-16 clang++-15 clang++-14 clang++; do
        if command -v $clang >/dev/null && probe $clang; then echo $clang; return 0; fi
    done
    return 1
}
if ! clang=$(find_clang); then
    sudo=
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    for version in 19 16 14; do
        $sudo apt-get update -qq && $sudo apt-get install -qq -y --no-install-recommends \
            clang-$version libclang-rt-$version-dev >&2 && break
    done
    clang=$(find_clang) || { echo "fuzz: no clang with libFuzzer; install clang and libclang-rt" >&2; exit 1; }
fi
build=build/native-fuzz
cmake -S remote_gpu/native -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g1" -DCARREL_FUZZ=ON \
    "-DCMAKE_CXX_COMPILER=$clang" "-DCMAKE_C_COMPILER=${clang/++/}" \
    "-DPython3_EXECUTABLE=$(command -v python3)" >/dev/null
cmake --build "$build" --target fuzz_decoder fuzz_image fuzz_ptx fuzz_zstd

# As many at a time as there are cores, so that each has its whole time; a finding is kept in the build folder
# and ends this with an error.
fuzz() {
    local name=$1
    shift
    mkdir -p "$build/$name"
    if "$build/bin/$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3072 -print_final_stats=1 \
        "-artifact_prefix=$build/$name-" "$build/$name" "$@" >"$build/$name.log" 2>&1; then
        echo "$name: $(grep -E '^Done|number_of_executed' "$build/$name.log" | tr '\n' ' ')"
    else
        tail -60 "$build/$name.log" >&2
        return 1
    fi
}
cores=$(nproc)
running=0
failed=0
for target in "fuzz_decoder" "fuzz_ptx tests/native/softgpu/ptx/programs" "fuzz_zstd tests/native/image/frames" "fuzz_image"; do
    if [ "$running" -ge "$cores" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    # shellcheck disable=SC2086  # a name and its seeds
    fuzz $target &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
exit $failed
