"""Stand-ins of SLURM's commands: `srun` starts tasks, `scontrol requeue` leaves a file.

srun [FLAGS] COMMAND: one task for each of SLURM_NTASKS, on SLURM_NNODES machines, which are all this
one. If STOP_AFTER is set, the tasks get SIGUSR1 at the first line of the output with this text.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path


def srun(words):
    while words[0].startswith("--"):
        words = words[1:]
    n_tasks, n_nodes = (int(os.environ[f"SLURM_{name}"]) for name in ("NTASKS", "NNODES"))
    per_node, tasks = n_tasks // n_nodes, []
    for i in range(n_tasks):
        place = {"PROCID": i, "NODEID": i // per_node, "LOCALID": i % per_node, "STEP_ID": 0}
        place |= {"STEP_NUM_TASKS": n_tasks, "STEP_NODELIST": "localhost"}
        place["STEP_TASKS_PER_NODE"] = f"{per_node}(x{n_nodes})" if n_nodes > 1 else per_node
        env = os.environ | {f"SLURM_{name}": str(value) for name, value in place.items()}
        pipe = subprocess.PIPE if i == 0 else None
        tasks.append(subprocess.Popen(words, env=env, stdout=pipe, text=True))
    stop_after = os.environ.get("STOP_AFTER")
    for line in tasks[0].stdout:
        print(line, end="", flush=True)
        if stop_after and stop_after in line:
            stop_after = None
            for task in tasks:
                task.send_signal(signal.SIGUSR1)
    return max(code if (code := task.wait()) >= 0 else 128 - code for task in tasks)


def install(folder):
    """Write the commands into a folder; return its path."""
    folder.mkdir()
    for name in ("srun", "scontrol"):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


if __name__ == "__main__":
    if sys.argv[1] == "srun":
        sys.exit(srun(sys.argv[2:]))
    Path(os.environ["REQUEUED"]).write_text(" ".join(sys.argv[2:]))
