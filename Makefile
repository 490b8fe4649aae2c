# Each target installs what it needs: Debian packages, then a virtual environment. A second run takes seconds.

PYTHON =
VENV = .venv
DEMO_VENV = .venv-demo
CLIENTS = .clients
PINS = packaging/requirements
PYTHONS = 3.11 3.12 3.13
# Of make deb and test-deb: bookworm, trixie or both.
SUITES =
# false: without the extension, with the canonicalisation in Python.
NATIVE = true
COVERAGE = --cov --cov-report=term
TESTS =
# no: leave out the tests that take seconds.
SLOW = yes
# yes or a seed: run the tests in random order. The first lines of a run name its seed.
SHUFFLE =
# Of make test-orders: one run for each.
SEEDS = 1 2 3 4 5
# Many tests wait, for a clock or another process: two at a time keep a core busy.
JOBS = $(shell expr 1 + $$(nproc))
SECONDS = 600
# The age of the newest versions that make pins takes.
DAYS = 7
# Keeps the roots, and the libraries for them.
KEPT = .machine
# A program with Kubernetes' API server and a kubelet, for make test-cluster.
KUBE =
RECORD =
# Where the files of a release are: a placeholder.
RELEASES = https://hwsigner.invalid
# What make test-macos runs, and how many of these tests pass at least.
MACOS = $(addprefix tests/,agent backends cli config http identity key monitoring pins refresh serving system)
MACOS_PASSED = 5900
# What a release publishes, and what checks it in clean roots: targets.
ARTIFACTS = wheels tpm-wheels formula deb rpm image
CHECKS = test-wheels test-again test-deb test-rpm test-image test-c test-orders

DEMO_PACKAGES = ca-certificates python3 python3-dev python3-venv gcc libc6-dev pkg-config libtss2-dev \
	softhsm2 swtpm swtpm-tools openssl awscli
PACKAGES = $(DEMO_PACKAGES) opensc tpm2-openssl cmake ninja-build libssl-dev opensc-pkcs11 gnutls-bin p11-kit \
	p11-kit-modules openssh-client curl pcscd vsmartcard-vpcd ykcs11 yubico-piv-tool libtpm2-pkcs11-1 libnss3 libnss3-tools \
	opencryptoki tpm2-tools tpm2-abrmd libtss2-tcti-tabrmd0 dbus-daemon dbus-bin libglib2.0-bin python3-dbus python3-gi \
	strace systemd wrk pinentry-curses pinentry-tty iproute2 kustomize libest-utils zsh fish man-db mandoc promtool logrotate
# Those of the packages that the system does not have.
LACKING =
MACHINE_PACKAGES = mmdebstrap qemu-system-x86 swtpm swtpm-tools e2fsprogs
CLIENT_PACKAGES = awscli golang-go golang-github-aws-aws-sdk-go-v2-dev libfaketime nodejs npm python3-apt rclone ruby ruby-aws-sdk-core

BIN = $(VENV)/bin
WHEELS_PYTHON = $(VENV)-wheels/bin/python
IS_MAC = $(filter Darwin,$(shell uname))
# Debian packages, unless PACKAGES is empty.
install = @$(if $(PACKAGES),.ci/packages $(1))
PIP = python -m pip --quiet --disable-pip-version-check
# hwsigner itself, with what .ci/environment installed.
THIS = --no-deps --no-build-isolation
EXTENSION = --config-settings=hwsigner.native=$(NATIVE)
IMPLEMENTATION = $(if $(filter false,$(NATIVE)),python,native)
# Tests and measurements do not see the caller's proxies, CA bundles, PYTHON* and AWS settings.
CLEAN = env -i PATH="$$PATH" HOME="$$HOME" LANG=C.UTF-8 $${CI:+CI="$$CI"} $${TERM:+TERM="$$TERM"} $${TMPDIR:+TMPDIR="$$TMPDIR"}
# The date of what is built: the caller's, if there is one. DATED: otherwise that of the last commit, or of the source
# distribution.
DATE = $${SOURCE_DATE_EPOCH:+SOURCE_DATE_EPOCH="$$SOURCE_DATE_EPOCH"}
DATED = $(CLEAN) SOURCE_DATE_EPOCH="$${SOURCE_DATE_EPOCH:-$$(if [ -e .git ]; then git log -1 --format=%ct; else stat --format=%Y pyproject.toml; fi)}"
SDIST = $(DATED) $(WHEELS_PYTHON) -m build --sdist --no-isolation --outdir build/sdist .

PYTEST = $(CLEAN) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ORDER)
# Name the canonicalisation that is tested, and fail if it is another one.
named = @$(CLEAN) $(BIN)/python -m hwsigner version --verbose | grep '^canonicalisation: $(IMPLEMENTATION) ' || \
	{ echo "The canonicalisation is not the $(IMPLEMENTATION) one; see $(BIN)/hwsigner version --verbose" >&2; exit 1; }
ORDER = $(if $(SHUFFLE),-p randomly $(if $(filter-out yes,$(SHUFFLE)),--randomly-seed=$(SHUFFLE)))

.PHONY: help demo check test test-macos test-all test-python test-clients test-orders test-c test-again test-debian test-machine demo-packages client-packages lint format sanitize test-foreign fuzz bench wheel wheels tpm-wheels test-wheels formula test-musl deb test-deb test-machine-deb rpm test-rpm image test-image test-step-ca test-cluster pins site test-site man release trial-aws trial-tpm trial-token tried setup packages clean

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 14

demo: $(DEMO_VENV)/.installed ## AWS credentials from keys in a file, a PKCS #11 token and a server's TPM, all emulated
	@$(CLEAN) $(DEMO_VENV)/bin/python -m softhsm.demo

check: setup ## Run the quick tests, which need no emulated hardware: a minute and a half on two cores
	$(named)
	$(PYTEST) -m 'not hardware and not slow and not process' --hypothesis-profile=check $(TESTS)

test: setup ## Run all tests, with coverage (TESTS=tests/test_uri.py runs some, SHUFFLE=yes in random order)
	$(named)
	$(PYTEST) $(COVERAGE) $(if $(filter no,$(SLOW)),-m 'not slow') $(TESTS)

test-macos: setup ## Run the tests of MACOS on Linux as if on macOS: without what macOS lacks, and without /proc, /sys and /run
	$(named)
	$(CLEAN) PYTHONPATH=tests $(BIN)/python tests/macos/run.py $(BIN)/python -m pytest -n $(JOBS) --dist worksteal \
		-m 'not slow' --hypothesis-profile=check --at-least=$(if $(TESTS),1,$(MACOS_PASSED)) $(or $(TESTS),$(MACOS))

test-orders: setup ## Run all tests in random orders (SEEDS="1 2 3 4 5"), then in their own beside four busy loops
	@set -e; for seed in $(SEEDS); do $(MAKE) --no-print-directory test SHUFFLE=$$seed COVERAGE=; done
	@for loop in 1 2 3 4; do timeout 3600 sh -c 'while :; do :; done' & loops="$$loops $$!"; done; \
	trap 'kill $$loops' EXIT; $(MAKE) --no-print-directory test COVERAGE=

test-all: packages ## Run the tests under each of Python 3.11, 3.12 and 3.13, the slow ones under the last
	@MAKE="$(MAKE)" .ci/test-all $(PYTHONS)

test-python: packages ## Run the tests without the extension, with the canonicalisation in Python, but for the slow ones
	@$(MAKE) --no-print-directory test VENV=.venv-python NATIVE=false SLOW=no COVERAGE=

# Some clients wait only a second for an endpoint.
test-clients: JOBS = $(shell nproc)
test-clients: setup $(CLIENTS)/python/.installed $(CLIENTS)/node/.installed $(CLIENTS)/caller ## Run the AWS CLIs, SDKs and rclone with each of hwsigner's outputs, the recipes and Django
	$(PYTEST) tests/clients --clients=$(CLIENTS)

# The release of Debian, who runs the tests in it, and the target that runs there, with its variables.
test-debian: SUITE = trixie
test-debian: AS = root user
# yes: the tests with emulated hardware, the slow ones too, instead of make check.
test-debian: HARDWARE =
test-debian: TARGET = $(if $(HARDWARE),test SLOW=no COVERAGE=,check)
test-debian: ## Run make check in a root of Debian as root, then as a user (SUITE=bookworm, trixie or sid; AS=root or user; HARDWARE=yes)
	@set -e; for user in $(AS); do TARGET="$(TARGET)" .ci/in-debian "$(SUITE)" "$$user" "$(if $(HARDWARE),-m hardware )$(TESTS)"; done

lint: setup ## Check style, format, and types, those for macOS too
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin hwsigner

format: setup ## Format the code and fix what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

sanitize: packages ## Check the C under AddressSanitizer and UndefinedBehaviorSanitizer
	native/tests/run sanitize

test-foreign: packages ## Run the C on a big-endian processor and one of 32 bits, under QEMU
	native/tests/run foreign

test-c: packages ## Look how much of the C its corpus covers, and whether the fuzzer finds a planted overflow
	native/tests/run coverage
	native/tests/run planted

fuzz: packages ## Fuzz the C (SECONDS=600)
	native/tests/run fuzz $(SECONDS)

test-machine: setup ## Test the wheel in a virtual machine with systemd and a kernel TPM
	$(call install,$(MACHINE_PACKAGES))
	$(MAKE) --no-print-directory wheel
	$(CLEAN) PYTHONPATH=packaging $(BIN)/python tests/machine/run.py $(KEPT) dist/*.whl

test-machine-deb: setup ## Test the Debian package in the same machine, after make deb
	$(call install,$(MACHINE_PACKAGES))
	rm -rf build/machine
	$(BIN)/$(PIP) wheel $(THIS) --wheel-dir build/machine $(EXTENSION) .
	$(CLEAN) PYTHONPATH=packaging $(BIN)/python tests/machine/run.py $(KEPT) build/machine/*.whl dist/hwsigner*~deb13_*.deb

bench: setup ## Measure start-up, outputs, keys, signing and serving
	@$(CLEAN) $(BIN)/python tests/bench/run.py

wheel: setup ## Build the wheel into dist/
	rm -rf dist
	$(BIN)/$(PIP) wheel $(THIS) --wheel-dir dist $(EXTENSION) .

wheels: $(VENV)-wheels/.installed ## Build the source distribution and wheels for Linux and macOS into dist/ (ARCHITECTURES="x86_64 aarch64 arm64")
	rm -rf dist
	$(CLEAN) $(DATE) $(WHEELS_PYTHON) packaging/wheels/build.py dist $(ARCHITECTURES)

tpm-wheels: $(VENV)-wheels/.installed ## Build wheels of tpm2-pytss, so that a TPM needs no compiler, into dist/
	$(call install,mmdebstrap patchelf)
	$(CLEAN) $(DATE) PYTHONPATH=packaging $(WHEELS_PYTHON) packaging/wheels/tpm2.py dist $(KEPT) $(ARCHITECTURES)

test-wheels: $(VENV)-wheels/.installed ## Install the wheels of make wheels tpm-wheels in bare Debian roots and run them; judge the one for macOS
	$(call install,mmdebstrap qemu-user)
	$(CLEAN) PYTHONPATH=packaging:. $(WHEELS_PYTHON) tests/wheels/run.py dist $(KEPT) $(ROOTS)
	$(CLEAN) PYTHONPATH=packaging $(WHEELS_PYTHON) tests/wheels/macos.py dist

test-again: $(VENV)-wheels/.installed ## Build the wheels of make wheels again, from the source distribution: the same bytes
	rm -rf build/again && mkdir -p build/again
	tar --extract --file dist/hwsigner-*[0-9].tar.gz --directory build/again
	$(CLEAN) $(DATE) $(WHEELS_PYTHON) build/again/hwsigner-*/packaging/wheels/build.py build/again/dist $(ARCHITECTURES)
	@set -e; for each in build/again/dist/*; do cmp "$$each" "dist/$${each##*/}"; done

formula: setup ## Write the Homebrew formula of the source distribution in dist/ there, and check it (RELEASES=https://…)
	$(call install,ruby rubocop)
	$(BIN)/python packaging/homebrew/formula.py dist/hwsigner-*[0-9].tar.gz $(RELEASES) >dist/hwsigner.rb
	$(CLEAN) $(BIN)/python tests/homebrew/run.py dist/hwsigner.rb $(BIN)

# A root needs room, and devices that can be opened. Debian 13's /tmp is memory, without devices.
deb test-deb rpm test-rpm test-machine test-machine-deb tpm-wheels release: export TMPDIR := $(or $(TMPDIR),/var/tmp)

# A package and an image have the date of the last commit.
deb: $(VENV)-wheels/.installed ## Build Debian packages for Debian 12 and 13 into dist/ (SUITES=trixie)
	$(call install,mmdebstrap)
	rm -rf build/sdist dist/*.deb
	mkdir -p dist
	$(SDIST)
	$(DATED) $(WHEELS_PYTHON) packaging/debian_packages.py build/sdist/*.tar.gz dist $(KEPT) $(SUITES)

test-deb: $(VENV)-wheels/.installed ## Install, use, upgrade and purge the packages of make deb in bare Debian roots
	$(call install,mmdebstrap systemd-container)
	$(CLEAN) PYTHONPATH=packaging:tests $(WHEELS_PYTHON) tests/debian/run.py dist $(KEPT) $(SUITES)

rpm: $(VENV)-wheels/.installed ## Build the source RPM for Fedora and RHEL into dist/, and RPMs from it on Debian into build/rpm
	$(call install,mmdebstrap)
	rm -rf build/sdist build/rpm dist/*.rpm
	mkdir -p dist build/rpm
	$(SDIST)
	$(DATED) $(WHEELS_PYTHON) packaging/rpm_packages.py build/sdist/*.tar.gz dist build/rpm $(KEPT)

test-rpm: $(VENV)-wheels/.installed ## Install, use, upgrade and erase the RPMs of make rpm in bare Debian roots
	$(call install,mmdebstrap systemd-container)
	$(CLEAN) PYTHONPATH=packaging:tests $(WHEELS_PYTHON) tests/rpm/run.py dist build/rpm $(KEPT)

test-musl: $(VENV)-wheels/.installed ## Run the wheel for musl of make wheels in a Python that is compiled for it: two minutes at first
	$(call install,musl-tools autoconf automake libtool libltdl-dev xz-utils)
	tests/wheels/musl dist $(KEPT)/musl

# Another machine's Python builds tpm2-pytss, so the image's Debian must be this machine's.
image: ## Build the container images from the wheels of make wheels into dist/, as root on Debian 13
	$(call install,mmdebstrap $(DEMO_PACKAGES))
	$(DATED) PYTHONPATH=packaging /usr/bin/python3 packaging/image/build.py dist $(KEPT)/image

test-image: setup ## Run the images of make image, and the manifests for Kubernetes, under podman
	$(call install,podman runc catatonit p11-kit softhsm2 swtpm swtpm-tools)
	$(CLEAN) PYTHONPATH=.:tests $(BIN)/python tests/image/run.py dist $(KEPT)/image

test-step-ca: setup ## Have step-ca issue certificates as a page says; builds it from Debian's sources in four minutes at first
	$(call install,golang-go golang-github-smallstep-certificates-dev)
	mkdir -p build
	GO111MODULE=off GOPATH=/usr/share/gocode go build -o build/step-ca tests/step_ca/main.go
	$(CLEAN) PYTHONPATH=tests $(BIN)/python tests/step_ca/run.py build/step-ca

# KUBE: such a program as CONTRIBUTING.md says. RECORD=yes: record the answers of its API server for the other tests.
test-cluster: setup ## Test with a real API server and kubelet, as root (KUBE=/path/to/program, RECORD=yes records its answers)
	@[ -x "$(KUBE)" ] && [ "$$(id -u)" = 0 ] || { echo "Run make test-cluster KUBE=PATH as root; CONTRIBUTING.md says what PATH is" >&2; exit 1; }
	$(call install,etcd-server kubernetes-client iproute2)
	$(CLEAN) $(BIN)/python -m pytest $(or $(TESTS),tests/cluster) --kube="$(KUBE)" $(if $(RECORD),--record)

site: $(VENV)-site/.installed ## Build the documentation's site into build/site
	$(CLEAN) PYTHONPATH=. $(VENV)-site/bin/python packaging/site/build_site.py build/site
	@echo "Open build/site/index.html"

test-site: setup site ## Look at the site in headless Chromium: search, narrow screens, light and dark
	$(call install,chromium)
	$(CLEAN) $(BIN)/python -m pytest -q tests/site/browser.py

pins: ## Pin what the other targets install by hash, in versions that are a week old (DAYS=7), with uv and npm
	DAYS="$(DAYS)" packaging/pins

man: setup ## Write the man pages into build/man
	rm -rf build/man
	$(CLEAN) $(DATE) $(BIN)/python packaging/man_pages.py build/man

release: setup $(VENV)-wheels/.installed ## Build a release into dist/ and check it in new environments and clean roots
	ARTIFACTS="$(ARTIFACTS)" CHECKS="$(CHECKS)" packaging/release

# Not $(CLEAN): the SDKs' and the TPM's variables say which account and which TPM.
trial-aws: $(VENV)-trial-aws/.installed ## Try what hwsigner assumes of AWS, in a sandbox account; asks first (ARGS=--help)
	@PYTHONPATH=tests $(VENV)-trial-aws/bin/python -m trial_aws $(ARGS)

trial-tpm: setup ## Try this machine's TPM, without changing it (ARGS=--help)
	@$(BIN)/python -m hwsigner.trial tpm $(ARGS)

trial-token: $(if $(IS_MAC),$(VENV)-trial/.installed,setup) ## Try a PKCS #11 module and its tokens: only reads (MODULE=/path/to/module.so, ARGS=--help)
	@$(if $(IS_MAC),$(VENV)-trial/bin,$(BIN))/python -m hwsigner.trial token $(MODULE) $(ARGS)

tried: setup ## Add a report of a field trial (REPORT=FILE), and write what README and the pages say was tried
	@$(CLEAN) $(BIN)/python packaging/tried.py $(REPORT)

setup: packages $(VENV)/.built ## Install what the other targets need, and nothing else

packages:
	@[ -e $(VENV)/.installed ] || echo "This takes two to fifteen minutes: Debian packages, up to 850 MB, and 750 MB in $(VENV)"
	$(call install,$(filter-out $(LACKING),$(PACKAGES)))

demo-packages:
	@[ -e $(DEMO_VENV)/.installed ] || echo "This takes one to ten minutes: Debian packages, up to 650 MB, and 80 MB in $(DEMO_VENV)"
	$(call install,$(DEMO_PACKAGES))

client-packages:
	$(call install,$(CLIENT_PACKAGES))

$(CLIENTS)/python/.installed: $(PINS)/clients.txt | $(VENV)/.installed client-packages
	@.ci/environment $(@D) $(BIN)/python clients
	@touch $@

$(CLIENTS)/node/.installed: tests/clients/package.json tests/clients/package-lock.json | client-packages
	@mkdir -p $(@D)
	cp $^ $(@D)
	npm ci --ignore-scripts --loglevel=error --no-audit --no-fund --fetch-timeout=30000 --fetch-retries=5 --prefix $(@D) >/dev/null
	@touch $@

# Debian packages the sources of Go modules as a GOPATH.
$(CLIENTS)/caller: tests/clients/caller.go | client-packages
	CGO_ENABLED=0 GO111MODULE=off GOFLAGS= GOPATH=/usr/share/gocode GOCACHE="$(CURDIR)/$(CLIENTS)/go" go build -o $@ $<

$(VENV)/.installed: pyproject.toml $(PINS)/build.txt $(PINS)/dev.txt | packages
	@.ci/environment $(@D) "$(PYTHON)" build dev
	@touch $@

$(VENV)-wheels/.installed: $(PINS)/build.txt $(PINS)/release.txt | packages
	@.ci/environment $(@D) "$(PYTHON)" build release
	@touch $@

# Without packages of the system: a trial of AWS, and on a Mac one of a token, runs from the sources and needs no more
# than hwsigner's libraries, and boto3.
$(VENV)-trial/.installed: $(PINS)/base.txt
$(VENV)-trial-aws/.installed: $(PINS)/trial.txt
$(VENV)-trial/.installed $(VENV)-trial-aws/.installed:
	"$(or $(PYTHON),$$(.ci/find-python))" -m venv --clear $(@D)
	$(@D)/bin/$(PIP) install --require-hashes --no-deps --only-binary :all: --requirement $<
	$(@D)/bin/$(PIP) check
	@touch $@

# Without the extension, what only tests need, and what built it.
$(DEMO_VENV)/.installed: pyproject.toml $(PINS)/build.txt $(PINS)/demo.txt | demo-packages
	@.ci/environment $(@D) "$(PYTHON)" build demo
	$(@D)/bin/$(PIP) install $(THIS) --editable . --config-settings=hwsigner.native=false
	$(@D)/bin/$(PIP) uninstall --yes pathspec pkgconfig scikit-build-core setuptools setuptools-scm vcs-versioning
	@touch $@

$(VENV)-site/.installed: $(PINS)/site.txt
	$(call install,ca-certificates python3 python3-dev python3-venv)
	@.ci/environment $(@D) "$(PYTHON)" site
	@touch $@

# The extension is built into the virtual environment, not among the sources: each environment has its own, or none.
$(VENV)/.built: $(VENV)/.installed native/CMakeLists.txt $(wildcard native/*.[ch])
	$(BIN)/$(PIP) install $(THIS) --editable . --force-reinstall $(EXTENSION)
	@touch $@

clean: ## Remove virtual environments, builds and caches
	rm -rf .venv .venv-* .clients .machine build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find hwsigner softhsm tests -name __pycache__ -type d -exec rm -rf {} +
