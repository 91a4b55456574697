"""One request to a host, and the line that answers it."""

from __future__ import annotations

import json
import sys

from lmx.launch.agent.process import Refused, stop, sweep
from lmx.launch.agent.progress import fetch
from lmx.launch.agent.ready import probe, setup, unpack
from lmx.launch.agent.supervisor import start
from lmx.launch.agent.view import poll

ACTIONS = {f.__name__: f for f in (start, poll, fetch, stop, sweep, probe, unpack, setup)}


def main(request, data=b""):
    """Does what the request asks; the answer is one line of JSON on standard output."""
    try:
        if data:
            request["with"]["data"] = data
        answer = {"answer": ACTIONS[request["do"]](**request["with"])}
    except Refused as error:
        answer = {"error": str(error)}
    except OSError as error:
        answer = {"error": f"{error.strerror or error}: {error.filename or ''}"}
    sys.stdout.write("\nlmx-agent " + json.dumps(answer) + "\n")
    sys.stdout.flush()
