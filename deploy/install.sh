#!/bin/sh
# Installs calltag into a folder of its own, from the source in the current folder, without leaving tools behind:
#   deploy/install.sh packages /opt/calltag   the packages of requirements-run.lock, into a new environment
#   deploy/install.sh calltag /opt/calltag    calltag itself, as a wheel
# PYTHON names another interpreter than python3. The image is made by these two steps.
set -eu

[ $# = 2 ] || { echo "usage: deploy/install.sh packages|calltag FOLDER" >&2; exit 2; }
folder=$2
python=${PYTHON:-python3}
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

"$python" -m venv "$tools/venv"
pip="$tools/venv/bin/pip --quiet"
case $1 in
packages)
  "$python" -m venv --without-pip "$folder"
  $pip --python "$folder/bin/python" install --only-binary :all: --require-hashes -r requirements-run.lock
  ;;
calltag)
  $pip install --only-binary :all: --require-hashes -r requirements-build.lock
  $pip wheel --no-deps --no-build-isolation --wheel-dir "$tools" .
  $pip --python "$folder/bin/python" install --no-deps --no-index "$tools"/calltag-*.whl
  ;;
*)
  echo "deploy/install.sh: there is no step '$1'; the steps are packages and calltag" >&2
  exit 2
  ;;
esac
