"""Start a training as several processes that share its batches.

Each process finds its place in TF_CONFIG, which TensorFlow reads:

    {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}

`launch` sets it for processes of this machine. On several machines, set it yourself and start
the same command on each one, with the same options and texts; only worker 0 needs its folder.
If a machine is lost, the others stop with an error; the job is started again as a whole, and
goes on from the last checkpoint. TRAIN below is `tfgpt train --corpus my_texts --steps 10000
--out runs/mine --resume`.

ssh: a line for each host, here for two.

    CLUSTER='"cluster": {"worker": ["host0:2222", "host1:2222"]}'
    TASK='"task": {"type": "worker", "index":'
    for I in 0 1; do ssh host$I "cd $PWD; TF_CONFIG='{$CLUSTER, $TASK $I}}' TRAIN" & done; wait

Slurm: `sbatch train.sh`, one process on each machine; see `slurm_config`.

    #!/bin/bash
    #SBATCH --nodes=4 --ntasks-per-node=1 --requeue
    export PLACE="from tfgpt.tasks.launch import slurm_config; print(slurm_config())"
    srun --kill-on-bad-exit=1 bash -c 'TF_CONFIG=$(python -c "$PLACE") TRAIN'

Kubernetes: `kubectl apply -f train.yaml`, here for two pods, with JobSet installed; /data is on a
disk that both see.

    apiVersion: jobset.x-k8s.io/v1alpha2
    kind: JobSet
    metadata: {name: mine}
    spec:
      failurePolicy: {maxRestarts: 3}
      replicatedJobs:
      - name: worker
        template:
          spec:
            parallelism: 2
            completions: 2
            completionMode: Indexed
            backoffLimit: 0
            template:
              spec:
                restartPolicy: Never
                volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
                containers:
                - name: train
                  image: IMAGE
                  workingDir: /data
                  volumeMounts: [{name: data, mountPath: /data}]
                  command: [bash, -c]
                  args:
                  - >-
                    export TF_CONFIG='{"cluster": {"worker": ["mine-worker-0-0.mine:2222",
                    "mine-worker-0-1.mine:2222"]}, "task": {"type": "worker",
                    "index": '$JOB_COMPLETION_INDEX'}}'; TRAIN
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from tfgpt.machine.devices import find_nvidia_gpus
from tfgpt.signals import on_main_thread
from tfgpt.validation import check_integer, check_positive

PAUSE = 0.05  # seconds between two looks at the processes


def launch(command, processes=2, *, restarts=0, restart_option="--resume", patience=30.0):
    """Run a command in several processes of this machine, as the workers of one training.

    Their output passes through with [0], [1], ... before each line. When one fails, the
    others are stopped; with restarts, all are started again. SIGTERM and Ctrl-C reach
    worker 0 first, which writes the checkpoint, then the others. With NVIDIA GPUs, each
    process gets its share of them.

    Args:
        command: list of str, the program and its arguments.
        processes: int >= 1.
        restarts: int >= 0, how often all are started again after a failure.
        restart_option: str, added to the command from the second start on; None: nothing.
        patience: float > 0, seconds from SIGTERM to SIGKILL.

    Returns:
        int: 0, or the exit code of the process that failed first, 128 + n for signal n.

    Raises:
        ValueError: if an argument is outside its range, or there are GPUs, but fewer than
            processes.

    Example:
        >>> launch([sys.executable, "-c", "import sys; sys.exit(3)"], processes=1)
        3
    """
    check_positive("processes", processes)
    check_integer("restarts", restarts, minimum=0)
    if not patience > 0:
        raise ValueError(f"patience must be > 0, got {patience!r}.")
    gpus = share_gpus(visible_gpus(), processes)
    with caught_signals() as received:
        for attempt in range(restarts + 1):
            if attempt:
                say(f"Starting again: {attempt} of {restarts} restarts.")
            again = [restart_option] if attempt and restart_option else []
            added = [option for option in again if option not in command]
            code = run_once([*command, *added], processes, gpus, patience, received)
            if code == 0 or received:
                break
    return code


def run_once(command, processes, gpus, patience, received):
    """Start all processes, wait for their end, and return the first exit code that is not 0."""
    environments = [
        {**os.environ, **gpu, "TF_CONFIG": tf_config}
        for gpu, tf_config in zip(gpus, tf_configs(processes), strict=True)
    ]
    workers, readers = [], []
    try:
        for environment in environments:
            workers.append(start(command, environment))
            readers += pass_on(len(workers) - 1, workers[-1])
        failed = wait_for_end(workers, received)
        if received:
            say(f"{signal.Signals(received[0]).name} came: worker 0 is stopped, then the others.")
            stop(workers[:1], received[0], patience)
        elif failed is not None:
            say(f"Worker {failed} {describe(workers[failed])}: the others are stopped.")
    finally:
        stop(workers, signal.SIGTERM, patience)
    for reader in readers:
        reader.join(patience)
    codes = [exit_code(worker) for worker in workers]
    if received:
        return next((code for code in codes if code), 128 + received[0])
    return 0 if failed is None else codes[failed]


def start(command, environment):
    """Start one process in a session of its own: a Ctrl-C of the terminal does not reach it."""
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for_end(workers, received):
    """Wait until all ended well, one failed, or a signal came; return the failed one or None."""
    while not received:
        codes = [worker.poll() for worker in workers]
        failed = next((index for index, code in enumerate(codes) if code), None)
        if failed is not None or None not in codes:
            return failed
        time.sleep(PAUSE)
    return None


def stop(workers, number, patience):
    """Send a signal to the processes that still run; after `patience` seconds, SIGKILL."""
    for worker in workers:
        send(worker, number)
    deadline = time.monotonic() + patience
    for worker in workers:
        try:
            worker.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            send(worker, signal.SIGKILL)
            worker.wait()


def send(worker, number):
    """Send a signal to a process and those that it started, if it still runs."""
    if worker.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, number)


def exit_code(worker):
    """Return the exit code of an ended process as a shell gives it."""
    return worker.returncode if worker.returncode >= 0 else 128 - worker.returncode


def describe(worker):
    """Say how a process failed."""
    if worker.returncode < 0:
        return f"was killed by {signal.Signals(-worker.returncode).name}"
    return f"ended with exit code {worker.returncode}"


def say(text):
    """Print a line of the launcher itself."""
    print(f"[launch] {text}", file=sys.stderr, flush=True)


def pass_on(index, worker):
    """Copy the output of a process to ours, each line with its number; return the threads."""

    def copy(source, target):
        for line in source:
            print(f"[{index}] {line.decode('utf-8', 'replace')}", end="", file=target, flush=True)

    pairs = ((worker.stdout, sys.stdout), (worker.stderr, sys.stderr))
    threads = [threading.Thread(target=copy, args=pair, daemon=True) for pair in pairs]
    for thread in threads:
        thread.start()
    return threads


@contextlib.contextmanager
def caught_signals():
    """Collect SIGTERM and SIGINT inside the block in place of ending: a list of numbers."""
    received, handlers = [], {}
    if on_main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            handlers[number] = signal.signal(number, lambda n, frame: received.append(n))
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def tf_configs(processes):
    """Write the TF_CONFIG of each process of this machine, on ports that are free now."""
    sockets = [socket.socket() for _ in range(processes)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]}
    for each in sockets:
        each.close()
    return [
        json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        for index in range(processes)
    ]


def slurm_config(environment=os.environ, port=2222):
    """Write the TF_CONFIG of a process that `srun` has started, one on each machine.

    Args:
        environment: dict with SLURM_STEP_NODELIST and SLURM_PROCID.
        port: int, that is free on all machines.

    Returns:
        str, JSON.

    Raises:
        KeyError: if `srun` has not started this process.

    Example:
        >>> slurm_config({"SLURM_STEP_NODELIST": "a[1-2]", "SLURM_PROCID": "1"})
        '{"cluster": {"worker": ["a1:2222", "a2:2222"]}, "task": {"type": "worker", "index": 1}}'
    """
    hosts = expanded_hosts(environment["SLURM_STEP_NODELIST"])
    index = int(environment["SLURM_PROCID"])
    cluster = {"worker": [f"{host}:{port}" for host in hosts]}
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})


def expanded_hosts(names):
    """List the hosts that Slurm writes as ranges.

    Example:
        >>> expanded_hosts("a1,b[08-10,12]")
        ['a1', 'b08', 'b09', 'b10', 'b12']
    """
    found = []
    for name in re.findall(r"[^,\[]+(?:\[[^\]]*\])?", names):
        start, _, ranges = name.rstrip("]").partition("[")
        for part in ranges.split(","):
            low, _, high = part.partition("-")
            numbers = range(int(low), int(high or low) + 1) if low else [""]
            found += [f"{start}{str(number).zfill(len(low))}" for number in numbers]
    return found


def visible_gpus():
    """List the names of the NVIDIA GPUs that a process started now would see."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name not in ("", "-1")]
    return [str(index) for index in range(len(find_nvidia_gpus()["gpus"]))]


def share_gpus(gpus, processes):
    """Give each process its share of the GPUs.

    Args:
        gpus: list of str, names of GPUs.
        processes: int >= 1.

    Returns:
        list of dicts, the environment variable of each process; empty without GPUs.

    Raises:
        ValueError: if there are GPUs, but fewer than processes.

    Example:
        >>> share_gpus(["0", "1", "2", "3"], processes=2)
        [{'CUDA_VISIBLE_DEVICES': '0,2'}, {'CUDA_VISIBLE_DEVICES': '1,3'}]
    """
    if not gpus:
        return [{} for _ in range(processes)]
    if len(gpus) < processes:
        raise ValueError(
            f"processes must be at most the number of GPUs, {len(gpus)}, got {processes}: use "
            "fewer, or set CUDA_VISIBLE_DEVICES=-1 to train on the CPU."
        )
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index::processes])} for index in range(processes)
    ]
