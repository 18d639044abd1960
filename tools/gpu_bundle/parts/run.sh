#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Needs a Python >= 3.10 and an NVIDIA driver; NumPy for all but the ceilings; PyTorch for the peers.
here=$(cd "$(dirname "$0")" && pwd)
for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
  if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    export PYTHONPATH="$here:$here/site" PYTHONDONTWRITEBYTECODE=1
    "$python" -m parts.unpack || exit
    exec "$python" -m parts.main "$@"
  fi
done
echo "no Python >= 3.10 was found; name one: PYTHON=/path/to/python3 bash run.sh" >&2
exit 4
