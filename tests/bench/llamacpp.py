"""llama.cpp's own HTTP server on a GGUF file, from the wheel `xllamacpp`: what a CPU user would pick instead."""

import argparse
import os
import signal
import threading

import xllamacpp

from bench.servers import MAX_RUNNING

#: Tokens a sequence may hold; the same as the CPU profile's --max-model-len.
CONTEXT_TOKENS = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.hostnames = ["127.0.0.1"]
    params.port = args.port
    params.n_parallel = MAX_RUNNING
    params.n_ctx = CONTEXT_TOKENS * MAX_RUNNING
    params.cpuparams.n_threads = os.cpu_count() or 1
    params.cpuparams_batch.n_threads = os.cpu_count() or 1
    server = xllamacpp.Server(params)
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    done.wait()
    del server
    os._exit(0)


if __name__ == "__main__":
    main()
