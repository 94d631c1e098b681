"""Packs the patterns of test_zstd.cpp with the reference library (PyPI's zstandard) into frames/.

Run by hand, when a pattern changes: python tests/native/image/make_frames.py
"""

from pathlib import Path

import zstandard


def lines(count: int) -> bytes:
    return "".join(f"ld.param.u64 %rd{i * i % 97}, [p{i % 13}];\n" for i in range(count)).encode()


def skewed(count: int) -> bytes:
    state, out = 1, bytearray()
    for _ in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        byte = state >> 24
        out.append(byte & (byte >> 3) & 0x1F)
    return bytes(out)


def runs(count: int) -> bytes:
    return b"".join(bytes([i % 7]) * (i % 9 + 1) for i in range(count))


def main() -> None:
    folder = Path(__file__).parent / "frames"
    folder.mkdir(exist_ok=True)
    for name, data in (("lines", lines(3000)), ("skewed", skewed(20000)), ("runs", runs(40000))):
        for level in (-5, 1, 6, 19):
            packer = zstandard.ZstdCompressor(level=level, write_checksum=level % 2 == 1)
            (folder / f"{name}{level}.zst").write_bytes(packer.compress(data))
    (folder / "empty.zst").write_bytes(zstandard.ZstdCompressor().compress(b""))


if __name__ == "__main__":
    main()
