"""Start a training as several processes that share its batches.

Each process finds its place in TF_CONFIG, which TensorFlow reads:

    {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}

`launch` sets it for processes of this machine. On several machines, set it yourself and start
the same command on each one, with the same seed and data; only worker 0 needs its folder.

    ssh          one command for each host, with its index:
                 ssh host1 "cd PLACE && TF_CONFIG='{...\"index\": 1}}' tfgpt train ... --resume"
    Slurm        srun --kill-on-bad-exit=1 --ntasks-per-node=1 bash -c '...': hosts from
                 `scontrol show hostnames $SLURM_JOB_NODELIST`, index $SLURM_PROCID;
                 sbatch --requeue starts the job again.
    Kubernetes   a JobSet with one indexed Job of N pods and a failurePolicy with maxRestarts:
                 hosts JOBSET-JOB-0-0.JOBSET, JOBSET-JOB-0-1.JOBSET, ..., index
                 $JOB_COMPLETION_INDEX.

If a machine is lost, the others stop with an error; the job is started again as a whole, and
goes on from the last checkpoint.
"""

import contextlib
import json
import os
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
