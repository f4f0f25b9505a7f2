# SPDX-License-Identifier: Apache-2.0
# `make demo`, `make test`, `make lint`: each sets up .venv first. Needs Python 3.10 to 3.13 with
# venv, a C and C++ compiler, and for `make test` cmake.

PYTHON ?= python3
VENV ?= .venv
# Only installed where there is no PyTorch yet: another version, or one for another CUDA, is kept.
TORCH ?= torch==2.13.0
# A ground station for the tests. What it asks for beside pymavlink is for its windows, an OpenCV
# among it that would take the place of ours.
MAVPROXY ?= MAVProxy==1.8.75

# Set by the Python of another virtual environment (if make was started from one); the ROS wheels'
# start-up hook would take it for its own and leave this environment's libraries unfound.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
# Copied into the environment, or generated from: `pip install -e` has to run again when they change.
INSTALLED := $(wildcard msg/*.msg srv/*.srv third_party/*/msg/*.msg launch/*.py config/*.* config/*/*.*)

.PHONY: setup demo test lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py interfaces_build.py package.xml $(INSTALLED)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install '$(TORCH)'
	$(BIN)/pip install -e '.[tools,train,plot,station,video,mavlink,test]'
	$(BIN)/pip install --no-deps '$(MAVPROXY)'
	touch $@

demo: setup
	$(BIN)/python -m mlkd_ros.simulation.demo --output demo --force

# What only computes, on every core; then what runs real processes against the clock, one by one.
COMPUTING := test/data test/distillation test/evaluation test/tracking
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto $(COMPUTING); computed=$$?; \
	$(BIN)/python -m pytest $(addprefix --ignore=,$(COMPUTING)) && exit $$computed

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info demo
