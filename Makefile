# slurm-cmeta
#
#   make demo      show it on a throw-away Slurm cluster on this machine
#   make test      all checks and tests, those on real clusters included (SUITE=bookworm|trixie)
#   make matrix    the tests on real clusters of Slurm 22.05, 24.11 and 26.05 (CASES=5000 for more)
#   make bench     measure what a submission and reading an image cost (ARGS=--quick for a try)
#   make fuzz      inspect damaged images for five minutes (ARGS="--seconds 60 --deep")
#   make install   install it here (PREFIX=/usr/local PLUGINDIR=... DESTDIR=...)
#   make clean     remove what demo and test have made
#
# demo and test need root, git, make and python3, and Debian 12 or 13. Everything else lies in a
# Debian root below .build/, made at the first run; nothing outside this folder is changed.

SUITE   ?=
PREFIX  ?= /usr/local
DESTDIR ?=
PYTHON  ?= $(firstword $(wildcard /usr/bin/python3) python3)
ARGS    ?=

ROOT_TOOL = python3 tests/tools/root.py
ONE       = $(if $(SUITE),--suite $(SUITE))
LIBDIR    = $(PREFIX)/lib/slurm-cmeta
MANDIR    = $(PREFIX)/share/man
COMMANDS  = cmeta:main cmeta-features:features

.PHONY: all demo test matrix bench fuzz lint check install clean
all:
	@sed -n 's/^#   //p' Makefile

demo:
	@$(ROOT_TOOL) make $(ONE)
	@$(ROOT_TOOL) run $(ONE) -- python3 tests/tools/demo.py

# All checks in the root of one release, and the tests on a real cluster in those of the others: among
# them are a Slurm without and one with an oci.conf that takes SIF files.
test:
	@$(ROOT_TOOL) make $(ONE)
	@$(ROOT_TOOL) run $(ONE) -- python3 tests/tools/check.py lint unit slurm $(ARGS)
	@python3 tests/tools/matrix.py --but-first $(ONE) bookworm trixie sid

# The tests on a real cluster, on Slurm 22.05, 24.11 and 26.05: CASES generated clusters each, SEED=N for
# others.
matrix: export CASES ?= 300
matrix:
	@python3 tests/tools/matrix.py bookworm trixie sid

# The figures are printed, and kept in .build/bench.json.
bench:
	@$(ROOT_TOOL) make $(ONE)
	@$(ROOT_TOOL) run $(ONE) -- python3 tests/tools/check.py bench $(ARGS)

fuzz:
	@$(ROOT_TOOL) make $(ONE)
	@$(ROOT_TOOL) run $(ONE) -- python3 tests/tools/check.py fuzz $(ARGS)

lint:
	@$(ROOT_TOOL) make $(ONE)
	@$(ROOT_TOOL) run $(ONE) -- python3 tests/tools/check.py lint

# What `make test` runs inside the root: for a machine that has all that the tests use.
check:
	@python3 tests/tools/check.py lint unit slurm $(ARGS)

# The package is pure Python: it is copied and compiled, without pip and without a network. It runs on
# the system's Python in isolated mode (cmeta-decide without `site`, which takes a tenth of its time);
# PyYAML (python3-yaml) is needed only where there is a cmeta.yaml.
install:
	install -d $(DESTDIR)$(LIBDIR) $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/slurm-cmeta
	rm -rf $(DESTDIR)$(LIBDIR)/slurm_cmeta
	cp -R slurm_cmeta $(DESTDIR)$(LIBDIR)/
	find $(DESTDIR)$(LIBDIR) -name __pycache__ -prune -exec rm -rf {} +
	$(PYTHON) -m compileall -q -s '$(DESTDIR)' -p / $(DESTDIR)$(LIBDIR)
	script() { \
	  printf '#!%s %s\nimport sys\nsys.path.insert(0, "%s")\nfrom slurm_cmeta.cli.%s\n' \
	    "$$($(PYTHON) -c 'import sys; print(sys.executable)')" "$$2" '$(LIBDIR)' "$$3" > '$(DESTDIR)$(PREFIX)/bin/'"$$1"; \
	  chmod 755 '$(DESTDIR)$(PREFIX)/bin/'"$$1"; \
	}; \
	for name in $(COMMANDS); do script "$${name%:*}" -I "$${name#*:} import main; sys.exit(main())"; done; \
	script cmeta-decide -IS "decide import run; run()"
	install -m 644 lua/cmeta.lua lua/cmeta_expression.lua lua/cmeta_log.lua lua/cmeta_nodes.lua \
	  $(DESTDIR)$(PREFIX)/share/slurm-cmeta/
	for section in 1 5 8; do \
	  install -d $(DESTDIR)$(MANDIR)/man$$section; \
	  install -m 644 docs/man/*.$$section $(DESTDIR)$(MANDIR)/man$$section/; \
	done
	$(MAKE) -C spank install PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)

clean:
	rm -rf .build .demo spank/build
