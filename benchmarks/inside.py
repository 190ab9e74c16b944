"""One trial through the harness's Runner, on two ranks, as one JSON line: the other side of plain.py.

python benchmarks/inside.py --plan '{"data_parallel": "zero2", "bucket_mb": 8.0}'
"""

from __future__ import annotations

import json

import common

if __name__ == "__main__":
    given = common.arguments(__doc__, plan="{}", workload="gpt-nano", seconds=2.5)
    with common.runner(given.workload, seconds=given.seconds) as (runner, experiment):
        print(json.dumps(common.run_trial(runner, experiment, json.loads(given.plan))))
