# `make demo` and `make test` do all the set-up on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
DEMO_STAMP := .venv/.installed-demo
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO ?= demo
PUBLIC_SET ?= ../shared/data

.DEFAULT_GOAL := help
.PHONY: help demo test check stubs docs bench clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

# The version of torch is named: a looser request brings gigabytes of CUDA on some machines.
$(DEMO_STAMP): pyproject.toml constraints.txt
	@echo "Setting up .venv (a few minutes the first time)"
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e '.[phantom]'
	@touch $@

$(STAMP): $(DEMO_STAMP)
	@echo "Adding the developers' tools to .venv"
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(DEMO_STAMP)  ## phantom data, training, evaluation, Grad-CAM: images in minutes, in demo/
	@mkdir -p $(DEMO)
	$(BIN)/tumorlens phantom --out $(DEMO)/data --train 200 --valid 40 --test 60
	$(BIN)/python train.py --model se_resnet18 --data_dir $(DEMO)/data --out_dir $(DEMO)/model --epochs 10
	$(BIN)/python evaluate.py --checkpoint $(DEMO)/model/best_model.pt
	$(BIN)/python gradcam.py --checkpoint $(DEMO)/model/best_model.pt --class glioma
	$(BIN)/python gradcam.py --checkpoint $(DEMO)/model/best_model.pt --count 8 --boxes $(DEMO)/data/masks --out_dir $(DEMO)/model/gradcam_masks
	@echo
	@echo "Images to look at:"
	@ls $(DEMO)/model/runs/*/training_curves.png $(DEMO)/model/evaluation/*.png $(DEMO)/model/gradcam*/*.png | sed 's/^/  /'

test: check  ## lint, types and all tests
	$(BIN)/pytest -n 2 --durations=5

check: $(STAMP)  ## lint, format, strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

stubs: $(STAMP)  ## write the signatures that editors read, from the settings
	$(BIN)/python tools/write_stubs.py

docs: $(STAMP)  ## write the generated pages, and build the site in build/site
	$(BIN)/python tools/write_reference.py
	$(BIN)/python tools/write_numbers.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open build/site/index.html"

bench: $(STAMP)  ## measure speed against peers (needs the extra `bench`)
	$(PIP) -e '.[bench]'
	$(BIN)/python benchmarks/augmentation_vs_kornia.py
	$(BIN)/python benchmarks/fingerprint_scale.py
	@if [ -d $(PUBLIC_SET) ]; then for name in audit_vs_imagehash same_picture; do \
	  $(BIN)/python benchmarks/$$name.py $(PUBLIC_SET)/brain-tumor-mri $(PUBLIC_SET)/annotations_training.csv || exit 1; done; \
	else echo "No public set in $(PUBLIC_SET) (name it by PUBLIC_SET=...): the audit's benchmarks are left out."; fi

clean:  ## remove the environment and the demo
	rm -rf .venv $(DEMO)
