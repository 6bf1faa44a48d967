"""Stands for the guest in tests of the body alone: runs what it is asked to and answers."""

import ctypes
import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading


def serve(connection):
    with connection, connection.makefile("rwb") as stream:
        line = stream.readline()
        if not line:
            return
        asked = json.loads(line)
        try:
            done = subprocess.run(
                asked["argv"], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
            answer = {"code": done.returncode, "said": done.stdout.decode(errors="replace")}
        except OSError as error:
            answer = {"code": 127, "said": str(error)}
        stream.write(json.dumps(answer).encode())


def main():
    boot = json.loads(pathlib.Path(sys.argv[1]).read_text())
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listener = socket.create_server(tuple(boot["listen"]), backlog=128)
    print("listening", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


main()
