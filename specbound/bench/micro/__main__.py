"""Small measurements behind figures of the documentation: `python -m specbound.bench.micro <name>`, one table each.

Everything of one table is timed in one process, interleaved; medians. Set OMP_NUM_THREADS=1 and keep the machine quiet.
"""

from typing import Any

import torch
from jsonargparse import auto_cli

from specbound.bench.micro.draft_vocabulary import draft_vocabulary
from specbound.bench.micro.overhead import overhead
from specbound.bench.micro.products import products
from specbound.bench.micro.replay import replay
from specbound.bench.micro.sampling import sampling
from specbound.bench.micro.segments import segments

MEASUREMENTS: dict[str, Any] = {
    "replay": replay,
    "draft-vocabulary": draft_vocabulary,
    "overhead": overhead,
    "products": products,
    "sampling": sampling,
    "segments": segments,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    auto_cli(MEASUREMENTS)
