#!/usr/bin/env python3
"""Runs a command that has to end with a certain exit status:

    exits.py STATUS COMMAND...

Its output passes through; another status is a failure that names both.
"""

import subprocess
import sys

status = subprocess.run(sys.argv[2:]).returncode
if status != int(sys.argv[1]):
    sys.exit(f"exit status {status}, {sys.argv[1]} is expected")
