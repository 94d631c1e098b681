"""Code crosses once: a second process of a node's account sends its name only."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from tests.run.test_run import CUDA, SOFTWARE, run

PROGRAM = """
import zlib
kernel = '''.visible .entry fill(.param .u64 to) {
.reg .b64 %rd<2>; .reg .b32 %r<2>;
ld.param.u64 %rd1, [to]; mov.u32 %r1, VALUE; st.global.u32 [%rd1], %r1; ret; }
'''
# Large, as frameworks' modules are.
image = ".version 8.0\\n.target sm_80\\n.address_size 64\\n" + kernel.replace("VALUE", sys.argv[1])
image = (image + "// " + "x" * 20000 + "\\n").encode() + b"\\0"
def load():
    module, fill = ctypes.c_void_p(), ctypes.c_void_p()
    check(cuda.cuModuleLoadData(ctypes.byref(module), image))
    check(cuda.cuModuleGetFunction(ctypes.byref(fill), module, b"fill"))
    return fill
pointers = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(address), ctypes.c_void_p))
check(cuda.cuLaunchKernel(load(), 1, 1, 1, 1, 1, 1, 0, None, pointers, None))
value = ctypes.c_int()
check(cuda.cuMemcpyDtoH_v2(ctypes.byref(value), address, ctypes.c_size_t(4)))
print("value", value.value)
"""


def sent(store: Path, value: int) -> tuple[int, str]:
    """How often the module's load crossed: twice when its bytes had to follow. And what was said
    on stderr."""
    done = run(
        *SOFTWARE, sys.executable, "-c", CUDA + PROGRAM, str(value),
        CARREL_IMAGE_STORE=str(store), CARREL_TRACE="summary",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"value {value}\n" in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.endswith("cuModuleLoadDataEx")]
    return int(line.split()[1]), done.stderr


def test_code_is_sent_once(tmp_path: Path) -> None:
    store = tmp_path / "cache" / "images"
    assert sent(store, 1)[0] == 2
    (kept,) = store.iterdir()
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == kept.name
    assert store.stat().st_mode & 0o777 == 0o700
    assert kept.stat().st_mode & 0o777 == 0o600
    assert sent(store, 1)[0] == 1
    assert sent(store, 2)[0] == 2
    assert len(list(store.iterdir())) == 2


def test_a_changed_image_is_not_believed(tmp_path: Path) -> None:
    store = tmp_path / "images"
    sent(store, 1)
    (kept,) = store.iterdir()
    image = kept.read_bytes()
    kept.write_bytes(image.replace(b"mov.u32 %r1, 1;", b"mov.u32 %r1, 7;"))
    times, said = sent(store, 1)
    assert times == 2
    assert "is not what it is called" in said
    assert kept.read_bytes() == image
    assert sent(store, 1)[0] == 1


def test_a_store_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    taken = tmp_path / "images"
    taken.write_text("a file")
    for _ in range(2):
        assert sent(taken, 1)[0] == 2
    assert taken.read_text() == "a file"
