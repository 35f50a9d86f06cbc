"""Cut the demo's part of Fashion-MNIST from the splits of the full task and write it into the package.

    python scripts/make_demo_data.py

The first 2,000 test images, 1,000 validation images and the 512 calibration images, in the splits' own order.
"""

from pathlib import Path

import numpy as np

from packlight.task import ArrayData, Task

SIZES = {"test": 2000, "validation": 1000, "calibration": 512}

task = Task.named("fashion-mnist")
arrays = {}
for split, size in SIZES.items():
    data = task.data(split)
    assert isinstance(data, ArrayData) and data.targets is not None
    arrays[f"{split}_x"] = data.inputs[0][:size, 0]
    arrays[f"{split}_y"] = data.targets[:size].astype(np.uint8)
out = Path("packlight/data/fashion_mnist_demo.npz")
np.savez_compressed(out, **arrays)
print(f"wrote {out}: {out.stat().st_size:,} bytes")
