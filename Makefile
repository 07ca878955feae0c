# The project's habits. 'make demo' needs nothing but git, make and Python 3.11 or newer on Linux; it makes its own .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV ?= .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
# Quiet and private: no usage statistics, no compiling at first use, no warnings of libraries about one another.
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export GLOG_minloglevel := 2
export TF_CPP_MIN_LOG_LEVEL := 3
export PYTHONWARNINGS := ignore

.PHONY: help demo test lint format wheel clean system
.NOTPARALLEL:

help:
	@echo 'make demo    the whole chain on a small sample, into ./demo (11 to 18 minutes on 2 cores, installation included)'
	@echo 'make test    the full test suite'
	@echo 'make lint    ruff and pyrefly'
	@echo 'make format  ruff, changing files'
	@echo 'make wheel   a wheel, into ./dist'
	@echo 'make clean   removes ./demo, ./dist and caches (not $(VENV))'

# ---- set-up

system:
	@.ci/system

$(VENV)/.installed: pyproject.toml .ci/python
	@.ci/system
	@echo 'Installing into $(VENV): about 3.6 GB to download (most of it PyTorch with CUDA), 7 GB on disk, 3 to 5 minutes.'
	@[ -x $(VENV)/bin/pip ] || { python=$$(.ci/python) && "$$python" -m venv $(VENV); }
	@# modules are compiled when they are first imported: 20,000 of them at once take longer than unpacking does
	@pip install --disable-pip-version-check --no-compile -e '.[dev]' > $(VENV)/pip.log 2>&1 \
	    || { tail -n 15 $(VENV)/pip.log; echo 'make: the installation failed; all of it: $(VENV)/pip.log'; exit 1; }
	@touch $@

# ---- habits

test: $(VENV)/.installed
	@.ci/system tests
	python -m pytest -n auto --maxprocesses 8 --dist loadfile

lint: $(VENV)/.installed
	ruff check .
	ruff format --check .
	pyrefly check --summary=none

format: $(VENV)/.installed
	ruff check --fix .
	ruff format .

wheel: $(VENV)/.installed
	python -m build --wheel --no-isolation

clean:
	rm -rf demo dist build .pytest_cache .ruff_cache .hypothesis

# ---- the demo: the commands that a user types, each printed before it runs; what is done is not done again

demo: demo/.slurm demo/.extract demo/.shortcut
	@echo
	@echo 'What the demo made:'
	@echo '  demo/scenes              generated interaction scenes: videos, manifest.csv, labels.csv'
	@echo '  demo/shards, demo/real   their shards and those of two real videos; open report.html in either'
	@echo '  demo/run                 pretraining: metrics.csv, reconstructions.png'
	@echo '  demo/release             the folder for collaborators: weights, config, model card, checksums'
	@echo '  demo/gesture             fine-tuned: which gesture; report.md, report.png'
	@echo '  demo/carphone.parquet    features of a real video with time stamps'
	@echo '  demo/shortcut            table.md: pretrained against untrained, colours that tell the label or reversed'

demo/.sample: | $(VENV)/.installed
	@mkdir -p demo
	kinesic data_prep sample demo/videos
	@touch $@

demo/.scenes: | $(VENV)/.installed
	@mkdir -p demo
	kinesic data_prep synthetic demo/scenes --config demo_scenes
	@touch $@

demo/.shards: demo/.scenes
	kinesic data_prep build demo/scenes/manifest.csv demo/shards --config demo
	kinesic data_prep report demo/shards
	@touch $@

demo/.real: demo/.sample
	kinesic data_prep build demo/videos demo/real --clip_seconds 4
	kinesic data_prep report demo/real
	@touch $@

demo/.run: demo/.shards
	torchrun --standalone --nproc_per_node 2 -m pretrain run --config demo --data.shards demo/shards --out demo/run
	@touch $@

demo/.release: demo/.run
	rm -rf demo/release
	kinesic pretrain release demo/run demo/release
	@touch $@

demo/.gesture: demo/.release
	kinesic finetune run --config demo --encoder demo/release --data demo/shards --labels demo/scenes/labels.csv --target gesture --out demo/gesture
	@touch $@

demo/.extract: demo/.gesture demo/.real
	kinesic finetune extract --encoder demo/release demo/videos/carphone_pristine.mp4 --out demo/carphone.parquet
	@touch $@

demo/.slurm: demo/.run
	kinesic slurm pretrain --nodes 2 --config demo --data.shards demo/shards --out demo/run --dry_run
	@touch $@

demo/.shortcut: demo/.gesture
	python -m benchmarks.shortcut --release demo/release --shards demo/shards --labels demo/scenes/labels.csv --out demo/shortcut
	@touch $@
