# slurm-cmeta
#
#   make demo      show it on a throw-away Slurm cluster on this machine
#   make test      all checks and tests, those on real clusters included (SUITE=bookworm|trixie)
#   make matrix    the tests on real clusters of Slurm 22.05, 24.11 and 26.05 (CASES=5000 for more)
#   make bench     measure what a submission and reading an image cost (ARGS=--quick for a try)
#   make fuzz      inspect damaged images for five minutes (ARGS="--seconds 60 --deep")
#   make install   install it here (PREFIX=/usr/local PLUGINDIR=... DESTDIR=...)
#   make deb       Debian packages for the Slurm found, in dist/
#   make rpm       RPM packages for the Slurm found, in dist/
#   make man       renew the options and keys in the man pages
#   make clean     remove what demo, test and packaging have made
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
COMMANDS  = cmeta:main cmeta-features:features

# Where `make install` puts things; the plugin's places are in spank/Makefile (PLUGINDIR, LIBEXECDIR).
BINDIR      = $(PREFIX)/bin
LIBDIR      = $(PREFIX)/lib/slurm-cmeta
LUADIR      = $(PREFIX)/share/slurm-cmeta
MANDIR      = $(PREFIX)/share/man
DOCDIR      = $(PREFIX)/share/doc/slurm-cmeta
UNITDIR     = $(PREFIX)/lib/systemd/system
BASHCOMPDIR = $(PREFIX)/share/bash-completion/completions
ZSHCOMPDIR  = $(PREFIX)/share/zsh/site-functions
FISHCOMPDIR = $(PREFIX)/share/fish/vendor_completions.d
export BINDIR

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' slurm_cmeta/__init__.py)
# What packages are built of; .build and the tests' leavings are not.
SOURCES = Makefile MANIFEST.in pyproject.toml README.md CHANGELOG.md CONTRIBUTING.md LICENSE \
          slurm_cmeta spank lua etc docs debian packaging
WORK = .build/packages
DIST = dist

.PHONY: all demo test matrix bench fuzz lint check install install-plugin install-common sources \
        deb rpm man clean
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

# Nothing below /etc is written: what a site configures is the site's.
install: install-common install-plugin

install-plugin:
	$(MAKE) -C spank install PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)

# The package is pure Python: it is copied and compiled, without pip and without a network. It runs on
# the system's Python in isolated mode (cmeta-decide without `site`, which takes a tenth of its time);
# PyYAML (python3-yaml) is needed only where there is a cmeta.yaml.
install-common:
	install -d $(DESTDIR)$(LIBDIR) $(DESTDIR)$(BINDIR) $(DESTDIR)$(LUADIR)
	rm -rf $(DESTDIR)$(LIBDIR)/slurm_cmeta
	cp -R slurm_cmeta $(DESTDIR)$(LIBDIR)/
	find $(DESTDIR)$(LIBDIR) -name __pycache__ -prune -exec rm -rf {} +
	$(PYTHON) -m compileall -q -s '$(DESTDIR)' -p / $(DESTDIR)$(LIBDIR)
	script() { \
	  printf '#!%s %s\nimport sys\nsys.path.insert(0, "%s")\nfrom slurm_cmeta.cli.%s\n' \
	    "$$($(PYTHON) -c 'import sys; print(sys.executable)')" "$$2" '$(LIBDIR)' "$$3" > '$(DESTDIR)$(BINDIR)/'"$$1"; \
	  chmod 755 '$(DESTDIR)$(BINDIR)/'"$$1"; \
	}; \
	for name in $(COMMANDS); do script "$${name%:*}" -I "$${name#*:} import main; sys.exit(main())"; done; \
	script cmeta-decide -IS "decide import run; run()"
	$(PYTHON) -I '$(DESTDIR)$(LIBDIR)/slurm_cmeta/bundle.py' '$(DESTDIR)$(LIBDIR)' '$(LIBDIR)'
	sed -i 's|^from slurm_cmeta.cli|from slurm_cmeta.bundle import use\nuse("$(LIBDIR)")\n&|' '$(DESTDIR)$(BINDIR)/cmeta-decide'
	install -m 644 lua/cmeta.lua lua/cmeta_expression.lua lua/cmeta_log.lua lua/cmeta_nodes.lua $(DESTDIR)$(LUADIR)/
	install -d $(DESTDIR)$(BASHCOMPDIR) $(DESTDIR)$(ZSHCOMPDIR) $(DESTDIR)$(FISHCOMPDIR)
	completion() { PYTHONPATH=. PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m slurm_cmeta.cli.completion "$$@"; }; \
	for name in $(COMMANDS); do \
	  name=$${name%:*}; \
	  completion bash $$name > $(DESTDIR)$(BASHCOMPDIR)/$$name && \
	  completion zsh $$name > $(DESTDIR)$(ZSHCOMPDIR)/_$$name && \
	  completion fish $$name > $(DESTDIR)$(FISHCOMPDIR)/$$name.fish || exit 1; \
	done
	placed() { sed 's|/usr/local/bin|$(BINDIR)|g; s|/usr/local/share/slurm-cmeta|$(LUADIR)|g; s|/usr/local/share/slurm\\-cmeta|$(subst -,\\-,$(LUADIR))|g' "$$1" > "$$2/$${1##*/}"; }; \
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(DOCDIR)/examples/plugstack.conf.d $(DESTDIR)$(DOCDIR)/docs/schema; \
	for file in etc/systemd/*; do placed $$file $(DESTDIR)$(UNITDIR); done; \
	for file in lua/job_submit.lua etc/cmeta.yaml etc/oci.conf.example; do placed $$file $(DESTDIR)$(DOCDIR)/examples; done; \
	placed etc/plugstack.conf.d/cmeta.conf $(DESTDIR)$(DOCDIR)/examples/plugstack.conf.d; \
	for section in 1 5 8; do \
	  install -d $(DESTDIR)$(MANDIR)/man$$section; \
	  for file in docs/man/*.$$section; do placed $$file $(DESTDIR)$(MANDIR)/man$$section; done; \
	done
	install -m 644 README.md $(DESTDIR)$(DOCDIR)/
	install -m 644 docs/*.md $(DESTDIR)$(DOCDIR)/docs/
	install -m 644 docs/schema/*.json $(DESTDIR)$(DOCDIR)/docs/schema/

# A copy without what building and testing leave behind, so that packaging never writes into the checkout.
COPY = $(WORK)/slurm-cmeta-$(VERSION)
sources:
	rm -rf $(WORK)
	install -d $(COPY) $(DIST)
	cp -R $(SOURCES) $(COPY)/
	find $(WORK) -name __pycache__ -prune -exec rm -rf {} +
	rm -rf $(COPY)/spank/build

# Needs dpkg-dev, debhelper, dh-python and libslurm-dev: `apt-get build-dep ./` installs them.
deb: sources
	cd $(COPY) && dpkg-buildpackage --build=binary --no-sign $(DEBFLAGS)
	mv $(WORK)/*.deb $(DIST)/

# Needs rpm-build, gcc and slurm-devel; RPMFLAGS goes to rpmbuild.
rpm: sources
	tar -C $(WORK) -czf $(COPY).tar.gz slurm-cmeta-$(VERSION)
	release=$$($(MAKE) -s --no-print-directory -C spank slurm-version) && \
	rpmbuild -bb --define '_topdir $(abspath $(WORK))' --define '_sourcedir $(abspath $(WORK))' \
	  --define "slurm_release $$release" $(RPMFLAGS) packaging/slurm-cmeta.spec
	mv $(WORK)/RPMS/*/*.rpm $(DIST)/

# An option or key that is new, or has another --help, gets into docs/man by this; a test asks for it.
man:
	@python3 tests/tools/manpages.py
	@python3 tests/tools/reference.py

clean:
	rm -rf .build .demo dist spank/build
