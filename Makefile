# Extra options of "make demo", for egs2/librispeech_100/asr1/run.sh.
DEMO_OPTS ?=
# Options of pytest in "make test".
PYTEST_OPTS ?=
# Options of "make gpu-figures", for espnet_hjprune/bin/gpu_figures.py.
FIGURES_OPTS ?=

BIN := tools/venv/bin
SHELL_SCRIPTS = .ci/run $(shell find . \
	\( -path ./tools/venv -o -path ./tools/src -o -path ./.git -o -name downloads -o -name exp \) \
	-prune -o -type f -name '*.sh' -print)

.PHONY: help setup demo test test-killed test-recipes test-untidy test-environment test-newer-torch gpu-figures lint clean

help:
	@echo "make setup  install everything into tools/venv (needs network the first time)"
	@echo "make demo   prune a small model on a synthetic corpus; DEMO_OPTS='--ngpu 1' adds options"
	@echo "make test   check the style and run the tests; PYTEST_OPTS='-k tokens' adds options"
	@echo "make test-killed       kill a recipe at 20 moments and compare what a second run makes (30 min)"
	@echo "make test-recipes      run recipes to their ends: TED-LIUM 2, SLURP, Kaldi's data, a sweep, the guide's (12 min)"
	@echo "make test-untidy       format 5000 odd data directories (10 min)"
	@echo "make test-environment  run a recipe in a path with blanks, without a home directory (10 min)"
	@echo "make test-newer-torch  compare upstreams under a newer torch (3 GB more to install)"
	@echo "make gpu-figures  measure speed and memory on a GPU; FIGURES_OPTS='--output DIR' adds options"
	@echo "make lint   check the style only"
	@echo "make clean  remove the environment and what the demo made"

setup:
	tools/setup.sh

demo: setup
	cd egs2/librispeech_100/asr1 && ./run.sh --mini true $(DEMO_OPTS)

lint: setup
	shellcheck --external-sources --source-path=egs2/librispeech_100/asr1 $(SHELL_SCRIPTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python3 -m pytest --numprocesses 2 --dist loadfile --hypothesis-profile fixed $(PYTEST_OPTS)

test-killed: setup
	$(BIN)/python3 -m pytest -m slow --numprocesses 2 --dist load test/test_recipe_killed.py $(PYTEST_OPTS)

test-recipes: setup
	$(BIN)/python3 -m pytest -m slow --numprocesses 2 --dist load test/test_add_a_recipe.py \
		test/test_recipe_end_to_end.py test/test_recipe_kaldi_data.py \
		test/test_recipe_slurp_end_to_end.py test/test_recipe_tedlium2_end_to_end.py $(PYTEST_OPTS)

test-untidy: setup
	$(BIN)/python3 -m pytest -m slow test/test_untidy_data.py $(PYTEST_OPTS)

test-environment: setup
	$(BIN)/python3 -m pytest -m slow test/test_environment.py $(PYTEST_OPTS)

test-newer-torch: setup
	tools/newer_torch.sh

gpu-figures: setup
	$(BIN)/python3 -m espnet_hjprune.bin.gpu_figures $(FIGURES_OPTS)

clean:
	rm -rf tools/venv tools/src tools/setup.done
	rm -rf egs2/*/*1/data egs2/*/*1/dump egs2/*/*1/exp egs2/*/*1/downloads/mini
