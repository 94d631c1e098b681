"""Dense FP16 tensor TFLOPS by GPU model: what a slice's compute is counted in.

Source: NVIDIA's data sheets of each model, without sparsity. An administrator can override a node's
figure (``CarrelAgent.tflops``); an unknown model is estimated from what the driver says of it.
"""

from __future__ import annotations

# The longest matching name wins: "A100-SXM" before "A100".
DENSE_FP16_TFLOPS: dict[str, float] = {
    "Tesla T4": 65,
    "V100": 125,
    "A2": 18,
    "A10": 125,
    "A16": 18,
    "A30": 165,
    "A40": 150,
    "A100": 312,
    "L4": 121,
    "L40": 181,
    "L40S": 362,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "B200": 2250,
    "RTX A4000": 77,
    "RTX A5000": 111,
    "RTX A6000": 155,
    "RTX 6000 Ada": 364,
    "RTX 2080 Ti": 54,
    "RTX 3090": 71,
    "RTX 4090": 165,
    "RTX 5090": 210,
}


def dense_fp16_tflops(model: str, multiprocessors: int, clock_mhz: float) -> float:
    """TFLOPS of ``model``.

    An unknown model is counted as 1,024 FP16 operations per multiprocessor and clock, as the
    tensor cores of Volta and Ampere do.
    """
    words = model.replace("-", " ")
    matches = [name for name in DENSE_FP16_TFLOPS if f" {name} " in f" {words} "]
    if matches:
        return DENSE_FP16_TFLOPS[max(matches, key=len)]
    return round(multiprocessors * clock_mhz * 1e6 * 1024 / 1e12, 1)
